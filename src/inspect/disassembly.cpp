#include "inspect/disassembly.h"

#include "inspect/host_names.h"
#include "translator/contract.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>
#include <iterator>

namespace ring3 {
namespace {

bool decode(std::span<const u8> code, u64 address, ZydisMachineMode mode, ZydisDisassembledInstruction& out, DisassembledLine& line) {
  const bool good = ZYAN_SUCCESS(ZydisDisassembleIntel(mode, address, code.data(), code.size(), &out));
  line.length = good ? out.info.length : 1;
  line.text = good ? out.text : "(not an instruction)";
  for (u32 i = 0; i < line.length; ++i) fmt::format_to(std::back_inserter(line.bytes), "{:02x} ", code[i]);
  return good;
}

// What stands between the brackets of a memory operand, if it is one of the words or tables of contract.h.
std::string named_memory(const ZydisDecodedOperandMem& mem) {
  const i64 disp = mem.disp.has_displacement ? mem.disp.value : 0;
  const bool indexed = mem.index != ZYDIS_REGISTER_NONE;
  if (mem.base == ZYDIS_REGISTER_R15 && !indexed) return field_name(disp);
  if (!indexed) return {};
  const std::string index = ZydisRegisterGetString(mem.index);
  if (mem.base == ZYDIS_REGISTER_R15 && disp == contract::state_distance && mem.scale == 1) return "cache+" + index;
  if (mem.base != ZYDIS_REGISTER_R13) return {};
  const std::string_view table = disp == i64{contract::read_table}    ? "read_table"
                                 : disp == i64{contract::write_table} ? "write_table"
                                 : disp == i64{contract::jump_table}  ? "jump_table"
                                                                      : "";
  return table.empty() ? std::string() : fmt::format("{}+{}*{}", table, index, mem.scale);
}

void put_names(const ZydisDisassembledInstruction& insn, const NameOfPlace& name_of, std::string& text) {
  for (unsigned i = 0; i < insn.info.operand_count_visible; ++i) {
    const ZydisDecodedOperand& o = insn.operands[i];
    if (o.type == ZYDIS_OPERAND_TYPE_MEMORY) {
      const std::string name = named_memory(o.mem);
      const size_t open = text.find('[');
      const size_t close = text.find(']');
      if (!name.empty() && open < close && close != std::string::npos) text.replace(open + 1, close - open - 1, name);
    } else if (o.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && (o.imm.is_relative != 0 || o.size == 64)) {
      ZyanU64 place = o.imm.value.u;
      if (o.imm.is_relative != 0 && !ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&insn.info, &o, insn.runtime_address, &place))) continue;
      const std::string name = name_of(place);
      const size_t number = text.rfind("0x");
      if (!name.empty() && number != std::string::npos) text.replace(number, std::string::npos, name);
    }
  }
}

}  // namespace

DisassembledLine disassemble(std::span<const u8> code, u64 address, CodeWidth width) {
  const ZydisMachineMode mode = width == CodeWidth::bits64   ? ZYDIS_MACHINE_MODE_LONG_64
                                : width == CodeWidth::bits32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                                             : ZYDIS_MACHINE_MODE_LEGACY_16;
  ZydisDisassembledInstruction instruction{};
  DisassembledLine line;
  static_cast<void>(decode(code, address, mode, instruction, line));
  return line;
}

DisassembledLine disassemble_emitted(std::span<const u8> code, u64 address, const NameOfPlace& name_of) {
  ZydisDisassembledInstruction instruction{};
  DisassembledLine line;
  if (decode(code, address, ZYDIS_MACHINE_MODE_LONG_64, instruction, line)) put_names(instruction, name_of, line.text);
  return line;
}

}  // namespace ring3
