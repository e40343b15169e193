// IN, OUT, INS, OUTS (SDM vol. 2).
#include "guest/breakpoints.h"
#include "runtime/interp/families.h"
#include "runtime/interp/io_permission.h"
#include "runtime/interp/repeat.h"

namespace ring3 {

bool io_permitted(Vcpu& v, u16 port, unsigned size) {
  const CpuState& s = v.s;
  if (!s.protected_mode() || (!s.v8086() && s.cpl <= s.iopl())) return true;
  const auto refuse = [&] {
    v.raise(Vector::general_protection, 0);
    return false;
  };
  constexpr u32 available_tss32 = 9;
  constexpr u32 busy_tss32 = 11;
  constexpr u32 map_base_offset = 102;
  const SegmentCache& tr = s.tr;
  const bool is_tss32 = tr.present() && !tr.is_code_or_data() && (tr.type() == available_tss32 || tr.type() == busy_tss32);
  if (!is_tss32 || tr.limit < map_base_offset + 1) return refuse();
  u16 map_base = 0;
  if (!v.load_system(tr.base + map_base_offset, &map_base, sizeof map_base)) return false;
  // The CPU always reads two bytes, so that one access covers the ports of a byte boundary.
  const u32 at = u32{map_base} + port / 8u;
  if (at + 1 > tr.limit) return refuse();
  u16 bits = 0;
  if (!v.load_system(tr.base + at, &bits, sizeof bits)) return false;
  const u32 wanted = (1u << size) - 1;
  return ((u32{bits} >> (port & 7u)) & wanted) == 0 || refuse();
}

static void note_access(Vcpu& v, u16 port) {
  if (!v.bus.is_quiet(port)) v.bus.note_access();
}

u32 read_port(Vcpu& v, u16 port, unsigned size) {
  v.s.pending_debug |= io_breakpoints_in(v.s, port, size);
  note_access(v, port);
  return v.bus.io_read(port, size);
}

void write_port(Vcpu& v, u16 port, unsigned size, u32 value) {
  v.s.pending_debug |= io_breakpoints_in(v.s, port, size);
  note_access(v, port);
  v.bus.io_write(port, size, value);
}

namespace interp {

namespace {

u16 port_of(const Vcpu& v, const Operand& o, const Insn& insn) {
  return o.kind == OperandKind::reg ? v.reg16(edx) : static_cast<u16>(insn.imm & 0xFFu);
}

Flow in(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[0].size, [&](auto zero) {
    using T = decltype(zero);
    const u16 port = port_of(v, insn.operand[1], insn);
    if (!io_permitted(v, port, sizeof(T))) return Flow::fault;
    set_reg<T>(v, eax, static_cast<T>(read_port(v, port, sizeof(T))));
    return Flow::next;
  });
}

Flow out(Vcpu& v, const Insn& insn) {
  return by_size(insn.operand[1].size, [&](auto zero) {
    using T = decltype(zero);
    const u16 port = port_of(v, insn.operand[0], insn);
    if (!io_permitted(v, port, sizeof(T))) return Flow::fault;
    write_port(v, port, sizeof(T), get_reg<T>(v, eax));
    return Flow::next;
  });
}

// Reading a port may have side effects, so the destination is checked before.
template <typename T>
Flow ins(Vcpu& v, const Insn& insn) {
  StringRegisters regs(v, insn);
  const u16 port = v.reg16(edx);
  if (!io_permitted(v, port, sizeof(T))) return Flow::fault;
  return repeat<false>(v, insn, regs, [&](u32) -> u32 {
    if (!v.probe_store(Seg::es, regs.get(edi), sizeof(T))) return 0;
    if (!v.store(Seg::es, regs.get(edi), static_cast<T>(read_port(v, port, sizeof(T))))) return 0;
    regs.advance(edi, sizeof(T));
    return 1;
  });
}

template <typename T>
Flow outs(Vcpu& v, const Insn& insn) {
  StringRegisters regs(v, insn);
  const u16 port = v.reg16(edx);
  if (!io_permitted(v, port, sizeof(T))) return Flow::fault;
  return repeat<false>(v, insn, regs, [&](u32) -> u32 {
    T value{};
    if (!v.load(insn.mem.segment, regs.get(esi), value)) return 0;
    write_port(v, port, sizeof(T), value);
    regs.advance(esi, sizeof(T));
    return 1;
  });
}

}  // namespace

void add_ports(HandlerTable& t) {
  t.set(Row::in, in);
  t.set(Row::out, out);
  t.set(Row::insb, ins<u8>);
  t.set(Row::insw, ins<u16>);
  t.set(Row::insd, ins<u32>);
  t.set(Row::outsb, outs<u8>);
  t.set(Row::outsw, outs<u16>);
  t.set(Row::outsd, outs<u32>);
}

}  // namespace interp

}  // namespace ring3
