#include "host_cpu.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace ring3::hostcpu {

namespace {

// Shared with the assembly below by offset; lies at state_base, which absolute 32-bit addresses reach from both modes.
struct Words {
  std::array<u32, 8> gpr;
  u64 eflags;          // 32
  u64 host_stack;      // 40
  u64 exit;            // 48: where the trampoline goes
  u32 entry_offset;    // 56: far pointer to the instruction
  u16 entry_selector;  // 60
  u16 unused;          // 62
  u32 use_fpu;         // 64
  u32 host_mxcsr;      // 68
  u32 in_guest;        // 72
  u32 data_selector;   // 76
  u8 gap[48];
  FxImage fpu;  // 128
  // Filled by the signal handler.
  u32 faulted;
  u32 vector;
  u32 error_code;
  u32 address;
  u32 eip;
};
static_assert(offsetof(Words, eflags) == 32 && offsetof(Words, host_stack) == 40 && offsetof(Words, exit) == 48);
static_assert(offsetof(Words, entry_offset) == 56 && offsetof(Words, use_fpu) == 64 && offsetof(Words, host_mxcsr) == 68);
static_assert(offsetof(Words, in_guest) == 72 && offsetof(Words, data_selector) == 76 && offsetof(Words, fpu) == 128);
static_assert(state_base == 0x40000000);

Words& words() { return *reinterpret_cast<Words*>(u64{state_base}); }

constexpr u16 code64_selector = 0x33;

}  // namespace

extern "C" {
void ring3_hostcpu_enter();
void ring3_hostcpu_exit();
void ring3_hostcpu_exit_after_fault();
}

// Flags are loaded before and stored after the registers with instructions that leave them alone. DS and ES are null in 64-bit processes.
asm(R"(
  .text
  .set WORDS, 0x40000000
  .globl ring3_hostcpu_enter
ring3_hostcpu_enter:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, WORDS+40
  stmxcsr WORDS+68
  mov WORDS+76, %ecx
  mov %ecx, %ds
  mov %ecx, %es
  cmpl $0, WORDS+64
  je 1f
  fxrstor64 WORDS+128
1:
  movl $1, WORDS+72
  pushq WORDS+32
  popfq
  mov WORDS+0, %eax
  mov WORDS+4, %ecx
  mov WORDS+8, %edx
  mov WORDS+12, %ebx
  mov WORDS+16, %esp
  mov WORDS+20, %ebp
  mov WORDS+24, %esi
  mov WORDS+28, %edi
  ljmp *WORDS+56

  .globl ring3_hostcpu_exit
ring3_hostcpu_exit:
  mov %eax, WORDS+0
  mov %ecx, WORDS+4
  mov %edx, WORDS+8
  mov %ebx, WORDS+12
  mov %esp, WORDS+16
  mov %ebp, WORDS+20
  mov %esi, WORDS+24
  mov %edi, WORDS+28
  mov WORDS+40, %rsp
  pushfq
  popq WORDS+32

  .globl ring3_hostcpu_exit_after_fault
ring3_hostcpu_exit_after_fault:
  mov WORDS+40, %rsp
  pushq $0x202
  popfq
  movl $0, WORDS+72
  cmpl $0, WORDS+64
  je 2f
  fxsave64 WORDS+128
  fninit
2:
  ldmxcsr WORDS+68
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
)");

namespace {

void on_fault(int signal_number, siginfo_t*, void* context) {
  auto& uc = *static_cast<ucontext_t*>(context);
  auto* const g = uc.uc_mcontext.gregs;
  Words& w = words();
  if (w.in_guest == 0 || (g[REG_CSGSFS] & 0xFFFF) != code_selector) {
    signal(signal_number, SIG_DFL);  // a bug of the test itself: crash
    return;
  }
  constexpr std::array<int, 8> order{REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI};
  for (unsigned i = 0; i < 8; ++i) w.gpr[i] = static_cast<u32>(g[order[i]]);
  w.eflags = static_cast<u64>(g[REG_EFL]);
  w.eip = static_cast<u32>(g[REG_RIP]);
  w.faulted = 1;
  w.vector = static_cast<u32>(g[REG_TRAPNO]);
  w.error_code = static_cast<u32>(g[REG_ERR]);
  w.address = static_cast<u32>(g[REG_CR2]);
  g[REG_RIP] = static_cast<greg_t>(reinterpret_cast<u64>(&ring3_hostcpu_exit_after_fault));
  g[REG_CSGSFS] = (g[REG_CSGSFS] & ~greg_t{0xFFFF}) | code64_selector;
  g[REG_EFL] = 0x202;
}

bool has_code32_segment() {
  constexpr u32 code_default32 = 0x00400800;  // D and the type bit of code, as LAR shows them
  u32 rights = 0;
  asm("lar %1, %0" : "+r"(rights) : "r"(u32{code_selector}) : "cc");
  return (rights & code_default32) == code_default32;
}

constexpr std::array<int, 5> fault_signals{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

void* map_at(u32 address, std::size_t size, int protection, int fd) {
  // Populated, so that a fault says what the protection is, not that a page was never touched.
  const int flags = MAP_FIXED_NOREPLACE | MAP_POPULATE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
  void* const wanted = reinterpret_cast<void*>(u64{address});
  void* const got = mmap(wanted, size, protection, flags, fd, 0);
  if (got == wanted) return got;
  throw std::runtime_error(fmt::format("cannot map {:#x}: {}", address, std::strerror(errno)));
}

}  // namespace

struct HostCpu::Impl {
  std::vector<u8> signal_stack = std::vector<u8>(std::size_t{256} * 1024);
  std::array<struct sigaction, fault_signals.size()> old_actions{};
  u8* code = nullptr;       // writable alias of the code page
  u8* read_only = nullptr;  // writable alias of all data pages
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
  impl_->read_only = alias(data_fd, data_size);
  if (mprotect(reinterpret_cast<void*>(u64{read_only_base}), page, PROT_READ) != 0) throw std::runtime_error("mprotect failed");
  close(code_fd);
  close(data_fd);

  map_at(state_base, 2 * page, PROT_READ | PROT_WRITE, -1);
  u8* const trampoline = static_cast<u8*>(map_at(trampoline_base, page, PROT_READ | PROT_WRITE, -1));
  const u32 exit_word = state_base + offsetof(Words, exit);
  const std::array<u8, 3> jump{0xFF, 0x24, 0x25};  // jmp [disp32]
  std::memcpy(trampoline, jump.data(), jump.size());
  std::memcpy(trampoline + 3, &exit_word, sizeof exit_word);
  if (mprotect(trampoline, page, PROT_READ | PROT_EXEC) != 0) throw std::runtime_error("mprotect failed");

  Words& w = words();
  w.exit = reinterpret_cast<u64>(&ring3_hostcpu_exit);
  w.entry_offset = code_start;
  w.entry_selector = code_selector;
  w.data_selector = data_selector;

  const stack_t stack{impl_->signal_stack.data(), 0, impl_->signal_stack.size()};
  if (sigaltstack(&stack, nullptr) != 0) throw std::runtime_error("sigaltstack failed");
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  for (std::size_t i = 0; i < fault_signals.size(); ++i) sigaction(fault_signals[i], &action, &impl_->old_actions[i]);
}

HostCpu::~HostCpu() {
  for (std::size_t i = 0; i < fault_signals.size(); ++i) sigaction(fault_signals[i], &impl_->old_actions[i], nullptr);
  const stack_t off{nullptr, SS_DISABLE, 0};
  sigaltstack(&off, nullptr);
  munmap(impl_->code, code_size);
  munmap(impl_->read_only, data_size);
  const auto unmap = [](u32 address, std::size_t size) { munmap(reinterpret_cast<void*>(u64{address}), size); };
  unmap(code_base, code_size);
  unmap(data_base, data_size);
  unmap(state_base, std::size_t{2} * page);
  unmap(trampoline_base, page);
}

u8* HostCpu::data() { return impl_->read_only; }

void HostCpu::run(const Case& test, Outcome& out) {
  // The instruction, then a far jump to the 64-bit trampoline, or HLTs when jumps are to be seen.
  u8* const at = impl_->code + (code_start - code_base);
  const std::array<u8, 64> code = test.code();
  const u32 length = test.length();
  std::memcpy(at, code.data(), length);
  u8* const next = at + length;
  std::memset(next, 0xF4, 64);
  if (!test.jumps) {
    const u32 target = trampoline_base;
    next[0] = 0xEA;
    std::memcpy(next + 1, &target, sizeof target);
    std::memcpy(next + 5, &code64_selector, sizeof code64_selector);
  }

  Words& w = words();
  w.gpr = test.before.gpr;
  w.eflags = test.before.eflags;
  w.use_fpu = test.fpu ? 1 : 0;
  if (test.fpu) w.fpu = test.before.fpu;
  w.faulted = 0;
  ring3_hostcpu_enter();

  out.failure[0] = 0;
  out.after.gpr = w.gpr;
  out.after.eflags = static_cast<u32>(w.eflags);
  if (test.fpu) out.after.fpu = w.fpu;
  out.faulted = w.faulted != 0 && w.eip == test.address();
  out.after.eip = w.faulted != 0 ? w.eip : code_start + length;
  out.vector = 0;
  out.error_code = 0;
  out.address = 0;
  if (w.faulted != 0 && !out.faulted) {
    // A jump arrived at an HLT, or at an address that cannot be fetched.
    constexpr u32 vector_gp = 13;
    constexpr u32 vector_pf = 14;
    const bool arrived = w.vector == vector_gp || (w.vector == vector_pf && w.address == w.eip);
    if (!arrived) out.fail(fmt::format("vector {} at {:#x} after the instruction", w.vector, w.eip));
  }
  if (out.faulted) {
    out.vector = static_cast<u8>(w.vector);
    out.error_code = w.error_code;
    if (w.vector == 14) out.address = w.address;
  }
}

}  // namespace ring3::hostcpu
