// Accesses through segment registers: the checks of SDM vol. 3, 5.3 (limits), 5.5 and 5.4.1 (types, NULL) and 6.15 (#AC).
#include "runtime/system/segmented.h"

#include "runtime/vcpu.h"

namespace ring3 {
namespace {

// Present expand-up writable data, flat: nothing to check for any kind of data access.
bool unchecked(const SegmentCache& c) { return (c.attributes & 0x9Eu) == 0x92u && c.limit == 0xFFFFFFFF && c.base == 0; }

bool allows(const SegmentCache& c, Access access) {
  if (!c.usable() || !c.is_code_or_data()) return false;
  switch (access) {
    case Access::read: return c.readable();
    case Access::write: return c.writable();
    case Access::execute: return true;
  }
  return false;
}

// Alignment that #AC asks for (SDM vol. 3, table 6-7) of one access of `size` bytes: powers of two up to 8 align to themselves, ten-byte
// reals to 8, the six bytes of GDTR or IDTR to 4. Sixteen bytes are never asked for: where they must be aligned it is #GP, and MOVUPS and
// its like may be anywhere. Larger operands, which come in pieces, are checked as a whole by `check_alignment`.
u32 required_alignment(unsigned size) {
  switch (size) {
    case 2:
    case 4:
    case 8: return size;
    case 6: return 4;
    case 10: return 8;
    default: return 1;
  }
}

bool checks_alignment(const CpuState& s) { return s.cpl == 3 && (s.eflags & flag::ac) != 0 && (s.cr0 & cr0::am) != 0; }

bool alignment_fault(Vcpu& v) {
  v.raise(Vector::alignment, 0);
  return false;
}

}  // namespace

bool misaligned(const CpuState& s, u32 linear, unsigned size) {
  return checks_alignment(s) && (linear & (required_alignment(size) - 1)) != 0;
}

bool Vcpu::linear_address(Seg segment, u32 offset, unsigned size, Access access, u32& linear) {
  const SegmentCache& c = s.segment(segment);
  linear = c.base + offset;
  if (unchecked(c) && access != Access::execute) [[likely]]
    return true;
  if (allows(c, access) && within_limit(c, offset, size)) return true;
  raise(segment == Seg::ss ? Vector::stack : Vector::general_protection, 0);
  return false;
}

bool Vcpu::check_alignment(Seg segment, u32 offset, unsigned alignment) {
  const u32 linear = s.segment(segment).base + offset;
  return !checks_alignment(s) || (linear & (alignment - 1)) == 0 || alignment_fault(*this);
}

bool Vcpu::load_bytes(Seg segment, u32 offset, void* out, unsigned size) {
  u32 linear = 0;
  if (!linear_address(segment, offset, size, Access::read, linear)) return false;
  if (misaligned(s, linear, size)) [[unlikely]]
    return alignment_fault(*this);
  return mem.read(linear, out, size, s.cpl == 3, fault);
}

bool Vcpu::store_bytes(Seg segment, u32 offset, const void* in, unsigned size) {
  u32 linear = 0;
  if (!linear_address(segment, offset, size, Access::write, linear)) return false;
  if (misaligned(s, linear, size)) [[unlikely]]
    return alignment_fault(*this);
  return mem.write(linear, in, size, s.cpl == 3, fault);
}

bool Vcpu::probe_store(Seg segment, u32 offset, unsigned size) {
  u32 linear = 0;
  if (!linear_address(segment, offset, size, Access::write, linear)) return false;
  if (misaligned(s, linear, size)) [[unlikely]]
    return alignment_fault(*this);
  return mem.probe_write(linear, size, s.cpl == 3, fault);
}

}  // namespace ring3
