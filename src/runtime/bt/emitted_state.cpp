#include "runtime/bt/emitted_state.h"

#include "runtime/system/mode_bits.h"
#include "translator/contract.h"

namespace ring3 {

namespace {

constexpr u32 host_fixed_flags = 0x202;

// Present, writable, expand-up data of 4 GiB: only its base matters.
bool whole_data(const SegmentCache& c) { return (c.attributes & 0x9Eu) == 0x92u && c.limit == 0xFFFFFFFFu; }

// Do both say the same of the mode bits (segment_mode_bits)? DPL, the accessed flag and the selector have no part in them.
bool same_mode(const SegmentCache& a, const SegmentCache& b) {
  constexpr u16 matters = 0x409E;  // D/B, P, S and type
  return ((a.attributes ^ b.attributes) & matters) == 0 && a.base == b.base && a.limit == b.limit;
}

}  // namespace

// SDM vol. 3, 5.3 (limits) and 5.5 (types).
SegmentCheck segment_check_of(const SegmentCache& c) {
  SegmentCheck out;
  out.base = c.base;
  if (!c.usable() || !c.is_code_or_data()) return out;
  u64 count = u64{c.limit} + 1;
  if (c.expand_down()) {
    const u64 end = c.big() ? u64{1} << 32 : u64{1} << 16;
    out.lower = 0u - (c.limit + 1);
    count = count < end ? end - count : 0;
  }
  if (c.readable()) out.read_room = 0 - count;
  if (c.writable()) out.write_room = 0 - count;
  return out;
}

void export_segments(CpuState& s) {
  EmittedLink& l = s.link;
  bool changed = false;
  for (unsigned i = 0; i < segment_count; ++i) {
    if (l.exported[i] == s.seg[i]) continue;
    // The ways between rings change CS and SS for others that are as flat.
    const bool same = same_mode(l.exported[i], s.seg[i]);
    l.exported[i] = s.seg[i];
    if (same) continue;
    changed = true;
    l.segment_gate[i] = whole_data(s.seg[i]) ? reinterpret_cast<u64>(&s.seg[i].base) : 0;
    l.segment_check[i] = segment_check_of(s.seg[i]);
  }
  if (changed) l.segment_mode = segment_mode_bits(s);
}

void export_flags(CpuState& s, bool interrupt_waits) {
  EmittedLink& l = s.link;
  l.always_valid = reinterpret_cast<u64>(&l.always_valid);
  l.host_flags = (s.eflags & flag::host) | host_fixed_flags;
  l.if_flag = s.eflags & flag::if_;
  l.system_flags = (s.eflags & ~(flag::host | flag::if_)) | flag::fixed1;
  l.pending = interrupt_waits ? 0 : l.always_valid;
  l.poll = l.if_flag != 0 ? l.pending : l.always_valid;
  l.fpu_gate = s.fpu_live && (s.cr0 & (cr0::ts | cr0::em)) == 0 ? l.always_valid : 0;
}

void export_state(CpuState& s, bool interrupt_waits) {
  export_flags(s, interrupt_waits);
  export_segments(s);
}

void export_status_flags(CpuState& s) { s.link.host_flags = (s.eflags & flag::host) | host_fixed_flags; }

void import_state(CpuState& s) {
  const EmittedLink& l = s.link;
  s.eflags = (l.system_flags & ~(flag::host | flag::if_)) | l.if_flag | (l.host_flags & flag::host);
}

}  // namespace ring3
