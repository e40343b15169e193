#include "encodings.h"

#include <algorithm>

namespace ring3::hostcpu {

namespace {

constexpr std::array<u8, 11> prefixes{0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65};

u32 prefix_count(Values& values) {
  switch (values.below(16)) {
    case 0: return values.below(15);
    case 1: return 10 + values.below(6);
    case 2:
    case 3:
    case 4: return 2 + values.below(3);
    case 5:
    case 6:
    case 7:
    case 8: return 1;
    default: return 0;
  }
}

}  // namespace

Encoding make_encoding(Values& values, const Decoder& decoder) {
  Encoding e;
  u32 n = prefix_count(values);
  for (u32 i = 0; i < n; ++i) e.bytes[i] = prefixes[values.below(values.one_in(2) ? 5 : prefixes.size())];
  const auto add = [&](u8 byte) {
    if (n < e.bytes.size()) e.bytes[n++] = byte;
  };
  switch (values.below(8)) {
    case 0:
    case 1:
    case 2: break;
    case 3:
    case 4:
    case 5: add(0x0F); break;
    case 6: add(0x0F), add(0x38); break;
    default: add(0x0F), add(0x3A); break;
  }
  while (n < e.bytes.size()) {
    const u32 v = values.one_in(2) ? values.integer() : static_cast<u32>(values.bits());
    add(static_cast<u8>(values.bits()));
    for (u32 k = 0; k < 4 && values.one_in(2); ++k) add(static_cast<u8>(v >> (8 * k)));
  }
  const DecodeStatus status = decoder.decode(e.bytes, true, e.insn);
  e.known = status == DecodeStatus::ok;
  e.length = e.known ? e.insn.length : status == DecodeStatus::too_long ? 16 : 15;
  e.at_page_end = values.one_in(6);
  if (e.at_page_end && e.length > 1 && values.one_in(2)) {
    e.length = static_cast<u8>(1 + values.below(e.length - 1u));
    e.cut = true;
    e.known = false;
  }
  return e;
}

}  // namespace ring3::hostcpu
