#include "engine_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace ring3::hostcpu {

namespace {

constexpr u64 cache_bytes = 8u << 20;

bool pushes_error_code(u32 vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17; }

}  // namespace

EngineExecutor::EngineExecutor()
    : region_(cache_bytes),
      state_(*new (region_.state_area()) CpuState),
      guest_(state_),
      engine_(std::make_unique<BtEngine>(guest_.vcpu, region_, BtOptions{})) {}

EngineExecutor::~EngineExecutor() = default;

void EngineExecutor::run(const Case& test, Outcome& out) {
  // The instructions, then INT to leave, or HLTs when jumps are to be seen. A write through Memory, so that the engine notices.
  std::array<u8, 64> code = test.code();
  const u32 length = test.length();
  std::fill(code.begin() + length, code.end(), u8{0xF4});
  if (!test.jumps) {
    code[length] = 0xCD;
    code[length + 1] = leave_vector;
  }
  const PhysAddr at{static_cast<u64>(guest_.code() - guest_.ram.base()) + (code_start - code_base)};
  guest_.memory.write_physical(at, code.data(), static_cast<u32>(code.size()));
  run_again(test, out);
}

void EngineExecutor::run_again(const Case& test, Outcome& out) {
  const Insn& insn = test.insn;
  guest_.enter(test.before, test.fpu);
  guest_.bus.stop = false;
  const u64 before = engine_->stepper().executed()[static_cast<unsigned>(insn.row)];
  const StopInfo stop = engine_->run();
  interpreted_ = engine_->stepper().executed()[static_cast<unsigned>(insn.row)] != before;

  out.failure[0] = 0;
  out.faulted = false;
  out.vector = 0;
  out.error_code = 0;
  out.address = 0;
  const u32 handler = state_.eip - handlers_at - handler_stop;
  if (stop.reason != StopReason::bus_request || handler % handler_spacing != 0 || handler / handler_spacing > 255) {
    out.fail(fmt::format("stopped at {:#x}: {}", state_.eip, stop.detail));
    return;
  }
  const u32 vector = handler / handler_spacing;
  std::array<u32, 6> frame{};  // error code, EIP, CS, EFLAGS, ESP, SS
  std::memcpy(frame.data(), guest_.kernel(kernel_stack_top - 24), sizeof frame);
  out.after.gpr = state_.gpr;
  out.after.gpr[esp] = frame[4];
  out.after.eip = frame[1];
  out.after.eflags = frame[3];
  if (test.fpu) out.after.fpu = state_.fpu;
  if (vector == leave_vector) {
    out.after.eip -= 2;  // the INT itself
    return;
  }
  const bool arrived =
      test.jumps && frame[1] != test.address() &&
      (vector == static_cast<u32>(Vector::general_protection) || (vector == static_cast<u32>(Vector::page) && state_.cr2 == frame[1]));
  if (arrived) return;
  out.faulted = true;
  out.vector = static_cast<u8>(vector);
  if (pushes_error_code(vector)) out.error_code = frame[0];
  if (vector == static_cast<u32>(Vector::page)) out.address = state_.cr2;
}

}  // namespace ring3::hostcpu
