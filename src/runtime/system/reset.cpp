#include "runtime/system/reset.h"

#include "guest/cpu_state.h"

namespace ring3 {
namespace {

// CPUID signature of the model, found in EDX after power-up.
constexpr u32 signature = 0x000806F8;

constexpr SegmentCache real_mode_segment(u16 selector, u32 base) { return {selector, 0x93, base, 0xFFFF}; }

}  // namespace

void reset_cpu(CpuState& s) {
  s.gpr = {};
  s.gpr[edx] = signature;
  s.eip = 0xFFF0;
  s.eflags = flag::fixed1;
  s.seg.fill(real_mode_segment(0, 0));
  s.segment(Seg::cs) = real_mode_segment(0xF000, 0xFFFF0000);
  s.ldtr = {0, 0x82, 0, 0xFFFF};
  s.tr = {0, 0x8B, 0, 0xFFFF};
  s.gdtr = {0, 0xFFFF};
  s.idtr = {0, 0xFFFF};
  s.cr0 = cr0::et | cr0::nw | cr0::cd;
  s.cr2 = 0;
  s.cr3 = 0;
  s.cr4 = 0;
  s.pdpte = {};
  s.dr = {0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400};
  s.pending_debug = 0;
  s.efer = 0;
  s.sysenter_cs = 0;
  s.sysenter_esp = 0;
  s.sysenter_eip = 0;
  s.msr = {};
  s.cpl = 0;
  s.shadow = Shadow::none;
  s.halted = false;
  s.nmi_masked = false;
  s.fpu = {};
  s.fpu.fcw = 0x40;  // SDM vol. 3, table 9-1: power-up leaves FCW 0040h; FNINIT makes it 037Fh
  s.fpu.ftw = 0xFF;  // all registers +0.0, hence valid
}

}  // namespace ring3
