#include "runtime/system/stack_switch.h"

#include "runtime/system/segmented.h"

namespace ring3 {
namespace {

// SS:ESP of a ring from the 32-bit or 16-bit TSS (SDM vol. 3, 7.2.1 and 7.6).
bool read_tss_stack(Vcpu& v, u32 level, u32 ext, u16& selector, u32& pointer) {
  const SegmentCache& tr = v.s.tr;
  const bool wide = (tr.type() & 8u) != 0;
  const u32 address = wide ? level * 8 + 4 : level * 4 + 2;
  const u32 last = address + (wide ? 5 : 3);
  if (last > tr.limit) return refuse(v, Vector::invalid_tss, selector_error(tr.selector, ext));
  pointer = 0;
  const unsigned width = wide ? 4 : 2;
  return v.load_system(tr.base + address, &pointer, width) && v.load_system(tr.base + address + width, &selector, 2);
}

u32 pointer_mask(const SegmentCache& ss) { return ss.big() ? ~0u : 0xFFFFu; }

}  // namespace

PendingStack PendingStack::current(const Vcpu& v, u32 ext) {
  PendingStack p;
  p.ss_ = v.s.segment(Seg::ss);
  p.pointer_ = v.s.gpr[esp];
  p.error_code_ = ext;
  p.ext_ = ext;
  p.user_ = v.s.cpl == 3;
  return p;
}

bool PendingStack::inner(Vcpu& v, u32 level, u32 ext, PendingStack& out) {
  u16 selector = 0;
  u32 pointer = 0;
  if (!read_tss_stack(v, level, ext, selector, pointer)) return false;
  if (is_null(selector)) return refuse(v, Vector::invalid_tss, ext);
  const u32 error = selector_error(selector, ext);
  Descriptor& d = out.descriptor_;
  if (rpl(selector) != level) return refuse(v, Vector::invalid_tss, error);
  if (!fetch_descriptor(v, selector, Vector::invalid_tss, ext, d)) return false;
  if (d.dpl() != level || !d.is_writable_data()) return refuse(v, Vector::invalid_tss, error);
  if (!d.present()) return refuse(v, Vector::stack, error);
  out.ss_ = d.cache(selector);
  out.pointer_ = pointer;
  out.error_code_ = error;
  out.ext_ = ext;
  out.other_ring_ = true;
  out.user_ = false;
  return true;
}

bool PendingStack::has_room(Vcpu& v, unsigned count, unsigned size) {
  const u32 mask = pointer_mask(ss_);
  for (unsigned i = 1; i <= count; ++i) {
    if (!within_limit(ss_, (pointer_ - i * size) & mask, size)) return refuse(v, Vector::stack, error_code_);
  }
  return true;
}

bool PendingStack::make_writable(Vcpu& v, unsigned count, unsigned size) {
  const u32 mask = pointer_mask(ss_);
  for (unsigned i = 1; i <= count; ++i) {
    const u32 linear = ss_.base + ((pointer_ - i * size) & mask);
    if (user_ && misaligned(v.s, linear, size)) return refuse(v, Vector::alignment, ext_);
    if (!v.mem.probe_write(linear, size, user_, v.fault)) return false;
  }
  if (!other_ring_) return true;
  if (!mark_accessed(v, descriptor_)) return false;
  ss_ = descriptor_.cache(ss_.selector);
  return true;
}

bool PendingStack::push(Vcpu& v, u32 value, unsigned size) {
  const u32 mask = pointer_mask(ss_);
  const u32 below = (pointer_ - size) & mask;
  if (!v.mem.write(ss_.base + below, &value, size, user_, v.fault)) return false;
  pointer_ = (pointer_ & ~mask) | below;
  return true;
}

void PendingStack::adopt(Vcpu& v) const {
  v.s.segment(Seg::ss) = ss_;
  v.set_stack_pointer(pointer_);
}

bool fetch_outer_stack(Vcpu& v, u16 selector, u32 level, Descriptor& out) {
  if (is_null(selector)) return refuse(v, Vector::general_protection, 0);
  const u32 error = selector_error(selector);
  if (!fetch_descriptor(v, selector, Vector::general_protection, 0, out)) return false;
  if (rpl(selector) != level || !out.is_writable_data() || out.dpl() != level) return refuse(v, Vector::general_protection, error);
  return out.present() || refuse(v, Vector::stack, error);
}

}  // namespace ring3
