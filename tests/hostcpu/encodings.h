// Random byte strings, biased to the opcode maps: prefixes of all kinds in all orders and numbers, opcodes of all maps, ModRM and what
// follows; valid, invalid, too long, or cut off by the end of the page.
#pragma once

#include "executor.h"
#include "frontend/decoder.h"
#include "values.h"

namespace ring3::hostcpu {

struct Encoding {
  std::array<u8, 24> bytes{};
  u8 length = 0;
  bool at_page_end = false;  // its last byte is the last one before an absent page
  bool cut = false;          // and the instruction is longer
  bool known = false;        // the decoder knows it: `insn`
  Insn insn;
};

[[nodiscard]] Encoding make_encoding(Values& values, const Decoder& decoder);

}  // namespace ring3::hostcpu
