// Encodings of a row: prefixes, opcode, ModRM, SIB, displacement and immediate, chosen at random.
#pragma once

#include "forms.h"
#include "values.h"

#include <vector>

namespace ring3::hostcpu {

class Assembler {
 public:
  Assembler(const Decoder& decoder, const Forms& forms) : decoder_(decoder), forms_(forms) {}

  struct Wish {
    bool code32 = true;
    u32 segment_prefix = 24;  // one in so many has a segment prefix
    u32 address_prefix = 24;
    bool far_segments = false;  // FS and GS too
  };
  // False: the bytes made are not this row after all (an addressing form or LOCK it does not take).
  [[nodiscard]] bool assemble(Row row, const Wish& wish, Values& values, Insn& out) const;

  // Decodes again after bytes were changed; the length stays.
  [[nodiscard]] bool refresh(Insn& insn, bool code32) const;

  [[nodiscard]] const Forms& forms() const { return forms_; }
  [[nodiscard]] const Decoder& decoder() const { return decoder_; }

 private:
  const Decoder& decoder_;
  const Forms& forms_;
};

// Where the displacement of the memory operand stands in `bytes`.
struct Displacement {
  u8 offset = 0;
  u8 size = 0;  // 0: none
};
[[nodiscard]] Displacement displacement_of(const Insn& insn);

}  // namespace ring3::hostcpu
