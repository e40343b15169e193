#include "inspect/disassembly.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>
#include <iterator>

namespace ring3 {

DisassembledLine disassemble(std::span<const u8> code, u64 address, CodeWidth width) {
  const ZydisMachineMode mode = width == CodeWidth::bits64   ? ZYDIS_MACHINE_MODE_LONG_64
                                : width == CodeWidth::bits32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                                             : ZYDIS_MACHINE_MODE_LEGACY_16;
  ZydisDisassembledInstruction instruction{};
  DisassembledLine line;
  line.text = "(not an instruction)";
  if (ZYAN_SUCCESS(ZydisDisassembleIntel(mode, address, code.data(), code.size(), &instruction))) {
    line.length = instruction.info.length;
    line.text = instruction.text;
  }
  for (u32 i = 0; i < line.length; ++i) fmt::format_to(std::back_inserter(line.bytes), "{:02x} ", code[i]);
  return line;
}

}  // namespace ring3
