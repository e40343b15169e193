#include "segments.h"

namespace ring3::hostcpu {

namespace {

// Parts of the table, by index.
struct Range {
  u32 first;
  u32 last;
};
constexpr u32 flat_data = 0;
constexpr Range up{1, 8};
constexpr Range down{9, 12};
constexpr Range read_only{13, 15};
constexpr Range code32{16, 20};
constexpr Range code16{21, 23};
constexpr u32 absent_data = 24;
constexpr u32 absent_code = 25;
constexpr u32 absent_conforming = 26;
constexpr u32 code_over_data = 27;
constexpr Range empty{28, 30};
constexpr u32 last_up = 31;
static_assert(last_up == ldt_entries - 1, "the last entry decides the table's limit");

u32 pick(Values& values, Range r) { return r.first + values.below(r.last - r.first + 1); }

// Bytes before the border of an expand-up segment, or before the first usable byte of an expand-down one.
u64 size_of(const SegmentSpec& s) { return s.pages ? (u64{s.limit} + 1) << 12 : u64{s.limit} + 1; }

SegmentSpec data_segment(Values& values, u8 type) {
  SegmentSpec s;
  s.type = type;
  s.big = !values.one_in(3);
  s.pages = values.one_in(3);
  s.limit = static_cast<u32>(values.bits()) & 0xFFFFFu;
  if (values.one_in(3)) s.limit &= 0x3FFF;
  if (values.one_in(16)) s.limit = 0xFFFFF;
  if (values.one_in(24)) s.limit = 0;
  // The border lies in or next to the data pages, or all of them lie inside.
  const u32 border = data_base - 16 + values.below(data_size + 32);
  s.base = border - static_cast<u32>(size_of(s));
  if (values.one_in(4)) s.base = data_base - values.below(0x1000);
  if (values.one_in(16)) s.base = static_cast<u32>(values.bits());
  if (values.one_in(3)) s.base &= ~15u;
  return s;
}

SegmentSpec code_segment(Values& values, bool is32) {
  SegmentSpec s;
  s.type = values.one_in(3) ? segment_type::execute_only : segment_type::readable_code;
  s.big = is32;
  // In 16-bit code mostly near enough for IP; else jumps leave the segment, or come to an absent page.
  s.base = values.one_in(is32 ? 2 : 4) ? static_cast<u32>(values.bits()) : code_base - values.below(0xE000);
  if (is32 && values.one_in(8)) s.base = 0;
  if (values.one_in(2)) s.base &= ~15u;
  const u32 needed = code_end - 1 - s.base;
  s.pages = needed > 0xFFFFF || values.one_in(2);
  s.limit = s.pages ? needed >> 12 : needed;
  if (values.one_in(2)) s.limit = 0xFFFFF;
  if (values.one_in(2) && !s.pages && s.limit >= 0x1000) s.limit = needed - values.below(0x7D0);  // jumps fall out of it
  return s;
}

}  // namespace

void make_ldt(Values& values, Ldt& ldt) {
  SegmentSpec flat;
  flat.limit = 0xFFFFF;
  flat.pages = true;
  ldt[flat_data] = make_descriptor(flat);
  for (u32 i = up.first; i <= up.last; ++i) ldt[i] = make_descriptor(data_segment(values, segment_type::writable));
  ldt[last_up] = make_descriptor(data_segment(values, segment_type::writable));
  for (u32 i = down.first; i <= down.last; ++i) ldt[i] = make_descriptor(data_segment(values, segment_type::writable_down));
  for (u32 i = read_only.first; i <= read_only.last; ++i)
    ldt[i] = make_descriptor(data_segment(values, values.one_in(3) ? segment_type::read_only_down : segment_type::read_only));
  for (u32 i = code32.first; i <= code32.last; ++i) ldt[i] = make_descriptor(code_segment(values, true));
  for (u32 i = code16.first; i <= code16.last; ++i) ldt[i] = make_descriptor(code_segment(values, false));
  const auto absent = [&](u8 type) {
    SegmentSpec s = data_segment(values, type);
    s.present = false;
    return make_descriptor(s);
  };
  ldt[absent_data] = absent(segment_type::writable);
  ldt[absent_code] = absent(segment_type::readable_code);
  ldt[absent_conforming] = absent(segment_type::conforming);
  ldt[code_over_data] = make_descriptor(data_segment(values, segment_type::readable_code));
  for (u32 i = empty.first; i <= empty.last; ++i) ldt[i] = 0;
}

void flat_segments(Program& program) {
  program.selector.fill(data_selector);
  program.selector[static_cast<unsigned>(Seg::cs)] = code_selector;
  program.code32 = true;
}

void choose_segments(Values& values, const Ldt& ldt, Program& program) {
  const auto data = [&]() -> u16 {
    const u32 rpl = values.one_in(4) ? values.below(4) : 3;
    switch (values.below(16)) {
      case 0: return 0;
      case 1: return data_selector;
      case 2: return code_selector;
      case 3: return ldt_selector(code_over_data, rpl);
      case 4: return ldt_selector(flat_data, rpl);
      case 5:
      case 6: return ldt_selector(pick(values, read_only), rpl);
      case 7:
      case 8:
      case 9: return ldt_selector(pick(values, down), rpl);
      case 10: return ldt_selector(last_up, rpl);
      case 11: {
        const u32 code = pick(values, code32);
        return (ldt[code] >> 41 & 1u) != 0 ? ldt_selector(code, rpl) : data_selector;
      }
      default: return ldt_selector(pick(values, up), rpl);
    }
  };
  for (const Seg seg : {Seg::es, Seg::ds, Seg::fs, Seg::gs}) program.selector[static_cast<unsigned>(seg)] = data();
  const u32 stack = values.below(8);
  program.selector[static_cast<unsigned>(Seg::ss)] = stack == 0  ? data_selector
                                                     : stack < 3 ? ldt_selector(pick(values, down))
                                                                 : ldt_selector(pick(values, up));
  const u32 code = values.below(8);
  program.code32 = code > 1;
  program.selector[static_cast<unsigned>(Seg::cs)] = code < 2   ? ldt_selector(pick(values, code16))
                                                     : code < 6 ? ldt_selector(pick(values, code32))
                                                                : code_selector;
}

u16 any_selector(Values& values) {
  for (;;) {
    u16 s = ldt_selector(values.below(ldt_entries), values.one_in(4) ? values.below(4) : 3);
    switch (values.below(8)) {
      case 0: s = static_cast<u16>(values.below(4)); break;
      case 1: s = values.one_in(2) ? code_selector : data_selector; break;
      case 2: s = static_cast<u16>(values.below(gdt_entries * 8)); break;
      case 3:
        if (values.one_in(2)) s = static_cast<u16>(values.bits());
        break;
      default: break;
    }
    const bool global = (s & 4u) == 0;
    if (!global || s >> 3 != gdt_cpu_number) return s;
  }
}

u16 code_target(Values& values) {
  for (;;) {
    u16 s = 0;
    switch (values.below(8)) {
      case 0:
      case 1: s = any_selector(values); break;
      case 2: s = code_selector; break;
      case 3: s = ldt_selector(pick(values, code16)); break;
      default: s = ldt_selector(pick(values, code32), values.one_in(8) ? values.below(4) : 3); break;
    }
    if ((s & 0xFFFCu) != (code64_selector & 0xFFFCu)) return s;
  }
}

u16 stack_target(Values& values) {
  if (values.one_in(3)) return any_selector(values);
  return ldt_selector(pick(values, values.one_in(3) ? down : up), values.one_in(8) ? values.below(4) : 3);
}

}  // namespace ring3::hostcpu
