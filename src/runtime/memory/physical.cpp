#include "runtime/memory/physical.h"

#include <algorithm>

namespace ring3 {

namespace {

// The largest bus access that starts at `address`, is aligned to its own size and stays within `size`.
unsigned part_size(u64 address, u32 size) {
  unsigned part = 8;
  while (part > size || address % part != 0) part /= 2;
  return part;
}

}  // namespace

void PhysicalMemory::read(u64 address, void* out, u32 size) {
  u8* to = static_cast<u8*>(out);
  while (size != 0) {
    u32 count = 0;
    if (is_ram(address)) {
      count = static_cast<u32>(std::min<u64>(size, ram_.size() - address));
      std::memcpy(to, ram_.at({address}), count);
    } else {
      count = part_size(address, size);
      bus_.note_access();
      const u64 value = bus_.mmio_read({address}, count);
      std::memcpy(to, &value, count);
    }
    address += count;
    to += count;
    size -= count;
  }
}

void PhysicalMemory::write(u64 address, const void* in, u32 size) {
  const u8* from = static_cast<const u8*>(in);
  while (size != 0) {
    u32 count = 0;
    if (is_ram(address)) {
      count = std::min<u32>(size, page_size - static_cast<u32>(address & page_mask));
      std::memcpy(ram_.at({address}), from, count);
      if (watcher_ != nullptr && is_code(address)) watcher_->code_written({address}, count);
    } else {
      count = part_size(address, size);
      u64 value = 0;
      std::memcpy(&value, from, count);
      bus_.note_access();
      bus_.mmio_write({address}, count, value);
    }
    address += count;
    from += count;
    size -= count;
  }
}

}  // namespace ring3
