// What shared pieces of emitted code begin with.
#pragma once

#include <asmjit/x86.h>

#include "guest/address.h"
#include "translator/contract.h"

namespace ring3 {

// A member of CpuState, by its offset from r15 (contract::offset).
inline asmjit::x86::Mem field(i32 offset, u32 size) { return {asmjit::x86::r15, offset, size}; }

// `entry` = that of `table` (contract::read_table or write_table) for the linear address in `linear`, which stays; the table is that of the
// context whose base is in `tables`. Goes to `other` if there is none. Changes `scratch`, which may be `entry`, and the flags.
inline void find_entry(asmjit::x86::Assembler& a, const asmjit::x86::Gp& tables, u64 table, const asmjit::x86::Gp& linear,
                       const asmjit::x86::Gp& scratch, const asmjit::x86::Gp& entry, const asmjit::Label& other) {
  a.mov(scratch.r32(), linear);
  a.shr(scratch.r32(), page_shift);
  a.mov(entry, asmjit::x86::ptr(tables, scratch.r64(), 3, static_cast<i32>(table)));
  a.test(entry, entry);  // a miss is negative
  a.js(other);
}

}  // namespace ring3
