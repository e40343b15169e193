#include "engine_executor.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace ring3::hostcpu {

namespace {

constexpr u64 cache_bytes = 8u << 20;
constexpr u64 patience = 500'000'000;  // ns of CPU time that a program may run

u64 cpu_time() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<u64>(t.tv_sec) * 1'000'000'000u + static_cast<u64>(t.tv_nsec);
}

bool pushes_error_code(u32 vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17; }

}  // namespace

EngineExecutor::EngineExecutor(Kind kind)
    : kind_(kind), region_(cache_bytes), state_(*new (region_.state_area()) CpuState), guest_(state_) {
  if (translates()) {
    BtOptions options;
    options.window_after = 0;
    if (kind == Kind::translator) options.translator.optimizations.switch_off(Optimization::windows);
    if (kind != Kind::low_window) options.translator.optimizations.switch_off(Optimization::low_window);
    bt_ = std::make_unique<BtEngine>(guest_.vcpu, region_, options);
    engine_ = bt_.get();
  } else {
    interp_ = std::make_unique<InterpEngine>(guest_.vcpu);
    engine_ = interp_.get();
  }
}

EngineExecutor::~EngineExecutor() = default;

void EngineExecutor::place(const Program& program) {
  // INT leaves; DS prefixes make it as long as what leaves on the host, because a segment may end in it.
  std::array<u8, code_room + 8> code{};
  const auto end = std::copy_n(program.code.begin(), program.length, code.begin());
  way_out_ = program.jumps ? 0 : program.code32 ? 7 : 8;
  std::fill_n(end, way_out_, u8{0x3E});
  u32 size = program.length;
  if (way_out_ != 0) {
    code[size + way_out_ - 2] = 0xCD;
    code[size + way_out_ - 1] = leave_vector;
    size += way_out_;
  }
  guest_.place_code(program.start, std::span(code).first(size));
}

void EngineExecutor::run(const Batch& batch, const Program& program, u32 first, u32 count, StateObserver& observer) {
  batch_ = &batch;
  program_ = &program;
  observer_ = &observer;
  current_ = first;
  end_ = first + count;
  guest_.bus.watcher = this;
  while (current_ != end_) {
    observer.before(current_);
    guest_.enter(batch, program, batch.state[current_]);
    guest_.bus.stop = endless_ = false;
    started_ = cpu_time();
    const StopInfo stop = engine_->run();
    const bool ended = stop.reason == StopReason::bus_request;
    if (ended && !endless_) return;
    if (!ended) failure_ = fmt::format("stopped at {:#x}: {}", state_.eip, stop.detail);
    outcome_.vector = ended ? endless : not_run;
    if (!observer.after(current_, outcome_) || !ended) return;
    ++current_;
  }
}

bool EngineExecutor::overran() {
  endless_ = cpu_time() - started_ > patience;
  return endless_;
}

bool EngineExecutor::program_left() {
  take_outcome();
  if (!observer_->after(current_, outcome_) || ++current_ == end_) return false;
  observer_->before(current_);
  started_ = cpu_time();
  guest_.enter_from_handler(*batch_, *program_, batch_->state[current_]);
  return true;
}

void EngineExecutor::take_outcome() {
  Outcome& out = outcome_;
  out.error_code = 0;
  out.address = 0;
  const u32 vector = (state_.eip - handlers_at) / handler_spacing;
  std::array<u32, 6> frame{};  // error code, EIP, CS, EFLAGS, ESP, SS
  std::memcpy(frame.data(), guest_.kernel(kernel_stack_top - 24), sizeof frame);
  out.gpr = state_.gpr;
  out.gpr[esp] = frame[4];
  out.eip = frame[1];
  out.eflags = frame[3];
  for (unsigned i = 0; i < segment_count; ++i) out.selector[i] = state_.seg[i].selector;
  out.selector[static_cast<unsigned>(Seg::cs)] = static_cast<u16>(frame[2]);
  out.selector[static_cast<unsigned>(Seg::ss)] = static_cast<u16>(frame[5]);
  segments_ = state_.seg;
  if (program_->fpu) out.fpu = state_.fpu;
  if (vector == leave_vector) {
    out.vector = no_vector;
    out.eip -= way_out_;  // it points behind the INT
    return;
  }
  out.vector = static_cast<u16>(vector);
  if (pushes_error_code(vector)) out.error_code = frame[0];
  if (vector == static_cast<u32>(Vector::page)) out.address = state_.cr2;
}

}  // namespace ring3::hostcpu
