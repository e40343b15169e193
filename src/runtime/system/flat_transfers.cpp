#include "runtime/system/flat_transfers.h"

#include "runtime/system/descriptor.h"
#include "runtime/system/segment_load.h"
#include "translator/contract.h"

#include <cstring>

namespace ring3 {
namespace {

constexpr u32 supervisor = 0;

// Host address of `size` bytes at `linear`, if they lie in one page that the table has for supervisors; else null.
template <u64 table>
u8* at(const CpuState& s, u32 linear, u32 size) {
  const u64 context = s.link.view[supervisor].context;
  if (context == 0 || (linear & page_mask) + size > page_size) return nullptr;
  const u64 entry = reinterpret_cast<const u64*>(context + table)[linear >> page_shift];
  return contract::present(entry) ? reinterpret_cast<u8*>(entry + linear) : nullptr;
}
const u8* readable(const CpuState& s, u32 linear, u32 size) { return at<contract::read_table>(s, linear, size); }
u8* writable(const CpuState& s, u32 linear, u32 size) { return at<contract::write_table>(s, linear, size); }

// The GDT's descriptor of a selector that is not NULL.
bool gdt_descriptor(const CpuState& s, u16 selector, Descriptor& out) {
  if (is_null(selector) || (selector & 4u) != 0 || (selector | 7u) > s.gdtr.limit) return false;
  out.address = s.gdtr.base + (selector & 0xFFF8u);
  const u8* bytes = readable(s, out.address, 8);
  if (bytes == nullptr) return false;
  std::memcpy(&out.low, bytes, 4);
  std::memcpy(&out.high, bytes + 4, 4);
  return true;
}

// P, DPL, S and type of descriptors; accessed and, where it does not matter, readable.
constexpr u32 rights = 0xFF00, code_rights = 0xFD00;
constexpr u32 code_of(u32 level) { return 0x9900u | level << 13; }        // not conforming, accessed
constexpr u32 stack_data_of(u32 level) { return 0x9300u | level << 13; }  // writable, expand-up, accessed

// Writable, expand-up, 32-bit, 4 GiB from 0: no offset has to be checked, and ESP is the linear address.
bool flat_stack(const SegmentCache& c) { return (c.attributes & 0x409Eu) == 0x4092u && c.base == 0 && c.limit == 0xFFFFFFFF; }

bool fetch_flat_stack(const CpuState& s, u16 selector, u32 level, SegmentCache& out) {
  Descriptor d;
  if (rpl(selector) != level || !gdt_descriptor(s, selector, d) || (d.high & rights) != stack_data_of(level)) return false;
  out = d.cache(selector);
  return flat_stack(out);
}

// SS:ESP of ring 0 from a 32-bit TSS.
bool inner_stack(const CpuState& s, SegmentCache& ss, u32& pointer) {
  constexpr u32 place = 4, size = 6;
  constexpr u16 wide = 8;
  if ((s.tr.attributes & wide) == 0 || s.tr.limit < place + size - 1) return false;
  const u8* bytes = readable(s, s.tr.base + place, size);
  if (bytes == nullptr) return false;
  u16 selector = 0;
  std::memcpy(&pointer, bytes, 4);
  std::memcpy(&selector, bytes + 4, 2);
  return fetch_flat_stack(s, selector, 0, ss);
}

bool fetch_gate(const CpuState& s, const GateEvent& e, Descriptor& gate) {
  if (u32{e.vector} * 8 + 7 > s.idtr.limit) return false;
  const u8* bytes = readable(s, s.idtr.base + u32{e.vector} * 8, 8);
  if (bytes == nullptr) return false;
  std::memcpy(&gate.low, bytes, 4);
  std::memcpy(&gate.high, bytes + 4, 4);
  constexpr u32 present_interrupt_or_trap = 0x8E00, either = 0x9E00;
  return (gate.high & either) == present_interrupt_or_trap && !(e.check_dpl && gate.dpl() < s.cpl);
}

bool usual_mode(const CpuState& s) { return s.protected_mode() && !s.v8086() && (s.cpl == 0 || s.cpl == 3); }

}  // namespace

bool deliver_flat(Vcpu& v, const GateEvent& e) {
  CpuState& s = v.s;
  Descriptor gate, code;
  if (!usual_mode(s) || !fetch_gate(s, e, gate)) return false;
  const u16 selector = gate.gate_selector();
  if (!gdt_descriptor(s, selector, code) || (code.high & code_rights) != code_of(0)) return false;
  const u32 target = gate.gate_offset();
  if (target > code.limit()) return false;

  const bool inner = s.cpl == 3;
  SegmentCache ss = s.segment(Seg::ss);
  u32 pointer = s.gpr[esp];
  if (inner ? !inner_stack(s, ss, pointer) : !flat_stack(ss)) return false;
  std::array<u32, 6> frame{};
  u32 count = 0;
  if (e.has_error_code) frame[count++] = e.error_code;
  frame[count++] = e.return_eip;
  frame[count++] = s.segment(Seg::cs).selector;
  frame[count++] = e.pushed_eflags;
  if (inner) {
    frame[count++] = s.gpr[esp];
    frame[count++] = s.segment(Seg::ss).selector;
  }
  const u32 size = count * 4;
  pointer -= size;
  u8* to = writable(s, pointer, size);
  if (to == nullptr) return false;
  std::memcpy(to, frame.data(), size);

  s.segment(Seg::ss) = ss;
  s.gpr[esp] = pointer;
  s.segment(Seg::cs) = code.cache(with_rpl(selector, 0));
  s.cpl = 0;
  s.eip = target;
  s.eflags &= ~(flag::tf | flag::nt | flag::rf | flag::vm);
  if ((gate.type() & 1u) == 0) s.eflags &= ~flag::if_;
  s.shadow = Shadow::none;
  s.halted = false;
  return true;
}

bool return_flat(Vcpu& v) {
  CpuState& s = v.s;
  if (!usual_mode(s) || s.cpl != 0 || (s.eflags & flag::nt) != 0 || !flat_stack(s.segment(Seg::ss))) return false;
  struct Frame {
    u32 eip, cs, eflags, esp, ss;
  } frame{};
  constexpr u32 same_ring = 12;
  const u8* from = readable(s, s.gpr[esp], same_ring);
  if (from == nullptr) return false;
  std::memcpy(&frame, from, same_ring);
  if ((frame.eflags & flag::vm) != 0) return false;
  const u16 selector = static_cast<u16>(frame.cs);
  const u32 level = rpl(selector);
  Descriptor code;
  if ((level != 0 && level != 3) || !gdt_descriptor(s, selector, code) || (code.high & code_rights) != code_of(level)) return false;
  if (frame.eip > code.limit()) return false;
  SegmentCache ss;
  if (level == 3) {
    from = readable(s, s.gpr[esp], sizeof frame);
    if (from == nullptr) return false;
    std::memcpy(&frame, from, sizeof frame);
    if (!fetch_flat_stack(s, static_cast<u16>(frame.ss), level, ss)) return false;
  }

  s.nmi_masked = false;
  // At CPL 0 every flag but VM, VIF and VIP comes from the frame; no CPU model has VME.
  constexpr u32 loaded = flag::status | flag::tf | flag::df | flag::nt | flag::rf | flag::ac | flag::id | flag::if_ | flag::iopl;
  s.eflags = (s.eflags & ~loaded) | (frame.eflags & loaded);
  s.segment(Seg::cs) = code.cache(selector);
  s.eip = frame.eip;
  if (level == 3) {
    s.cpl = 3;
    s.segment(Seg::ss) = ss;
    s.gpr[esp] = frame.esp;
    drop_inner_segments(s);
  } else {
    s.gpr[esp] += same_ring;
  }
  return true;
}

}  // namespace ring3
