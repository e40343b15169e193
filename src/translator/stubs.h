// The few pieces of host code that every block shares: the way in, the ways out.
#pragma once

#include "base/types.h"
#include "guest/registers.h"

#include <asmjit/x86.h>

#include <array>
#include <vector>

namespace ring3 {

// Offsets from the code cache's base. The miss stub is at 0, so that a zero jump-table slot leads to it.
struct Stubs {
  u32 miss = 0;            // in: r8d = linear address (= EIP) that has no block
  u32 exit_link = 0;       // in: CpuState.eip and exit_argument are stored
  u32 jump = 0;            // in: r8d = linear address to go to, by the jump table
  u32 exit_lookup = 0;     // in: CpuState.eip is stored
  u32 exit_interpret = 0;  // in: exit_argument is stored
  u32 interpret = 0;       // as exit_interpret, but calls the runtime and goes on in the cache if it can
  u32 exit_fault = 0;      // entered by the signal handler with all guest registers in place; exit_argument is stored
  // Look-ups as calls: in r9 = index into the table as the site computed it, r8d = linear address; out r9 = entry, r10 = 10. One for reads,
  // one for writes. Those for sites that may cross a page clobber r11 too. They return only if there is an entry.
  std::array<u32, 2> look_up{};
  std::array<u32, 2> look_up_crossing{};
  // A REP STOS [0] or REP MOVS [1] on a window, by the logarithm of the element's size (0 or 2), if it is short: see string_stubs.cpp.
  std::array<std::array<u32, 3>, 2> short_rep{};
  u32 look_up_begin = 0;  // a host fault from here to look_up_end belongs to the caller, whose return address is on top of the stack
  u32 look_up_end = 0;
  // In: exit_argument is stored, for the interpreter, should it have to do the instruction. Flags are kept.
  std::array<u32, segment_count> load_segment{};  // called; r8d = selector; r9 r11 change. Only ES, DS, FS and GS
  u32 load_task = 0;                              // called; r8d = selector; r9 r11 change
  u32 cpuid = 0;                                  // called; r8 r9 r11 change
  u32 sysenter = 0;                               // r8d = the mode that it leads to
  u32 sysexit = 0;
  u32 iret = 0;                             // r8d = the mode at CPL 3
  std::array<u32, 2> software_interrupt{};  // by CPL, 0 and 3: CpuState.eip is that behind it; r11d = eight times the vector
  std::array<u32, 2> deliver_fault{};       // without and with an error code: BtEngine::prepare_fault
  u32 enter = 0;                            // C function: void(CpuState*); returns when emitted code exits
  u32 end = 0;                              // first free offset
};

// Writes the stubs to the start of a code cache that is executed at host address `base`.
[[nodiscard]] Stubs emit_stubs(u64 base, std::vector<u8>& code);
// A part of it, in sensitive_stubs.cpp: `interpret` is what exit_argument is for.
void emit_sensitive_stubs(asmjit::x86::Assembler& a, const asmjit::Label& interpret, Stubs& stubs);
// The same, in transfer_stubs.cpp.
void emit_transfer_stubs(asmjit::x86::Assembler& a, const asmjit::Label& interpret, Stubs& stubs);
// The delivery of the fault that is held in EmittedLink: r11d is eight times its vector, the guest's eax, ecx, edx and ebx are at home too,
// its flags in host_flags, and the host's direction flag may be clear. `deliver` is where C++ is asked to do it.
void emit_fault_delivery(asmjit::x86::Assembler& a, bool error_code, const asmjit::Label& deliver);
// A part of it, in look_up_stubs.cpp.
void emit_look_up_stubs(asmjit::x86::Assembler& a, const asmjit::Label& missed, const asmjit::Label& mxcsr, Stubs& stubs);

// A part of that: their faults are their callers' too.
void emit_string_stubs(asmjit::x86::Assembler& a, Stubs& stubs);

}  // namespace ring3
