// Guest physical memory: RAM, the bus beyond it, and the record of which RAM pages hold translated code.
#pragma once

#include "base/types.h"
#include "devices/bus.h"
#include "guest/address.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"

#include <cstring>
#include <vector>

namespace ring3 {

class PhysicalMemory {
 public:
  PhysicalMemory(GuestRam& ram, Bus& bus) : ram_(ram), bus_(bus), code_pages_((ram.size() >> page_shift) / 64 + 1) {}

  void set_watcher(CodeWatcher* watcher) { watcher_ = watcher; }
  [[nodiscard]] CodeWatcher* watcher() const { return watcher_; }
  [[nodiscard]] GuestRam& ram() const { return ram_; }

  // The page of `address` is RAM. (RAM ends at a page boundary, so one byte decides for the page.)
  [[nodiscard]] bool is_ram(u64 address) const { return address < ram_.size(); }

  // Any size and alignment; what lies outside RAM is asked from the bus in aligned parts of 1, 2, 4 or 8 bytes. Addresses wrap at 2^64.
  void read(u64 address, void* out, u32 size);
  // Stores first, then tells the watcher about bytes on code pages.
  void write(u64 address, const void* in, u32 size);

  // Reads one little-endian page-table entry (T is u32 or u64), aligned.
  template <typename T>
  [[nodiscard]] T read_entry(u64 address) {
    if (!is_ram(address)) return static_cast<T>(bus_.mmio_read({address}, sizeof(T)));
    T value;
    std::memcpy(&value, ram_.at({address}), sizeof(T));
    return value;
  }
  // Sets flags of the entry's low byte (A and D), atomically: other processors may change the entry's other flags meanwhile.
  template <typename T>
  void set_entry_flags(u64 address, T entry, u8 flags) {
    if (!is_ram(address)) {
      bus_.mmio_write({address}, sizeof(T), entry | flags);
      return;
    }
    __atomic_fetch_or(ram_.at({address}), flags, __ATOMIC_SEQ_CST);
    if (is_code(address) && watcher_ != nullptr) watcher_->code_written({address}, 1);
  }

  // False outside RAM.
  [[nodiscard]] bool is_code(u64 address) const {
    if (!is_ram(address)) return false;
    const u64 page = address >> page_shift;
    return ((code_pages_[page / 64] >> (page % 64)) & 1) != 0;
  }
  // `address` is in RAM.
  void set_code(u64 address, bool code) {
    const u64 page = address >> page_shift;
    const u64 bit = u64{1} << (page % 64);
    if (code)
      code_pages_[page / 64] |= bit;
    else
      code_pages_[page / 64] &= ~bit;
  }

 private:
  GuestRam& ram_;
  Bus& bus_;
  CodeWatcher* watcher_ = nullptr;
  std::vector<u64> code_pages_;  // one bit per RAM page
};

}  // namespace ring3
