#include "runtime/system/mode_bits.h"

#include "guest/block_key.h"
#include "guest/cpu_state.h"

namespace ring3 {
namespace {

bool whole(const SegmentCache& c) { return c.base == 0 && c.limit == 0xFFFFFFFF; }

// Present, writable, expand-up data.
bool plain_data(const SegmentCache& c) { return (c.attributes & 0x9Eu) == 0x92u; }

bool loaded_expand_down(const SegmentCache& c) { return c.usable() && c.expand_down(); }

// A segment register that accesses must be checked for; one that is not loaded faults through its closed gate.
bool limited(const SegmentCache& c) { return c.usable() && !(plain_data(c) && c.limit == 0xFFFFFFFF); }

}  // namespace

u32 segment_mode_bits(const CpuState& s) {
  u32 bits = 0;
  const SegmentCache& cs = s.segment(Seg::cs);
  const SegmentCache& ss = s.segment(Seg::ss);
  if (cs.big()) bits |= mode::code32;
  if (whole(cs)) bits |= mode::cs_flat;
  if (ss.big()) bits |= mode::stack32;
  const SegmentCache& ds = s.segment(Seg::ds);
  const SegmentCache& es = s.segment(Seg::es);
  if (plain_data(ds) && plain_data(es) && plain_data(ss) && whole(ds) && whole(es) && whole(ss)) bits |= mode::ds_es_ss_flat;
  const SegmentCache& fs = s.segment(Seg::fs);
  const SegmentCache& gs = s.segment(Seg::gs);
  if (limited(fs) || limited(gs)) bits |= mode::fs_gs_checked;
  if ((bits & mode::ds_es_ss_flat) == 0 || (bits & mode::fs_gs_checked) != 0) {
    for (const SegmentCache* c : {&ds, &es, &ss, &fs, &gs})
      if (loaded_expand_down(*c)) bits |= mode::expand_down;
  }
  return bits;
}

u32 compute_mode_bits(const CpuState& s) { return control_mode_bits(s) | segment_mode_bits(s); }

}  // namespace ring3
