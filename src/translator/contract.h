// The contract between emitted code and the runtime. Every register, table and word that the two share stands here and nowhere else.
//
//   guest eax ecx edx ebx ebp esi edi   the same host registers, upper halves zero at every instruction boundary
//   guest esp                           r12d; inside a block r12d and what the block's map says is pending (InsnPoint::esp_pending). In
//                                       blocks with mode::window r12 is r14 + esp; its upper half may be off by one when esp wrapped,
//                                       and then the next access meets a guard. Other blocks do not look at the upper half
//   guest CF PF AF ZF SF OF DF          host RFLAGS, live at every instruction boundary; glue never changes them
//   x87, MMX, SSE                       the host's own, if CpuState::fpu_live
//   rsp                                 the return region: never guest data, never the runtime's stack. Its contents are a guess of where
//                                       guest RETs will go, but for what glue has pushed
//   r8 r9 r11                           scratch
//   r10                                 the constant 10: shift count of the four-byte table look-up
//   r13                                 tables of the current context (layout below)
//   r14                                 its window: r13 + contract::window, or 0
//   r15                                 CpuState*; the code cache lies at a fixed distance behind it
//
// A memory access is: linear address in r8d, table entry in r9, host access at [r9 + r8]. A miss faults because its entry leads to the
// half of the host's address space that is the kernel's; an address that is misaligned for its size gives a non-canonical index and faults
// too. The fault handler finds the guest instruction from the host pc. A site that missed loads the entry by a call instead, which asks the
// runtime to fill the tables (translator/stubs.h) and returns with an entry or leaves. Every access of an instruction precedes its first
// change of guest state, so that the runtime can execute the whole instruction again in the interpreter.
//
// In blocks with mode::window an access is one host access at r14 + linear address. What is not mapped there faults: the runtime maps it,
// if the tables have an entry, or interprets the instruction. An address that is formed with 64 bits may miss the 4 GiB by as much as the
// guards hold.
//
// One context at a time may have its window at host address 0 (mode::low_window): then an operand's address is the guest's own, formed with
// 32 bits (prefix 67h), r14 is 0, and r12d is esp; the upper half of r12 is not looked at. The first 64 KiB cannot be mapped there.
//
// String instructions run there on rsi + r14 and rdi + r14. The window begins at a multiple of 4 GiB, so the lower halves are the guest's
// registers at every fault, and after a REP has begun too: such a REP starts with the prefix `window_rep`, and r9 holds the count before
// it, by which the timer's handler knows that it may be left between two iterations.
//
// A segment check is a load beside the page limit_guard, at an index of -1 when the access is inside and 0 or 1 when it is not.
//
// Polls and gates are loads through pointers in CpuState::link that the runtime sets to 0 to get control: no flags, no compare.
#pragma once

#include "base/types.h"
#include "guest/address.h"
#include "guest/cpu_state.h"

#include <cstddef>

namespace ring3::contract {

// A soft-table entry that is none: negative, as no other is, and 8 GiB below 0, where every linear address still leads to the host's
// kernel.
inline constexpr u64 no_entry = 0 - (u64{1} << 33);
inline constexpr u64 no_entry_reach = (u64{1} << 32) + 4096;  // an access by it starts less than this behind it
[[nodiscard]] constexpr bool present(u64 entry) { return entry != no_entry; }

// Layout of one context, from r13. Soft-table entries are 8 bytes: host address - linear address, or `no_entry`.
inline constexpr u64 read_table = 0;
inline constexpr u64 write_table = u64{linear_page_count} * 8;
// Jump table: 4 bytes per linear address: offset of the block from the code cache's base, 0 = the miss stub.
inline constexpr u64 jump_table = 2 * write_table;
inline constexpr u64 tables_size = jump_table + (u64{4} << 32);
// The window: the context's linear address space, mapped for real where the tables have an entry and it was asked for. The guards hold
// [reg + disp] with any displacement before it, and [reg * 8 + disp] behind it.
inline constexpr u64 linear_size = u64{1} << 32;
inline constexpr u64 window = tables_size + (u64{2} << 30);
inline constexpr u64 window_end = window + linear_size + (u64{32} << 30);
// Of the window at host address 0: what vm.mmap_min_addr keeps unmapped.
inline constexpr u64 low_window_begin = 0x10000;
inline constexpr u64 context_size = window_end;
inline constexpr u8 window_rep = 0x3E;

// CpuState stands this far before the code cache's base (r15 + state_distance = offset 0 of the cache).
inline constexpr u32 state_distance = 0x10000;
// The last page before the code cache is not accessible: a failed segment check loads from it (offset from r15).
inline constexpr i32 limit_guard = static_cast<i32>(state_distance - page_size);
static_assert(sizeof(CpuState) <= limit_guard);

// Why emitted code came back (CpuState::link.exit_reason). CpuState::eip is the address to go on at unless stated otherwise.
enum class ExitReason : u32 {
  lookup = 0,      // no block known for EIP
  link = 1,        // as `lookup`; exit_argument is the number of the direct exit to link
  interpret = 2,   // exit_argument is the number of the interpret site; EIP is stale, the block's map names the instruction
  host_fault = 3,  // exit_argument is the host pc; set by the signal handler, EIP is stale
  boundary = 4,    // the runtime was called, did what was due, and the run loop goes on: CpuState is exact
  miss = 5,        // exit_argument is the host address behind a look-up by call that got no entry; EIP is stale
};

// What a C++ function that emitted code called returns: where to go on, and what r8 holds there (the linear address, for the miss stub).
// `host` is 0 if emitted code has to leave; exit_reason says why.
struct Resume {
  u64 host = 0;
  u64 linear = 0;
};

// Where the stub that calls EmittedLink::fill has its own return address, from EmittedLink::emitted_stack.
inline constexpr i32 fill_caller = 3 * 8;

// What EmittedLink::fill returns: a table entry, or 0, and then 1 if a page fault is to be delivered.
struct Filled {
  u64 entry = 0;
  u64 faulted = 0;
};

// Offsets from r15.
namespace offset {
inline constexpr i32 gpr = offsetof(CpuState, gpr);
inline constexpr i32 eip = offsetof(CpuState, eip);
inline constexpr i32 link = offsetof(CpuState, link);
inline constexpr i32 poll = link + static_cast<i32>(offsetof(EmittedLink, poll));
inline constexpr i32 pending = link + static_cast<i32>(offsetof(EmittedLink, pending));
inline constexpr i32 fpu_gate = link + static_cast<i32>(offsetof(EmittedLink, fpu_gate));
inline constexpr i32 always_valid = link + static_cast<i32>(offsetof(EmittedLink, always_valid));
inline constexpr i32 if_flag = link + static_cast<i32>(offsetof(EmittedLink, if_flag));
inline constexpr i32 system_flags = link + static_cast<i32>(offsetof(EmittedLink, system_flags));
inline constexpr i32 x87_pointer = link + static_cast<i32>(offsetof(EmittedLink, x87_pointer));
inline constexpr i32 host_flags = link + static_cast<i32>(offsetof(EmittedLink, host_flags));
inline constexpr i32 exit_reason = link + static_cast<i32>(offsetof(EmittedLink, exit_reason));
inline constexpr i32 exit_argument = link + static_cast<i32>(offsetof(EmittedLink, exit_argument));
inline constexpr i32 host_stack = link + static_cast<i32>(offsetof(EmittedLink, host_stack));
inline constexpr i32 resume_at = link + static_cast<i32>(offsetof(EmittedLink, resume_at));
inline constexpr i32 window_base = link + static_cast<i32>(offsetof(EmittedLink, window));
inline constexpr i32 context = link + static_cast<i32>(offsetof(EmittedLink, context));
inline constexpr i32 return_stack = link + static_cast<i32>(offsetof(EmittedLink, return_stack));
inline constexpr i32 interpreter = link + static_cast<i32>(offsetof(EmittedLink, interpreter));
inline constexpr i32 engine = link + static_cast<i32>(offsetof(EmittedLink, engine));
inline constexpr i32 esp_base_mask = link + static_cast<i32>(offsetof(EmittedLink, esp_base_mask));
inline constexpr i32 emitted_stack = link + static_cast<i32>(offsetof(EmittedLink, emitted_stack));
inline constexpr i32 fill = link + static_cast<i32>(offsetof(EmittedLink, fill));
inline constexpr i32 held_fault = link + static_cast<i32>(offsetof(EmittedLink, held_fault));
inline constexpr i32 esp_pending = link + static_cast<i32>(offsetof(EmittedLink, esp_pending));
inline constexpr i32 error_code = link + static_cast<i32>(offsetof(EmittedLink, error_code));
inline constexpr i32 gate_offset = link + static_cast<i32>(offsetof(EmittedLink, gate_offset));
inline constexpr i32 missed = link + static_cast<i32>(offsetof(EmittedLink, missed));
inline constexpr i32 segment_gate = link + static_cast<i32>(offsetof(EmittedLink, segment_gate));
inline constexpr i32 cr0 = offsetof(CpuState, cr0);
inline constexpr i32 cr2 = offsetof(CpuState, cr2);
inline constexpr i32 cr3 = offsetof(CpuState, cr3);
inline constexpr i32 cr4 = offsetof(CpuState, cr4);
inline constexpr i32 tsc_offset = offsetof(CpuState, tsc_offset);
inline constexpr i32 tsc_aux = offsetof(CpuState, msr) + static_cast<i32>(offsetof(MsrState, tsc_aux));
inline constexpr i32 fpu_live = offsetof(CpuState, fpu_live);
inline constexpr i32 fpu = offsetof(CpuState, fpu);
inline constexpr i32 view = link + static_cast<i32>(offsetof(EmittedLink, view));
inline constexpr i32 segment_mode = link + static_cast<i32>(offsetof(EmittedLink, segment_mode));
inline constexpr i32 loaded = link + static_cast<i32>(offsetof(EmittedLink, loaded));
inline constexpr i32 task = link + static_cast<i32>(offsetof(EmittedLink, task));
inline constexpr i32 cpuid = link + static_cast<i32>(offsetof(EmittedLink, cpuid));
inline constexpr i32 tr = offsetof(CpuState, tr);
inline constexpr i32 gdtr = offsetof(CpuState, gdtr);
inline constexpr i32 idtr = offsetof(CpuState, idtr);
inline constexpr i32 sysenter_cs = offsetof(CpuState, sysenter_cs);
inline constexpr i32 sysenter_esp = offsetof(CpuState, sysenter_esp);
inline constexpr i32 sysenter_eip = offsetof(CpuState, sysenter_eip);
static_assert(sysenter_esp == sysenter_cs + 4 && sysenter_eip == sysenter_cs + 8);  // as the numbers of the MSRs
inline constexpr i32 cpl = offsetof(CpuState, cpl);
inline constexpr i32 nmi_masked = offsetof(CpuState, nmi_masked);
inline constexpr i32 dr7 = offsetof(CpuState, dr) + 7 * sizeof(u32);
[[nodiscard]] constexpr i32 segment(unsigned number) { return static_cast<i32>(offsetof(CpuState, seg) + number * sizeof(SegmentCache)); }
[[nodiscard]] constexpr i32 exported(unsigned number) {
  return link + static_cast<i32>(offsetof(EmittedLink, exported) + number * sizeof(SegmentCache));
}
[[nodiscard]] constexpr i32 segment_check(unsigned segment) {
  return link + static_cast<i32>(offsetof(EmittedLink, segment_check) + segment * sizeof(SegmentCheck));
}
[[nodiscard]] constexpr i32 selector(unsigned segment) {
  return static_cast<i32>(offsetof(CpuState, seg) + segment * sizeof(SegmentCache) + offsetof(SegmentCache, selector));
}
}  // namespace offset

}  // namespace ring3::contract
