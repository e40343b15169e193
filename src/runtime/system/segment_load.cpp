#include "runtime/system/segment_load.h"

#include "runtime/system/descriptor.h"

namespace ring3 {
namespace {

bool check_stack(Vcpu& v, u16 selector, const Descriptor& d) {
  const bool right = rpl(selector) == v.s.cpl && d.is_writable_data() && d.dpl() == v.s.cpl;
  if (!right) return refuse(v, Vector::general_protection, selector_error(selector));
  return d.present() || refuse(v, Vector::stack, selector_error(selector));
}

bool check_data(Vcpu& v, u16 selector, const Descriptor& d) {
  const bool privileged = !d.is_conforming() && (rpl(selector) > d.dpl() || v.s.cpl > d.dpl());
  if (!d.is_readable() || privileged) return refuse(v, Vector::general_protection, selector_error(selector));
  return d.present() || refuse(v, Vector::not_present, selector_error(selector));
}

}  // namespace

bool load_segment(Vcpu& v, Seg segment, u16 selector) {
  if (is_null(selector)) {
    if (segment == Seg::ss) return refuse(v, Vector::general_protection, 0);
    v.s.segment(segment) = {selector, 0, 0, 0};
    return true;
  }
  Descriptor d;
  if (!fetch_descriptor(v, selector, Vector::general_protection, 0, d)) return false;
  if (!(segment == Seg::ss ? check_stack(v, selector, d) : check_data(v, selector, d))) return false;
  if (!mark_accessed(v, d)) return false;
  v.s.segment(segment) = d.cache(selector);
  return true;
}

void drop_inner_segments(CpuState& s) {
  for (const Seg segment : {Seg::es, Seg::fs, Seg::gs, Seg::ds}) {
    SegmentCache& c = s.segment(segment);
    if (!c.usable() || (!c.conforming() && s.cpl > c.dpl())) c = {};
  }
}

}  // namespace ring3
