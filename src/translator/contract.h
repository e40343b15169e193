// The contract between emitted code and the runtime. Every register, table and word that the two share stands here and nowhere else.
//
//   guest eax ecx edx ebx ebp esi edi   the same host registers, upper halves zero at every instruction boundary
//   guest esp                           r12, upper half zero at every instruction boundary
//   guest CF PF AF ZF SF OF DF          host RFLAGS, live at every instruction boundary; glue never changes them
//   x87, MMX, SSE                       the host's own, if CpuState::fpu_live
//   rsp                                 the return region: never guest data, never the runtime's stack
//   r8 r9 r11                           scratch
//   r10                                 the constant 10: shift count of the four-byte table look-up
//   r13                                 tables of the current context (layout below)
//   r15                                 CpuState*; the code cache lies at a fixed distance
//
// A memory access is: linear address in r8d, table entry in r9, host access at [r9 + r8]. A miss (entry 0) faults because the host's low
// 4 GiB + 64 KiB are unmapped; an address that is misaligned for its size gives a non-canonical index and faults too. The fault handler
// finds the guest instruction from the host pc; every access of an instruction precedes its first change of guest state.
#pragma once

#include "base/types.h"
#include "guest/address.h"

namespace ring3::contract {

// Layout of one context, from r13. Soft-table entries are 8 bytes: host address - linear address, 0 = miss.
inline constexpr u64 read_table = 0;
inline constexpr u64 write_table = u64{linear_page_count} * 8;
// Jump table: 4 bytes per linear address: offset of the block from the code cache's base, 0 = the miss stub.
inline constexpr u64 jump_table = 2 * write_table;
inline constexpr u64 context_size = jump_table + (u64{4} << 32);

// Why emitted code came back.
enum class ExitReason : u32 {
  lookup,      // no block known for EIP (CpuState.eip): look up or translate
  link,        // as `lookup`; exit_argument is the exit site to link (translated_block.h)
  interpret,   // exit_argument is the instruction's index record: interpret it and go on
  host_fault,  // exit_argument is the host pc; the fault address is in HostFaultRecord
};

}  // namespace ring3::contract
