#include "runtime/bt/host_fault.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"
#include "translator/contract.h"

namespace ring3 {

namespace {

constexpr std::array<int, 5> fault_signals{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
constexpr std::size_t alternate_stack_size = std::size_t{64} * 1024;
constexpr long repeat_ns = 1'000'000;
constexpr greg_t trap_flag = 0x100;
constexpr unsigned most_steps = 64;  // between two boundaries lie a dozen instructions at most, but for loops of string instructions

// A signal handler gets no argument of ours: the thread's record is the one piece of state it can find.
thread_local FaultGuard::Record* current = nullptr;

struct OldHandlers {
  std::array<struct sigaction, fault_signals.size()> action{};
};
OldHandlers& old_handlers() {
  static OldHandlers handlers;
  return handlers;
}

int timer_signal() { return SIGRTMIN; }

void pass_on(int signal, siginfo_t* info, void* context) {
  for (std::size_t i = 0; i < fault_signals.size(); ++i) {
    if (fault_signals[i] != signal) continue;
    const struct sigaction& old = old_handlers().action[i];
    if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr) {
      old.sa_sigaction(signal, info, context);
    } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
      // The instruction faults again without a handler, and the process dies of its own signal.
      struct sigaction fallback {};
      fallback.sa_handler = SIG_DFL;
      sigaction(signal, &fallback, nullptr);
      if (signal == SIGTRAP) raise(signal);  // that does not come again
    } else {
      old.sa_handler(signal);
    }
  }
}

// The stack of emitted code has met one of its guards: it goes on from the middle, with the words that glue has on it, and the host
// instruction is done again.
bool recentre(const FaultGuard::Record& r, const siginfo_t* info, ucontext_t* uc) {
  const u64 address = reinterpret_cast<u64>(info->si_addr);
  if (info->si_code != SEGV_ACCERR || !r.returns.guards(address)) return false;
  greg_t& rsp = uc->uc_mcontext.gregs[REG_RSP];
  const u64 old = static_cast<u64>(rsp);
  if (address < r.returns.begin) std::memcpy(reinterpret_cast<void*>(r.returns.middle()), reinterpret_cast<void*>(old), ReturnRegion::glue);
  rsp = static_cast<greg_t>(r.returns.middle());
  return true;
}

// The signal was sent by somebody (kill) and is not a fault of any code: the process dies of it.
bool die_if_sent(int signal, const siginfo_t* info) {
  if (info->si_code > 0) return false;
  struct sigaction fallback {};
  fallback.sa_handler = SIG_DFL;
  sigaction(signal, &fallback, nullptr);
  raise(signal);
  return true;
}

void on_fault(int signal, siginfo_t* info, void* context) {
  if (die_if_sent(signal, info)) return;
  auto* uc = static_cast<ucontext_t*>(context);
  u64 pc = static_cast<u64>(uc->uc_mcontext.gregs[REG_RIP]);
  FaultGuard::Record* r = current;
  if (signal == SIGSEGV && r != nullptr && recentre(*r, info, uc)) return;
  if (r != nullptr && pc >= r->look_up_begin && pc < r->look_up_end) {  // the table load of a stub, with an index that is none
    pc = *reinterpret_cast<const u64*>(uc->uc_mcontext.gregs[REG_RSP]) - 1;
  }
  if (r == nullptr || pc < r->code_begin || pc >= r->code_end) {
    pass_on(signal, info, context);
    return;
  }
  const bool address_known = (signal == SIGSEGV && (info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR)) || signal == SIGBUS;
  constexpr greg_t page_fault_write = 2;  // SDM vol. 3, 4.7
  const bool write = address_known && (uc->uc_mcontext.gregs[REG_ERR] & page_fault_write) != 0;
  const u64 address = address_known ? reinterpret_cast<u64>(info->si_addr) : 0;
  // Hosts that keep user code off the kernel's half by the address alone (LASS) do not say which address it was.
  const bool table_miss = address_known ? address - contract::no_entry < contract::no_entry_reach
                                        : static_cast<u64>(uc->uc_mcontext.gregs[REG_R9]) == contract::no_entry;
  r->fault = {.pc = pc, .address = address, .signal = signal, .write = write, .table_miss = table_miss, .address_known = address_known};
  uc->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(r->exit_fault);
  if (r->stepped != 0) uc->uc_mcontext.gregs[REG_EFL] &= ~trap_flag;
  r->stepped = 0;
}

// Leaves emitted code if a guest instruction begins here; else lets the host do one instruction and comes again. Gives up in stubs, as the
// runtime looks at `event`, and at a REP, which would be left between any two elements: the timer comes again.
void stop_or_step(FaultGuard::Record& r, ucontext_t* uc) {
  greg_t* const regs = uc->uc_mcontext.gregs;
  const u64 pc = static_cast<u64>(regs[REG_RIP]);
  regs[REG_EFL] &= ~trap_flag;
  const unsigned steps = std::exchange(r.steps, 0);
  // (The timer may have come on top of `on_step`, which then has the step still before it.)
  if (r.boundaries == nullptr || pc < r.code_begin || pc >= r.code_end) return;
  r.stepped = 0;
  if (r.boundaries->at_boundary(pc)) {
    r.fault = {.pc = pc, .signal = timer_signal()};
    regs[REG_RIP] = static_cast<greg_t>(r.exit_fault);
    return;
  }
  const u8 first = *reinterpret_cast<const u8*>(pc);
  if (steps == 0 || first == 0xF2 || first == 0xF3 || first == contract::window_rep) return;
  r.steps = steps - 1;
  r.stepped = pc;
  regs[REG_EFL] |= trap_flag;
}

void on_step(int signal, siginfo_t* info, void* context) {
  if (die_if_sent(signal, info)) return;
  FaultGuard::Record* r = current;
  auto* uc = static_cast<ucontext_t*>(context);
  // Some virtual machines leave out the reason (DR6.BS), and the kernel then says TRAP_BRKPT instead of TRAP_TRACE.
  const u64 stepped = r != nullptr ? std::exchange(r->stepped, 0) : 0;
  if (stepped == 0) {
    pass_on(signal, info, context);
    return;
  }
  constexpr u8 pushf = 0x9C;
  if (*reinterpret_cast<const u8*>(stepped) == pushf) *reinterpret_cast<u64*>(uc->uc_mcontext.gregs[REG_RSP]) &= ~u64{trap_flag};
  stop_or_step(*r, uc);
}

// In a REP of emitted code that works on a window, between two elements: it may be left now, and begun again with what is left.
bool in_window_rep(const FaultGuard::Record& r, const ucontext_t* uc) {
  const u64 pc = static_cast<u64>(uc->uc_mcontext.gregs[REG_RIP]);
  if (pc < r.code_begin || pc + 2 > r.code_end) return false;
  const u8* const code = reinterpret_cast<const u8*>(pc);
  if (code[0] != contract::window_rep || (code[1] != 0xF2 && code[1] != 0xF3)) return false;
  return uc->uc_mcontext.gregs[REG_RCX] != uc->uc_mcontext.gregs[REG_R9];
}

void on_timer(int, siginfo_t*, void* context) {
  FaultGuard::Record* r = current;
  if (r == nullptr) return;
  r->event = 1;
  // Same thread, so program order is enough: emitted code sees the zero at its next poll, STI copies it from `pending`.
  *static_cast<volatile u64*>(&r->cpu->link.pending) = 0;
  *static_cast<volatile u64*>(&r->cpu->link.poll) = 0;
  auto* uc = static_cast<ucontext_t*>(context);
  if (!in_window_rep(*r, uc)) {
    r->steps = most_steps;
    stop_or_step(*r, uc);
    return;
  }
  greg_t& pc = uc->uc_mcontext.gregs[REG_RIP];
  r->fault = {.pc = static_cast<u64>(pc), .signal = timer_signal(), .between_elements = true};
  pc = static_cast<greg_t>(r->exit_fault);
}

void install_handlers() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < fault_signals.size(); ++i) {
    action.sa_sigaction = fault_signals[i] == SIGTRAP ? on_step : on_fault;
    sigaction(fault_signals[i], &action, &old_handlers().action[i]);
  }
  struct sigaction timer {};
  timer.sa_sigaction = on_timer;
  timer.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  sigemptyset(&timer.sa_mask);
  sigaction(timer_signal(), &timer, nullptr);
}

}  // namespace

FaultGuard::FaultGuard(CpuState& cpu, const CodeRegion& region, const Stubs& stubs, const ReturnRegion& returns) {
  static std::once_flag once;
  std::call_once(once, install_handlers);
  const u64 base = reinterpret_cast<u64>(region.code());
  record_.cpu = &cpu;
  record_.code_begin = base + stubs.end;
  record_.code_end = base + region.size();
  record_.look_up_begin = base + stubs.look_up_begin;
  record_.look_up_end = base + stubs.look_up_end;
  record_.exit_fault = base + stubs.exit_fault;
  record_.returns = returns;

  // Emitted code has no stack that a signal frame would fit on.
  void* stack = mmap(nullptr, alternate_stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack == MAP_FAILED) throw UserError(std::string("cannot allocate a signal stack: ") + std::strerror(errno));
  alternate_stack_ = stack;
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = alternate_stack_size;
  sigaltstack(&alternate, &old_stack_);

  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = timer_signal();
  event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
  if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) {
    throw UserError(std::string("cannot create a timer: ") + std::strerror(errno) + "; raise the limit on pending signals (ulimit -i)");
  }
  previous_ = current;
  current = &record_;
}

FaultGuard::~FaultGuard() {
  timer_delete(timer_);
  current = previous_;
  sigaltstack(&old_stack_, nullptr);
  munmap(alternate_stack_, alternate_stack_size);
}

void FaultGuard::disarm() {
  const itimerspec off{};
  timer_settime(timer_, 0, &off, nullptr);
}

void FaultGuard::arm(u64 at) {
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(at / 1'000'000'000u);
  spec.it_value.tv_nsec = static_cast<long>(at % 1'000'000'000u);
  if (at == 0) spec.it_value.tv_nsec = 1;
  // Emitted code may overwrite the zero in `poll` when it re-arms after STI or POPF: the signal repeats until the event is handled.
  spec.it_interval.tv_nsec = repeat_ns;
  timer_settime(timer_, TIMER_ABSTIME, &spec, nullptr);
}

}  // namespace ring3
