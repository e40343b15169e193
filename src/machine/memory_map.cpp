#include "machine/memory_map.h"

#include "base/error.h"
#include "base/size.h"

#include <fmt/format.h>
#include <algorithm>

namespace ring3 {

std::vector<MemoryRange> memory_map(u64 ram_bytes) {
  using namespace low_memory;
  return {
      {0, ebda, RangeType::usable},
      {ebda, video_hole - ebda, RangeType::reserved},
      {firmware, extended - firmware, RangeType::reserved},
      {extended, ram_bytes - extended, RangeType::usable},
  };
}

Placement::Placement(u64 ram_bytes) : ram_bytes_(ram_bytes) {
  using namespace low_memory;
  taken_ = {
      {0, first_free, "the interrupt vectors and the BIOS data area"},
      {ebda, extended, "the video and firmware area"},
      {ram_bytes, u64{1} << 32, "the end of memory"},
  };
}

void Placement::claim(u64 base, u64 size, const std::string& what) {
  if (size == 0) return;
  const bool wraps = size > (u64{1} << 32) || base > (u64{1} << 32) - size;
  if (wraps || base + size > maximum_ram)
    throw UserError(fmt::format("{}: starts at {:#x} and reaches beyond the {} that a guest can have; link it lower", what, base,
                                format_size(maximum_ram)));
  if (base + size > ram_bytes_)
    throw UserError(
        fmt::format("{}: needs memory up to {:#x}, but there are {}; raise --memory", what, base + size, format_size(ram_bytes_)));
  const auto next = std::find_if(taken_.begin(), taken_.end(), [&](const Taken& t) { return t.end > base; });
  if (next != taken_.end() && next->base < base + size)
    throw UserError(fmt::format("{}: would lie at {:#x}..{:#x}, over {}; link it elsewhere (from 1 MiB up is free)", what, base,
                                base + size - 1, next->what));
  taken_.insert(next, {base, base + size, what});
}

std::vector<MemoryRange> Placement::gaps(u64 from, u64 to) const {
  std::vector<MemoryRange> out;
  u64 at = from;
  for (const Taken& t : taken_) {
    const u64 end = std::min(t.base, to);
    if (end > at) out.push_back({at, end - at});
    at = std::max(at, t.end);
  }
  if (to > at) out.push_back({at, to - at});
  return out;
}

// More memory lies above all that there is: it helps where the search went that far.
void Placement::no_place(u64 size, u64 to, const std::string& what) const {
  if (to >= ram_bytes_)
    throw UserError(fmt::format("{}: its {} do not fit into the guest's {} beside the rest; raise --memory", what, format_size(size),
                                format_size(ram_bytes_)));
  throw UserError(fmt::format("{}: its {} do not fit below {:#x} beside the kernel; make one of them smaller, or link the kernel elsewhere",
                              what, format_size(size), to));
}

u32 Placement::take_low(u64 size, u64 from, u64 to, u64 align, const std::string& what) {
  for (const MemoryRange& gap : gaps(from, to)) {
    const u64 base = (gap.base + align - 1) & ~(align - 1);
    if (base < gap.end() && size <= gap.end() - base) {
      claim(base, size, what);
      return static_cast<u32>(base);
    }
  }
  no_place(size, to, what);
}

u32 Placement::take_high(u64 size, u64 from, u64 to, u64 align, const std::string& what) {
  const std::vector<MemoryRange> free = gaps(from, to);
  for (auto gap = free.rbegin(); gap != free.rend(); ++gap) {
    if (size > gap->size) continue;
    const u64 base = (gap->end() - size) & ~(align - 1);
    if (base >= gap->base) {
      claim(base, size, what);
      return static_cast<u32>(base);
    }
  }
  no_place(size, to, what);
}

}  // namespace ring3
