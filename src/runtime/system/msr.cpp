// RDMSR and WRMSR (SDM vol. 2; the registers: SDM vol. 4). What is not listed here is #GP(0), as on hardware.
#include "runtime/system/cpu_model.h"
#include "runtime/system/privilege.h"
#include "runtime/system/rows.h"

#include <optional>

namespace ring3::system {
namespace {

namespace msr {
constexpr u32 time_stamp_counter = 0x10, platform_id = 0x17, spec_ctrl = 0x48, pred_cmd = 0x49, bios_sign_id = 0x8B,
              arch_capabilities = 0x10A, sysenter_cs = 0x174, sysenter_esp = 0x175, sysenter_eip = 0x176, misc_enable = 0x1A0, pat = 0x277,
              efer = 0xC0000080, tsc_aux = 0xC0000103;
}  // namespace msr

constexpr u64 misc_enable_writable = 1;  // fast strings

// Those that came with something that the CPU model may lack.
bool exists(const CpuModel& model, u32 number) {
  switch (number) {
    case msr::time_stamp_counter: return model.has(Feature::tsc);
    case msr::platform_id:
    case msr::bios_sign_id: return model.has(Feature::p6);
    case msr::spec_ctrl:
    case msr::pred_cmd:
    case msr::arch_capabilities: return model.has_speculation_control();
    case msr::sysenter_cs:
    case msr::sysenter_esp:
    case msr::sysenter_eip: return model.has(Feature::sep);
    case msr::misc_enable: return model.has_misc_enable();
    case msr::pat: return model.has_pat();
    case msr::efer: return model.has_nx();
    case msr::tsc_aux: return model.has(Feature::rdtscp);
    default: return true;
  }
}

std::optional<u64> read_msr(const Vcpu& v, u32 number) {
  const CpuState& s = v.s;
  if (!exists(v.model, number)) return std::nullopt;
  switch (number) {
    case msr::time_stamp_counter: return read_tsc() + s.tsc_offset;
    case msr::platform_id: return 0;
    case msr::spec_ctrl: return s.msr.spec_ctrl;
    case msr::bios_sign_id: return s.msr.bios_sign_id;
    case msr::arch_capabilities: return v.model.arch_capabilities();
    case msr::sysenter_cs: return s.sysenter_cs;
    case msr::sysenter_esp: return s.sysenter_esp;
    case msr::sysenter_eip: return s.sysenter_eip;
    case msr::misc_enable: return s.msr.misc_enable;
    case msr::pat: return s.msr.pat;
    case msr::efer: return s.efer;
    case msr::tsc_aux: return s.msr.tsc_aux;
    default: return std::nullopt;
  }
}

// Each byte of IA32_PAT is a memory type; 2, 3 and everything above 7 are reserved (SDM vol. 3, 11.12.2).
bool valid_pat(u64 value) {
  for (unsigned i = 0; i < 8; ++i) {
    const u64 type = (value >> (8 * i)) & 0xFF;
    if (type == 2 || type == 3 || type > 7) return false;
  }
  return true;
}

bool write_efer(Vcpu& v, u64 value) {
  if ((value & ~efer::nxe) != 0) return false;
  const bool changed = v.s.efer != value;
  v.s.efer = value;
  if (changed) v.mem.flush_all();
  return true;
}

bool write_msr(Vcpu& v, u32 number, u64 value) {
  CpuState& s = v.s;
  if (!exists(v.model, number)) return false;
  switch (number) {
    case msr::time_stamp_counter: s.tsc_offset = (v.model.writes_whole_tsc() ? value : value & 0xFFFFFFFFu) - read_tsc(); return true;
    case msr::spec_ctrl:  // IBRS and STIBP; SSBD is not announced
      if ((value & ~u64{3}) != 0) return false;
      s.msr.spec_ctrl = static_cast<u32>(value);
      return true;
    case msr::pred_cmd: return (value & ~u64{1}) == 0;  // IBPB: nothing to do
    case msr::bios_sign_id: s.msr.bios_sign_id = value; return true;
    case msr::sysenter_cs: s.sysenter_cs = static_cast<u32>(value); return true;
    case msr::sysenter_esp: s.sysenter_esp = static_cast<u32>(value); return true;
    case msr::sysenter_eip: s.sysenter_eip = static_cast<u32>(value); return true;
    case msr::misc_enable:
      if (((value ^ s.msr.misc_enable) & ~misc_enable_writable) != 0) return false;
      s.msr.misc_enable = value;
      return true;
    case msr::pat:
      if (!valid_pat(value)) return false;
      s.msr.pat = value;
      return true;
    case msr::efer: return write_efer(v, value);
    case msr::tsc_aux:
      if ((value >> 32) != 0) return false;
      s.msr.tsc_aux = static_cast<u32>(value);
      return true;
    default: return false;
  }
}

Flow rdmsr(Vcpu& v, const Insn&) {
  if (!require_cpl0(v)) return Flow::fault;
  const std::optional<u64> value = read_msr(v, v.s.gpr[ecx]);
  if (!value) return v.raise(Vector::general_protection, 0);
  v.s.gpr[eax] = static_cast<u32>(*value);
  v.s.gpr[edx] = static_cast<u32>(*value >> 32);
  return Flow::next;
}

Flow wrmsr(Vcpu& v, const Insn&) {
  if (!require_cpl0(v)) return Flow::fault;
  const u64 value = v.s.gpr[eax] | (u64{v.s.gpr[edx]} << 32);
  return write_msr(v, v.s.gpr[ecx], value) ? Flow::next : v.raise(Vector::general_protection, 0);
}

}  // namespace

void add_msrs(HandlerTable& t) {
  t.set(Row::rdmsr, rdmsr);
  t.set(Row::wrmsr, wrmsr);
}

}  // namespace ring3::system
