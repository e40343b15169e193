#include "frontend/guest_block.h"

namespace ring3 {

bool ends_block(const Insn& insn) {
  switch (insn.row) {
    case Row::invalid:
    // Control transfers.
    case Row::jmp:
    case Row::jmp_far:
    case Row::call:
    case Row::call_far:
    case Row::ret:
    case Row::ret_far:
    case Row::iret:
    case Row::int_:
    case Row::int1:
    case Row::int3:
    case Row::into:
    case Row::bound:
    case Row::sysenter:
    case Row::sysexit:
    case Row::hlt:
    case Row::ud0:
    case Row::ud1:
    case Row::ud2:
    case Row::loop:
    case Row::loope:
    case Row::loopne:
    case Row::jcxz:
    case Row::jecxz:
    // The next instruction is fetched through the new mapping, or runs under the new mode.
    case Row::mov_to_cr:
    case Row::lmsw:
    case Row::clts:
    case Row::invlpg:
    case Row::wrmsr:
    case Row::mov_to_dr:
    case Row::wbinvd:
    case Row::invd: return true;
    default: return insn.info().family == Family::control && insn.operand_count == 1 && insn.operand[0].kind == OperandKind::rel;
  }
}

// A jump to the next instruction is left out: whether it is taken cannot be told from where control goes then.
bool is_way_out(const Insn& insn) {
  if (insn.info().family != Family::control || insn.operand_count != 1) return false;
  if (insn.operand[0].kind != OperandKind::rel) return insn.row == Row::call;
  return insn.row != Row::jmp && insn.target != 0;
}

void build_block(const Decoder& decoder, const BlockKey& key, std::span<const u8> page_bytes, u32 in_page, u32 max_insns,
                 const GoesOn& goes_on, GuestBlock& out) {
  out.clear();
  out.key = key;
  const bool code32 = (key.mode & mode::code32) != 0;
  while (out.insns.size() < max_insns && out.length < in_page) {
    Insn& insn = out.insns.emplace_back();
    const DecodeStatus status = decoder.decode(page_bytes.subspan(out.length), code32, insn);
    if (status != DecodeStatus::ok) {
      out.insns.pop_back();
      out.truncated = status == DecodeStatus::need_more;  // undefined ones need no more bytes: the page behind is not fetched from
      return;
    }
    out.length += insn.length;
    if (out.length > in_page) {
      out.crosses_page = true;
      return;
    }
    if (ends_block(insn) && !(goes_on && is_way_out(insn) && goes_on(insn, out.length))) return;
  }
}

}  // namespace ring3
