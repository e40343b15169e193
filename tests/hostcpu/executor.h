// One thing that can execute an instruction in a given state: the host CPU, the interpreter, an engine.
#pragma once

#include "frontend/insn.h"
#include "guest/cpu_state.h"
#include "layout.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace ring3::hostcpu {

// What an instruction can see and change besides the data pages.
struct UserState {
  std::array<u32, 8> gpr{};
  u32 eip = code_start;
  u32 eflags = flag::fixed1 | flag::if_;
  FxImage fpu;
};

struct Case {
  Insn insn;  // under test
  // Instructions around it: without memory operands, and they cannot fault. Those before it leave alone what its addresses are made of.
  std::array<u8, 16> head{};
  u8 head_length = 0;
  std::array<u8, 32> tail{};
  u8 tail_length = 0;
  UserState before;    // eip is code_start
  bool fpu = false;    // load, store and compare x87 and SSE state
  bool jumps = false;  // the instruction may go elsewhere than to the next one

  [[nodiscard]] u32 address() const { return code_start + head_length; }
  [[nodiscard]] u32 length() const { return u32{head_length} + insn.length + tail_length; }
  // All of it, as it stands at code_start.
  [[nodiscard]] std::array<u8, 64> code() const {
    std::array<u8, 64> out{};
    std::copy_n(head.begin(), head_length, out.begin());
    std::copy_n(insn.bytes.begin(), insn.length, out.begin() + head_length);
    std::copy_n(tail.begin(), tail_length, out.begin() + head_length + insn.length);
    return out;
  }
};

// Both are plain data: they travel between processes in shared memory.
struct Outcome {
  UserState after;
  bool faulted = false;  // then `after.eip` is Case::address()
  u8 vector = 0;
  u32 error_code = 0;
  u32 address = 0;                 // page faults
  std::array<char, 96> failure{};  // not executed at all: why (empty: executed)

  void fail(std::string_view why) { failure[why.copy(failure.data(), failure.size() - 1)] = 0; }
};

class Executor {
 public:
  virtual ~Executor() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  // The data pages [data_base, data_end) as this executor sees them; the caller fills and compares them.
  [[nodiscard]] virtual u8* data() = 0;
  virtual void run(const Case& test, Outcome& out) = 0;
};

}  // namespace ring3::hostcpu
