// Guest exceptions as values (Intel SDM vol. 3, chapter 6).
#pragma once

#include "base/types.h"

namespace ring3 {

enum class Vector : u8 {
  divide = 0,
  debug = 1,
  nmi = 2,
  breakpoint = 3,
  overflow = 4,
  bound = 5,
  invalid_opcode = 6,
  device_not_available = 7,
  double_fault = 8,
  invalid_tss = 10,
  not_present = 11,
  stack = 12,
  general_protection = 13,
  page = 14,
  x87 = 16,
  alignment = 17,
  machine_check = 18,
  simd = 19,
};

// Bits of a page fault's error code (SDM vol. 3, 4.7).
namespace pf_error {
inline constexpr u32 present = 1;
inline constexpr u32 write = 2;
inline constexpr u32 user = 4;
inline constexpr u32 reserved = 8;
inline constexpr u32 fetch = 16;
}  // namespace pf_error

// A fault that an instruction raised. CR2 is loaded from `address` when a page fault is delivered, not before.
struct Fault {
  Vector vector = Vector::invalid_opcode;
  bool has_error_code = false;
  u32 error_code = 0;
  u32 address = 0;  // linear address, page faults only
};

}  // namespace ring3
