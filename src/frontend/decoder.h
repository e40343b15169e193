// Guest bytes to `Insn`.
#pragma once

#include "frontend/insn.h"

#include <span>

namespace ring3 {

enum class DecodeStatus : u8 {
  ok,
  need_more,  // the bytes end inside the instruction (the caller ran into a page end): fetch more or raise the fetch fault
  invalid,    // undefined opcode or operand form: `row` is Row::invalid, raise #UD
  too_long,   // over 15 bytes: raise #GP(0) (SDM vol. 2, 2.3.11)
};

class Decoder {
 public:
  // Whether instructions that were decoded before help (decode_memo.h). The results are the same.
  enum class Memory : u8 { none, some };

  explicit Decoder(Memory memory = Memory::some);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Decodes the instruction at the start of `bytes` (1 to 15 bytes are looked at). `code32` is CS.D.
  // On `invalid`, `out.length` is the number of bytes known to belong to it and `out.bytes` is filled.
  [[nodiscard]] DecodeStatus decode(std::span<const u8> bytes, bool code32, Insn& out) const;

 private:
  DecodeStatus decode_fully(std::span<const u8> bytes, bool code32, Insn& out) const;

  struct Impl;
  Impl* impl_;
};

}  // namespace ring3
