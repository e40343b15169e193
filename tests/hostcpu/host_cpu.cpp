#include "host_cpu.h"

#include "compare.h"
#include "host_switch.h"

#include <asm/ldt.h>
#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

using ring3::u32;
using ring3::u64;
using ring3::hostcpu::code64_selector;
using ring3::hostcpu::data_selector;

// The kernel tells selectors and registers as the program left them; it goes on behind the program.
extern "C" void ring3_hostcpu_on_signal(int number, void*, void* context) {
  auto& uc = *static_cast<ucontext_t*>(context);
  auto* const g = uc.uc_mcontext.gregs;
  ring3::hostcpu::SwitchWords& w = ring3_hostcpu_words;
  const auto selectors = static_cast<u64>(g[REG_CSGSFS]);
  const u64 cs = selectors & 0xFFFF;
  if (number == SIGPROF) {
    const bool same = w.run_at_tick == w.run;
    w.run_at_tick = w.run;
    if (w.running == 0 || cs == code64_selector || !same) return;
  } else if (w.running == 0 || cs == code64_selector) {
    signal(number, SIG_DFL);  // a bug of the test itself: crash
    return;
  }
  constexpr std::array<int, 8> order{REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI};
  for (unsigned i = 0; i < 8; ++i) w.gpr[i] = static_cast<u32>(g[order[i]]);
  w.eflags = static_cast<u64>(g[REG_EFL]);
  w.eip = static_cast<u32>(g[REG_RIP]);
  w.cs = static_cast<ring3::u16>(cs);
  w.selector = w.selector_at_signal;
  w.selector[static_cast<unsigned>(ring3::Seg::ss)] = static_cast<ring3::u16>(selectors >> 48);
  w.signal = static_cast<u32>(number);
  w.vector = static_cast<u32>(g[REG_TRAPNO]);
  w.error_code = static_cast<u32>(g[REG_ERR]);
  w.address = static_cast<u32>(g[REG_CR2]);
  g[REG_RIP] = static_cast<greg_t>(reinterpret_cast<u64>(&ring3_hostcpu_exit_after_signal));
  g[REG_RSP] = static_cast<greg_t>(w.host_stack);
  g[REG_CSGSFS] = static_cast<greg_t>((selectors & 0x0000'FFFF'FFFF'0000u) | code64_selector | u64{data_selector} << 48);
  g[REG_EFL] = 0x202;
}

namespace ring3::hostcpu {

namespace {

bool has_code32_segment() {
  constexpr u32 code_default32 = 0x00400800;  // D and the type bit of code, as LAR shows them
  u32 rights = 0;
  asm("lar %1, %0" : "+r"(rights) : "r"(u32{code_selector}) : "cc");
  return (rights & code_default32) == code_default32;
}

constexpr std::array<int, 7> signals{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPROF};
constexpr long patience = 100'000;  // us of CPU time that a program may run: the machine may be busy

void* map_at(u32 address, std::size_t size, int protection, int fd) {
  // Populated, so that a fault says what the protection is, not that a page was never touched.
  const int flags = MAP_FIXED_NOREPLACE | MAP_POPULATE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
  void* const wanted = reinterpret_cast<void*>(u64{address});
  void* const got = mmap(wanted, size, protection, flags, fd, 0);
  if (got == wanted) return got;
  throw std::runtime_error(fmt::format("cannot map {:#x}: {}", address, std::strerror(errno)));
}

// System calls by the 32-bit ways become signals.
void filter_system_calls() {
  std::array<sock_filter, 4> code{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    throw std::runtime_error("the host refuses a system-call filter");
}

user_desc as_user_desc(u32 index, u64 d) {
  user_desc out{};
  out.entry_number = index;
  if (d == 0) {
    out.read_exec_only = 1;
    out.seg_not_present = 1;
    return out;
  }
  const u32 type = static_cast<u32>(d >> 40) & 0xFu;
  out.base_addr = static_cast<u32>((d >> 16 & 0xFFFFFFu) | (d >> 56 << 24));
  out.limit = static_cast<u32>((d & 0xFFFFu) | (d >> 32 & 0xF0000u));
  out.contents = type >> 2 & 3u;
  out.read_exec_only = (type & 2u) == 0;
  out.seg_not_present = (d >> 47 & 1u) == 0;
  out.seg_32bit = d >> 54 & 1u;
  out.limit_in_pages = d >> 55 & 1u;
  return out;
}

}  // namespace

void fill_trampoline(u8* bytes) {
  // movabs r8, exit; jmp r8: 32-bit code does not see r8.
  const std::array<u8, 2> load{0x49, 0xB8};
  const std::array<u8, 3> jump{0x41, 0xFF, 0xE0};
  const u64 exit = reinterpret_cast<u64>(&ring3_hostcpu_exit);
  std::memset(bytes, 0xF4, page);
  std::memcpy(bytes, load.data(), load.size());
  std::memcpy(bytes + load.size(), &exit, sizeof exit);
  std::memcpy(bytes + load.size() + sizeof exit, jump.data(), jump.size());
}

struct HostCpu::Impl {
  std::vector<u8> signal_stack = std::vector<u8>(std::size_t{256} * 1024);
  u8* code = nullptr;  // writable alias of the code page
  u8* data = nullptr;  // writable alias of all data pages
  Ldt ldt{};
  bool ldt_loaded = false;
  u32 placed_at = 0;
  u32 placed = 0;
};

HostCpu::HostCpu() : impl_(std::make_unique<Impl>()) {
  if (!has_code32_segment()) throw std::runtime_error("this kernel offers no 32-bit code segment (CONFIG_IA32_EMULATION)");
  const auto new_memory = [](std::size_t size) {
    const int fd = memfd_create("ring3-hostcpu", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) throw std::runtime_error("memfd_create failed");
    return fd;
  };
  const auto alias = [](int fd, std::size_t size) {
    void* const p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) throw std::runtime_error("mmap failed");
    return static_cast<u8*>(p);
  };
  const int code_fd = new_memory(code_size);
  map_at(code_base, code_size, PROT_READ | PROT_EXEC, code_fd);
  impl_->code = alias(code_fd, code_size);
  std::memset(impl_->code, 0xF4, code_size);
  const int data_fd = new_memory(data_size);
  map_at(data_base, data_size, PROT_READ | PROT_WRITE, data_fd);
  impl_->data = alias(data_fd, data_size);
  std::memset(impl_->data, 0, data_size);
  if (mprotect(reinterpret_cast<void*>(u64{read_only_base}), page, PROT_READ) != 0) throw std::runtime_error("mprotect failed");
  close(code_fd);
  close(data_fd);
  u8* const trampoline = static_cast<u8*>(map_at(trampoline_base, page, PROT_READ | PROT_WRITE, -1));
  fill_trampoline(trampoline);
  if (mprotect(trampoline, page, PROT_READ | PROT_EXEC) != 0) throw std::runtime_error("mprotect failed");

  const stack_t stack{impl_->signal_stack.data(), 0, impl_->signal_stack.size()};
  if (sigaltstack(&stack, nullptr) != 0) throw std::runtime_error("sigaltstack failed");
  struct sigaction action {};
  action.sa_sigaction = reinterpret_cast<void (*)(int, siginfo_t*, void*)>(ring3_hostcpu_signal);
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigfillset(&action.sa_mask);
  for (const int number : signals) sigaction(number, &action, nullptr);
  filter_system_calls();
  const itimerval timer{{0, patience}, {0, patience}};
  setitimer(ITIMER_PROF, &timer, nullptr);
}

HostCpu::~HostCpu() = default;

void HostCpu::load_ldt(const Ldt& ldt) {
  for (u32 i = 0; i < ldt_entries; ++i) {
    if (impl_->ldt_loaded && impl_->ldt[i] == ldt[i]) continue;
    user_desc d = as_user_desc(i, ldt[i]);
    constexpr int write_new = 0x11;
    if (syscall(SYS_modify_ldt, write_new, &d, sizeof d) != 0) throw std::runtime_error("modify_ldt failed");
  }
  impl_->ldt = ldt;
  impl_->ldt_loaded = true;
}

void HostCpu::place(const Batch& batch, const Program& program) {
  std::memset(impl_->code + impl_->placed_at, 0xF4, impl_->placed);
  const u32 at = program.start - code_base;
  std::memcpy(impl_->code + at, program.code.data(), program.length);
  u32 end = at + program.length;
  if (!program.jumps && end < code_size) {
    // Far jump to the trampoline.
    constexpr u32 longest = 8;
    std::array<u8, longest> jump{0x66, 0xEA};
    const u32 target = trampoline_base;
    std::memcpy(jump.data() + 2, &target, sizeof target);
    std::memcpy(jump.data() + 6, &code64_selector, sizeof code64_selector);
    const u32 skipped = program.code32 ? 1 : 0;
    const u32 size = std::min(longest - skipped, code_size - end);
    std::memcpy(impl_->code + end, jump.data() + skipped, size);
    end += size;
  }
  impl_->placed_at = at;
  impl_->placed = end - at;
  SwitchWords& w = ring3_hostcpu_words;
  w.entry_offset = program.start - batch.segment(program, Seg::cs).base;
  w.entry_selector = program.selector[static_cast<unsigned>(Seg::cs)];
  w.use_fpu = program.fpu ? 1 : 0;
}

void HostCpu::run_state(const Program& program, const State& state, Outcome& out) {
  SwitchWords& w = ring3_hostcpu_words;
  w.gpr = state.gpr;
  w.eflags = state.eflags;
  w.selector = program.selector;
  if (program.fpu) w.fpu = state.fpu;
  w.signal = 0;
  ++w.run;
  ring3_hostcpu_enter();
  out.gpr = w.gpr;
  out.eflags = static_cast<u32>(w.eflags);
  out.selector = w.selector;
  out.vector = no_vector;
  out.error_code = 0;
  out.address = 0;
  if (program.fpu) out.fpu = w.fpu;
  if (w.signal == 0) {
    out.selector[static_cast<unsigned>(Seg::cs)] = w.entry_selector;
    out.eip = w.entry_offset + program.length;
    return;
  }
  out.selector[static_cast<unsigned>(Seg::cs)] = w.cs;
  out.eip = w.eip;
  out.vector = w.signal == SIGSYS ? system_call : w.signal == SIGPROF ? endless : static_cast<u16>(w.vector);
  out.error_code = w.error_code;
  constexpr u32 page_fault = 14;
  if (w.vector == page_fault) out.address = w.address;
}

void HostCpu::run(Batch& batch, u32 first, u32 count, volatile u32& progress) {
  load_ldt(batch.ldt);
  for (u32 i = first; i < first + count; ++i) {
    const Program& program = batch.program[i];
    progress = i;
    std::memcpy(impl_->data, batch.background.data(), data_size);
    place(batch, program);
    for (u32 n = program.first_state; n < program.first_state + program.states; ++n) {
      batch.apply_patches(batch.state[n], impl_->data);
      run_state(program, batch.state[n], batch.expected[n]);
      mask_pointers(batch, program, batch.state[n].gpr, impl_->data);
    }
    std::memcpy(batch.memory[i].data(), impl_->data, data_size);
  }
}

}  // namespace ring3::hostcpu
