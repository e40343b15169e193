// One decoded guest instruction, in the form that interpreter and emitter share. Plain data, no Zydis types.
#pragma once

#include "base/types.h"
#include "frontend/rows.h"
#include "guest/registers.h"

#include <array>

namespace ring3 {

enum class RegClass : u8 { gpr8, gpr16, gpr32, segment, control, debug, x87, mmx, xmm };

enum class OperandKind : u8 { none, reg, mem, imm, rel, far_pointer };

// Where an operand was encoded; the emitter rebuilds ModRM from it.
enum class Slot : u8 { implicit, modrm_reg, modrm_rm, opcode, immediate };

struct Operand {
  OperandKind kind = OperandKind::none;
  RegClass reg_class = RegClass::gpr32;
  u8 reg = 0;   // encoding number; gpr8 4..7 are AH CH DH BH
  u8 size = 0;  // bytes
  Slot slot = Slot::implicit;
  bool read = false;
  bool written = false;
  bool operator==(const Operand&) const = default;
};

inline constexpr u8 no_reg = 0xFF;

// The memory operand (there is at most one explicit one; string instructions and stack operations are described by their row).
struct MemOperand {
  Seg segment = Seg::ds;  // effective segment, override applied
  u8 base = no_reg;       // Gpr or no_reg
  u8 index = no_reg;
  u8 scale = 1;
  u32 displacement = 0;  // sign-extended to the address size
  bool operator==(const MemOperand&) const = default;
};

enum class Rep : u8 { none, rep, repne };  // rep = F3 (REP/REPE), repne = F2; set only where the instruction has that meaning

struct Insn {
  Row row = Row::invalid;
  Feature feature = Feature::base;  // what a CPU model must have for this form (form_feature.h)
  u8 length = 0;                    // bytes, 1..15
  u8 operand_size = 4;              // 2 or 4: effective operand size of the instruction (byte forms too: see operand[i].size)
  u8 address_size = 4;              // 2 or 4
  Rep rep = Rep::none;
  bool lock = false;
  bool has_memory = false;  // `mem` is meaningful (LEA and INVLPG included)
  bool segment_override = false;
  u8 operand_count = 0;     // explicit (visible) operands only
  u8 opcode_offset = 0;     // of the first opcode byte after the prefixes (0F escapes included)
  u8 modrm_offset = 0;      // 0: none
  u8 imm_offset = 0;        // of the first immediate byte; 0: none
  u8 imm_size = 0;          // bytes of all immediates together
  u8 mandatory_prefix = 0;  // 66h, F2h or F3h where it selects the opcode (SSE), else 0
  std::array<Operand, 4> operand{};
  MemOperand mem;
  u32 imm = 0;     // first immediate, sign- or zero-extended as the instruction defines; far pointer: offset
  u32 imm2 = 0;    // ENTER's level; far pointer: selector
  u32 target = 0;  // relative branches: displacement from the next instruction, sign-extended (add next EIP, wrap to operand size)
  std::array<u8, 15> bytes{};

  [[nodiscard]] const RowInfo& info() const { return row_info(row); }
  bool operator==(const Insn&) const = default;
};

}  // namespace ring3
