#include "runtime/system/descriptor.h"

namespace ring3 {

bool inside_table(const CpuState& s, u16 selector) {
  const u32 last = selector | 7u;
  if ((selector & 4u) == 0) return last <= s.gdtr.limit;
  return s.ldtr.usable() && last <= s.ldtr.limit;
}

bool read_descriptor(Vcpu& v, u16 selector, Descriptor& out) {
  const u32 table = (selector & 4u) == 0 ? v.s.gdtr.base : v.s.ldtr.base;
  u64 bytes = 0;
  const u32 address = table + (selector & 0xFFF8u);
  if (!v.load_system(address, &bytes, 8)) return false;
  out = {static_cast<u32>(bytes), static_cast<u32>(bytes >> 32), address};
  return true;
}

bool fetch_descriptor(Vcpu& v, u16 selector, Vector vector, u32 ext, Descriptor& out) {
  if (!inside_table(v.s, selector)) return refuse(v, vector, selector_error(selector, ext));
  return read_descriptor(v, selector, out);
}

bool check_new_tss(Vcpu& v, u16 selector, bool busy, Vector vector, u32 ext) {
  const u32 error = selector_error(selector, ext);
  if (is_null(selector) || (selector & 4u) != 0) return refuse(v, vector, error);
  Descriptor d;
  if (!fetch_descriptor(v, selector, vector, ext, d)) return false;
  const bool wide = d.type() == (busy ? system_type::tss32_busy : system_type::tss32);
  const bool narrow = d.type() == (busy ? system_type::tss16_busy : system_type::tss16);
  if (!d.is_system() || !(wide || narrow)) return refuse(v, vector, error);
  if (!d.present()) return refuse(v, Vector::not_present, error);
  const u32 last_byte = wide ? 0x67 : 0x2B;
  return d.limit() >= last_byte || refuse(v, Vector::invalid_tss, error);
}

bool mark_accessed(Vcpu& v, Descriptor& d) {
  if ((d.high & 0x100u) != 0) return true;
  const u8 rights = static_cast<u8>((d.high >> 8) | 1u);
  if (!v.store_system(d.address + 5, &rights, 1)) return false;
  d.high |= 0x100u;
  return true;
}

}  // namespace ring3
