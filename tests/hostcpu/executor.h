// Programs, the states they run in, and things that can run them: the host CPU, engines.
//
// A program is a few instructions, one of them under test, in chosen segments. It runs in many states, one after the other, without its
// memory being set back in between: what one run wrote is there for the next. So code is placed and translated once, and memory is
// compared once.
#pragma once

#include "descriptors.h"
#include "frontend/insn.h"
#include "guest/cpu_state.h"
#include "layout.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

namespace ring3::hostcpu {

inline constexpr u32 code_room = 48;

// All of what follows is plain data: it travels between processes in shared memory.
struct Program {
  std::array<u8, code_room> code{};
  u8 length = 0;
  u8 head = 0;             // bytes before the instruction under test
  u32 start = code_start;  // linear address of the first byte
  bool code32 = true;
  bool fpu = false;        // load, store and compare x87 and SSE state
  bool jumps = false;      // HLTs follow instead of the way out
  bool defined = true;     // the decoder knows the instruction: `insn` says what it is
  bool isolated = false;   // what it leaves in memory is not always comparable: one state only
  Row row = Row::invalid;  // the row it is counted for
  Insn insn;
  std::array<u16, segment_count> selector{};  // in the order of Seg
  u32 first_state = 0;
  u32 states = 0;

  [[nodiscard]] u32 address() const { return start + head; }  // linear, of the instruction under test
  [[nodiscard]] u32 end() const { return start + length; }
  [[nodiscard]] std::span<const u8> bytes() const { return {code.data(), length}; }
};

// Bytes of `Batch::patch_bytes` that are put into the data pages before a state runs.
struct Patch {
  u16 offset = 0;
  u16 size = 0;
  u32 bytes = 0;
};

struct State {
  std::array<u32, 8> gpr{};
  u32 eflags = flag::fixed1 | flag::if_;
  u32 first_patch = 0;
  u32 patches = 0;
  FxImage fpu;
};

inline constexpr u16 no_vector = 0x100;    // the end of the program was reached
inline constexpr u16 system_call = 0x101;  // the host saw a system call
inline constexpr u16 endless = 0x102;      // the host did not get to the end
inline constexpr u16 not_run = 0x103;

struct Outcome {
  std::array<u32, 8> gpr{};
  u32 eip = 0;
  u32 eflags = 0;
  std::array<u16, segment_count> selector{};
  u16 vector = no_vector;
  u32 error_code = 0;
  u32 address = 0;  // page faults
  FxImage fpu;
};

// A number of programs with their states and what the host made of them.
struct Batch {
  static constexpr u32 max_programs = 256;
  static constexpr u32 max_states = 2048;
  static constexpr u32 max_patches = 8 * max_states;
  static constexpr u32 max_patch_bytes = 4u << 20;

  Ldt ldt{};
  u32 programs = 0;
  u32 states = 0;
  u32 patches = 0;
  u32 patch_bytes_used = 0;
  std::array<u8, data_size> background{};  // the data pages before each program
  std::array<Program, max_programs> program;
  std::array<State, max_states> state;
  std::array<Patch, max_patches> patch;
  std::array<u8, max_patch_bytes> patch_bytes;
  std::array<Outcome, max_states> expected;
  std::array<std::array<u8, data_size>, max_programs> memory;  // after each program

  void clear() { programs = states = patches = patch_bytes_used = 0; }
  void apply_patches(const State& s, u8* data) const {
    for (u32 i = s.first_patch; i < s.first_patch + s.patches; ++i) {
      const Patch& p = patch[i];
      std::copy_n(patch_bytes.begin() + p.bytes, p.size, data + p.offset);
    }
  }
  [[nodiscard]] SegmentCache segment(const Program& p, Seg seg) const { return cache_of(ldt, p.selector[static_cast<unsigned>(seg)]); }
};

// Linear address of the memory operand of the instruction under test.
[[nodiscard]] u32 operand_address(const Batch& batch, const Program& program, const std::array<u32, 8>& gpr);

}  // namespace ring3::hostcpu
