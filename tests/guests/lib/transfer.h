// For tests of far calls, jumps and returns, and of event delivery: descriptors under test, a known state to start from, and checks of
// what came of it. A transfer that succeeds lands on `pad`, which notes SS and ends the run; one that is refused must have changed
// nothing.
#pragma once

#include "guest.h"

// Descriptors that a test fills: GDT entries from `slot` up to `slots_end`, and all of the LDT.
enum {
  slot = 0x80,
  stack_slot = 0x88,
  gate_slot = 0x90,
  base_slot = 0x98,   // conforming code of DPL 0 in which `pad` has the offset `pad_offset`, also for 16-bit gates
  other_slot = 0xA0,  // free, up to slots_end
  slots_end = 0xC0,
  ldt_slot = 0x1E8,
  pad_offset = 0x1234,
  ldt_entries = 16,
};
extern u64 ldt[ldt_entries];  // loaded by transfer_init; entry 0 is selector 4
extern const u8 pad[];
extern u8 ring_stacks[3][4096];  // of rings 1 and 2 in the TSS, at their ends; ring 0 has trap_stack

struct FarPointer {
  u32 offset;
  u16 selector;
  u16 unused;
};
extern struct FarPointer far_pointer;

// descriptors_init, LDT, stacks of all rings in the TSS.
void transfer_init(void);
// A TSS with these stacks again: ss0, ss1, ss2 flat.
void tss_stacks_init(void);

// Code in `ring` with a pattern in every register; EBX leads to `far_pointer`, EDI is 0.
struct Cpu start_in(u32 ring, const void* code);
u16 code_of(u32 ring);
u16 data_of(u32 ring);
u32 stack_top(u32 ring);  // what the TSS says, rings 0 to 2

// After a transfer to a segment: was nothing but the accessed bit set in its descriptor? What was not is counted, and told by
// `check_accessed` as a group of its own.
void note_accessed(u16 selector, u64 before);
void check_accessed(void);

// Access byte of the code or data descriptor's entry.
u8 access_of(u16 selector);
// Flat for code and data; an expand-down segment covers all but the first 4 KiB.
u64 segment_with(u8 access);
u64 call_gate(u16 selector, u32 offset, u8 access, u32 parameters);

// Runs; the transfer must end in this fault, with the instruction pointer, all registers and all descriptors as they were.
bool refused(const char* what, const struct Cpu* start, u32 vector, u32 error);
bool refused_by_page(const char* what, const struct Cpu* start, u32 error, u32 address);
// Runs; it must come to `pad` with exactly these registers: EIP as the offset of `pad` there. EDI does not count.
bool landed(const char* what, const struct Cpu* start, const struct Cpu* want);
// Items of 2 or 4 bytes at a linear address.
bool check_items(const char* what, u32 address, const u32* want, u32 count, u32 size);

// What the manual's pseudo-code says of one transfer: vector_done, or the fault.
struct Outcome {
  u32 vector, error;
};
// Of SS:ESP for an inner ring (SDM vol. 2, CALL, MORE-PRIVILEGE, and INT n, INTER-PRIVILEGE-LEVEL-INTERRUPT).
struct Outcome inner_stack(u8 access, u32 rpl, u32 level, u16 selector, u32 ext);
// `start` goes to ring 1 or 2, whose SS is here every descriptor with every RPL; `frame` bytes are pushed.
void every_inner_stack(const struct Cpu* start, u32 level, u32 ext, u32 frame, const struct Cpu* landing);
