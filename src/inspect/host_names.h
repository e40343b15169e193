// Names for what emitted code refers to: fields of CpuState, tables of the context, shared stubs.
#pragma once

#include "base/types.h"

#include <string>

namespace ring3 {

struct Stubs;

// The field of CpuState that starts at `offset` bytes from r15, like "poll" or "segment_gate.fs"; "cpu+0x123" for any other offset.
[[nodiscard]] std::string field_name(i64 offset);

// The stub that starts at `offset` from the code cache's base, like "miss"; empty if none does.
[[nodiscard]] std::string stub_name(const Stubs& stubs, u64 offset);

}  // namespace ring3
