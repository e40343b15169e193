#include "runtime/system/far_return.h"

#include "runtime/system/segment_load.h"

namespace ring3 {

bool fetch_return_segment(Vcpu& v, u16 selector, Descriptor& d) {
  if (is_null(selector)) return refuse(v, Vector::general_protection, 0);
  const u32 error = selector_error(selector);
  if (!fetch_descriptor(v, selector, Vector::general_protection, 0, d)) return false;
  const bool level_fits = d.is_conforming() ? d.dpl() <= rpl(selector) : d.dpl() == rpl(selector);
  if (!d.is_code() || rpl(selector) < v.s.cpl || !level_fits) return refuse(v, Vector::general_protection, error);
  return d.present() || refuse(v, Vector::not_present, error);
}

bool peek_stack(Vcpu& v, u32 offset, unsigned size, u32& out) {
  const u32 mask = v.s.segment(Seg::ss).big() ? ~0u : 0xFFFFu;
  out = 0;
  return v.load_bytes(Seg::ss, (v.s.gpr[esp] + offset) & mask, &out, size);
}

void enter_outer_ring(Vcpu& v, const SegmentCache& cs, u32 new_eip, const SegmentCache& ss, u32 new_esp) {
  v.s.segment(Seg::cs) = cs;
  v.s.cpl = static_cast<u8>(rpl(cs.selector));
  v.s.eip = new_eip;
  v.s.segment(Seg::ss) = ss;
  v.set_stack_pointer(new_esp);
  drop_inner_segments(v.s);
}

}  // namespace ring3
