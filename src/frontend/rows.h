// One row per instruction. Decoder, interpreter, emitter and test generator all read these rows.
//
// Columns of the X lists in rows_integer.h, rows_x87.h and rows_sse.h:
//   row       the enumerator `Row::row`
//   mnemonic  Zydis' name; decoder.cpp splits the few mnemonics that mean several rows (MOV, PUSH, POP, CALL, JMP, RET, MOVSD, CMPSD)
//   family    which interpreter and emitter file owns it
//   feature   what the CPU model must have, or the instruction is #UD; some forms of a row need another one (frontend/form_feature.h)
//   emission  how the translator treats it (see `Emission`)
//   flags     EFLAGS status bits (and DF) read, written as the manual defines, and left undefined
#pragma once

#include "base/types.h"
#include "frontend/rows_integer.h"
#include "frontend/rows_sse.h"
#include "frontend/rows_x87.h"

#include <array>
#include <string_view>

#define RING3_ROWS(X)   \
  RING3_INTEGER_ROWS(X) \
  RING3_X87_ROWS(X)     \
  RING3_SSE_ROWS(X)

namespace ring3 {

enum class Row : u16 {
#define RING3_ROW(row, mnemonic, family, feature, emission, read, written, undefined) row,
  RING3_ROWS(RING3_ROW)
#undef RING3_ROW
      count,
  invalid = count,  // undefined opcode: #UD
};
inline constexpr unsigned row_count = static_cast<unsigned>(Row::count);

enum class Family : u8 { alu, shift, muldiv, bit, mov, stack, control, string, io, flag, decimal, segment, system, x87, mmx, sse };

// What CPU models have or lack. Most are CPUID flags of the same name.
enum class Feature : u8 {
  base,  // i386
  i486,  // what the 486 added, CPUID included
  cr4,   // the register exists: CPUID announces more than the FPU
  p6,    // multi-byte NOP and hints (0F 18 to 0F 1F)
  rdpmc,
  cmov,
  cmov_x87,
  x87,
  tsc,
  msr,
  cx8,
  sep,
  mmx,
  fxsr,
  sse,
  sse2,
  sse3,
  ssse3,
  sse41,
  sse42,
  popcnt,
  movbe,
  aes,
  pclmulqdq,
  clflush,
  rdtscp,
  rdrand,
  rdseed,
  prefetchw,  // 0F 0D
  monitor,
  count,
};

enum class Emission : u8 {
  copy,      // the guest's own instruction, re-encoded for host registers and memory
  expand,    // new host code with the same effect
  in_cache,  // sensitive, but done inside the cache
  runtime,   // calls the runtime, which interprets this one instruction
};

struct RowInfo {
  std::string_view name;
  Family family;
  Feature feature;
  Emission emission;
  u32 flags_read;
  u32 flags_written;
  u32 flags_undefined;
};

inline constexpr std::array<RowInfo, row_count> row_table{{
#define RING3_ROW(row, mnemonic, family, feature, emission, read, written, undefined) \
  {#row, Family::family, Feature::feature, Emission::emission, read, written, undefined},
    RING3_ROWS(RING3_ROW)
#undef RING3_ROW
}};

[[nodiscard]] constexpr const RowInfo& row_info(Row row) { return row_table[static_cast<unsigned>(row)]; }
[[nodiscard]] constexpr std::string_view row_name(Row row) { return row == Row::invalid ? "invalid" : row_info(row).name; }

}  // namespace ring3
