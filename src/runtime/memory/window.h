// The window of one context: pages of its linear address space mapped for real, so that emitted code reaches them with one instruction
// (translator/contract.h). SoftTables decides what is mapped: a page is, at most as its table entry allows.
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"

#include <array>
#include <utility>

namespace ring3 {

class GuestRam;

// What all windows together may take of the host's mappings (vm.max_map_count is 65,530): taking a page back can split one, and must not
// fail. `pieces` is at most `most` and what one call adds.
struct WindowBudget {
  static constexpr u32 most = 32768;
  u32 pieces = 0;
  u64 emptied = 0;  // windows, because of it
};

class Window {
 public:
  enum class Rights : u8 { none, read, write };

  // The window's 4 GiB, inaccessible, lie at `offset` of `owner`, but for what is before `first_page`, which is never mapped. Throws
  // UserError when the host has no address space left.
  Window(const Mapping& owner, u64 offset, u32 first_page, const GuestRam& ram, WindowBudget& budget);
  ~Window() { clear(); }  // NOLINT(bugprone-exception-escape): a page that stays mapped ends the process, wherever it is found
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  // Host address of linear address 0.
  [[nodiscard]] u64 base() const { return reinterpret_cast<u64>(owner_.data()) + offset_; }
  [[nodiscard]] u32 first_page() const { return first_page_; }
  [[nodiscard]] Rights rights(u32 page) const { return rights_[page]; }
  // Maps linear pages [first, first + count) to RAM from physical `ram_page` on. False: the host refuses; what was mapped there stays.
  [[nodiscard]] bool map(u32 first, u32 count, u64 ram_page, Rights rights);
  // A writable page becomes read-only, or all become inaccessible.
  void write_protect(u32 page);
  // [first, first + count), all of them mapped, become inaccessible, and perhaps all.
  void unmap(u32 first, u32 count);
  void clear();
  // Host pages in use: what mapped pages need of the host's page tables, and the rights.
  [[nodiscard]] u32 touched() const { return touched_; }
  // How often something was taken back since the last time this was asked.
  [[nodiscard]] u32 take_losses() { return std::exchange(losses_, 0); }

 private:
  // Two more pieces. False: that was too much, and nothing is mapped any more.
  bool split();
  void take_pieces(u32 count) {
    pieces_ += count;
    budget_.pieces += count;
  }
  [[nodiscard]] u64 at(u32 page) const { return offset_ + (u64{page} << page_shift); }

  const Mapping& owner_;
  u64 offset_;
  u32 first_page_;
  const GuestRam& ram_;
  WindowBudget& budget_;
  Mapping rights_mapping_;
  Rights* rights_;                                          // per linear page; sparse
  static constexpr u32 unit = 512;                          // pages that one page table of the host covers
  std::array<u64, linear_page_count / unit / 64> units_{};  // a bit for each in which something was mapped
  u32 touched_ = 0;
  u32 pieces_ = 0;  // mappings of the host, at most
  u32 losses_ = 0;
};

}  // namespace ring3
