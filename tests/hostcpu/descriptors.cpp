#include "descriptors.h"

namespace ring3::hostcpu {

u64 make_descriptor(const SegmentSpec& spec) {
  u64 d = 0;
  d |= spec.limit & 0xFFFFu;
  d |= u64{spec.limit >> 16 & 0xFu} << 48;
  d |= u64{spec.base & 0xFFFFFFu} << 16;
  d |= u64{spec.base >> 24} << 56;
  d |= u64{spec.type} << 40;
  d |= u64{0x70u | (spec.present ? 0x80u : 0u)} << 40;  // S, DPL 3
  d |= u64{spec.big} << 54;
  d |= u64{spec.pages} << 55;
  return d;
}

const std::array<u64, gdt_entries>& linux_gdt() {
  static constexpr std::array<u64, gdt_entries> table{
      0,
      0x00CF9B000000FFFF,  // kernel code, 32-bit
      0x00AF9B000000FFFF,  // kernel code, 64-bit
      0x00CF93000000FFFF,  // kernel data
      0x00CFFB000000FFFF,  // user code, 32-bit
      0x00CFF3000000FFFF,  // user data
      0x00AFFB000000FFFF,  // user code, 64-bit
      0,
      0x00008B0000000067,  // busy TSS
      0,
      0x0000820000000067,  // LDT
      0,
      0,
      0,
      0,
      0x0040F50000000000,
  };
  return table;
}

SegmentCache cache_of(const Ldt& ldt, u16 selector) {
  if ((selector & 0xFFFCu) == 0) return {selector, 0, 0, 0};
  const u32 index = selector >> 3;
  const bool local = (selector & 4u) != 0;
  if (index >= (local ? ldt_entries : gdt_entries)) return {selector, 0, 0, 0};
  const u64 d = local ? ldt[index] : linux_gdt()[index];
  SegmentCache c;
  c.selector = selector;
  c.attributes = static_cast<u16>(d >> 40 & 0xF0FFu);
  c.base = static_cast<u32>((d >> 16 & 0xFFFFFFu) | (d >> 56 << 24));
  c.limit = static_cast<u32>((d & 0xFFFFu) | (d >> 32 & 0xF0000u));
  if ((d >> 55 & 1u) != 0) c.limit = c.limit << 12 | 0xFFFu;
  return c;
}

bool inside_limit(const SegmentCache& segment, u32 offset, u32 size) {
  const u64 last = u64{offset} + size - 1;
  if (!segment.expand_down()) return last <= segment.limit;
  return offset > segment.limit && last <= (segment.big() ? 0xFFFFFFFFu : 0xFFFFu);
}

}  // namespace ring3::hostcpu
