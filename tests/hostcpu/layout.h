// Linear addresses that host and guest share, so that the same bytes with the same registers mean the same on both sides.
#pragma once

#include "base/types.h"

namespace ring3::hostcpu {

inline constexpr u32 page = 4096;

// One page of code: readable, not writable, filled with HLT (which faults at CPL 3 and so marks where a jump went). The pages around it
// are absent.
inline constexpr u32 code_base = 0x20000000;
inline constexpr u32 code_size = page;
inline constexpr u32 code_end = code_base + code_size;
// Where programs start, unless they are to end with the page.
inline constexpr u32 code_start = code_base + 0x800;

// Data: two writable pages, one read-only page, none executable; the pages before and after are absent.
inline constexpr u32 data_base = 0x20010000;
inline constexpr u32 writable_size = 2 * page;
inline constexpr u32 read_only_base = data_base + writable_size;
inline constexpr u32 data_size = writable_size + page;
inline constexpr u32 data_end = data_base + data_size;

// 64-bit code that 32-bit code on the host jumps to when it is done; the guest has the same bytes there. Readable, not writable.
// Nothing else of the host process lies below 4 GiB.
inline constexpr u32 trampoline_base = 0x30000000;

// The guest's kernel: pages of the supervisor there, absent ones on the host, so that an access gives another error code.
inline constexpr u32 kernel_base = 0xC0000000;
inline constexpr u32 kernel_size = 8 * page;

// Selectors of 64-bit Linux for user code and data; the guest uses the same.
inline constexpr u16 code_selector = 0x23;
inline constexpr u16 data_selector = 0x2B;
inline constexpr u16 code64_selector = 0x33;

}  // namespace ring3::hostcpu
