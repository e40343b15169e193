// Instructions that were decoded before, by all that their decoding depends on apart from displacement, immediate and SIB byte: one prefix
// at most, opcode, ModRM. Programs use few of these, so that most instructions are a copy and a few fields.
#pragma once

#include "frontend/insn.h"

#include <array>
#include <memory>
#include <span>

namespace ring3 {

class DecodeMemo {
 public:
  DecodeMemo();

  // Decodes the 32-bit instruction at the start of `bytes` if one like it is known and complete. False: `out` is not touched.
  [[nodiscard]] bool decode(std::span<const u8> bytes, Insn& out) const;
  // Learns from an instruction of 32-bit code that was decoded completely. `immediate_signed`: its only immediate is extended by its sign.
  void keep(const Insn& insn, bool immediate_signed);

 private:
  enum class Presence : u8 { unknown, no, yes };
  // What follows the displacement, and where it goes.
  enum class Immediate : u8 { none, unsigned_value, signed_value, signed_target };

  struct Slot {
    u32 key = 0;
    Immediate immediate = Immediate::none;
    Insn insn;
  };
  // Where the parts of an instruction are.
  struct Shape {
    u32 key = 0;     // 0: not for the memo
    u32 behind = 0;  // offset behind opcode, ModRM and SIB
    u8 modrm = 0;
    u8 sib = 0;
    bool has_sib = false;
  };
  [[nodiscard]] Shape shape_of(std::span<const u8> bytes) const;
  static void set_memory(const Shape& shape, const u8* bytes, Insn& out);
  static void set_immediate(Immediate immediate, const u8* bytes, Insn& out);
  static u32 slot_of(u32 key) { return (key * 0x9E3779B1u) >> (32 - slot_bits); }

  static constexpr unsigned slot_bits = 11;
  // By opcode, of the maps without escape and with 0F: has it a ModRM byte?
  std::array<std::array<Presence, 256>, 2> has_modrm_{};
  std::unique_ptr<std::array<Slot, 1u << slot_bits>> slots_;
};

}  // namespace ring3
