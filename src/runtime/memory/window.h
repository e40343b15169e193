// The window of one context: pages of its linear address space mapped for real, so that emitted code reaches them with one instruction
// (translator/contract.h). SoftTables decides what is mapped: a page is, at most as its table entry allows.
#pragma once

#include "base/mapping.h"
#include "base/types.h"
#include "guest/address.h"

#include <utility>

namespace ring3 {

class GuestRam;

class Window {
 public:
  enum class Rights : u8 { none, read, write };

  // The window's 4 GiB lie at `offset` of `owner`, inaccessible. Throws UserError when the host has no address space left.
  Window(const Mapping& owner, u64 offset, const GuestRam& ram);
  ~Window() { clear(); }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  [[nodiscard]] Rights rights(u32 page) const { return rights_[page]; }
  // Maps linear pages [first, first + count) to RAM from physical `ram_page` on. False: the host refuses; what was mapped there stays.
  [[nodiscard]] bool map(u32 first, u32 count, u64 ram_page, Rights rights);
  // A writable page becomes read-only.
  void write_protect(u32 page);
  // [first, first + count), all of them mapped, become inaccessible.
  void unmap(u32 first, u32 count);
  void clear();

  // At most so many mappings of the host does it take now.
  [[nodiscard]] u32 pieces() const { return pieces_; }
  // How often something was taken back since the last time this was asked.
  [[nodiscard]] u32 take_losses() { return std::exchange(losses_, 0); }

 private:
  [[nodiscard]] u64 at(u32 page) const { return offset_ + (u64{page} << page_shift); }

  const Mapping& owner_;
  u64 offset_;
  const GuestRam& ram_;
  Mapping rights_mapping_;
  Rights* rights_;  // per linear page; sparse
  u32 pieces_ = 0;
  u32 losses_ = 0;
};

}  // namespace ring3
