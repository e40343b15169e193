// Instructions as text.
#pragma once

#include "base/types.h"

#include <functional>
#include <span>
#include <string>

namespace ring3 {

enum class CodeWidth : u8 { bits16, bits32, bits64 };

struct DisassembledLine {
  u32 length = 1;
  std::string bytes;  // hexadecimal, a space behind each
  std::string text;
};

// The first instruction of `code` (not empty), which stands at `address`; a byte that begins none is a line of its own.
[[nodiscard]] DisassembledLine disassemble(std::span<const u8> code, u64 address, CodeWidth width);

// What stands at a host address; empty if unknown.
using NameOfPlace = std::function<std::string(u64 host)>;

// As above, for emitted code at host address `address`: fields of CpuState, tables of the context, jump targets and addresses in 64-bit
// immediates appear by name.
[[nodiscard]] DisassembledLine disassemble_emitted(std::span<const u8> code, u64 address, const NameOfPlace& name_of);

}  // namespace ring3
