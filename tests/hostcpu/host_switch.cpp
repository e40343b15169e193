#include "host_switch.h"

ring3::hostcpu::SwitchWords ring3_hostcpu_words;

// Flags are loaded before and stored after the registers with instructions that leave them alone. While a program runs, FS belongs to it,
// and with it the C library's thread pointer: nothing of C++ may run before that is back. Signal handlers are entered with the program's
// AC flag.
asm(R"(
  .text
  .set W, ring3_hostcpu_words
  .globl ring3_hostcpu_enter
ring3_hostcpu_enter:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, W+40(%rip)
  rdfsbase %rax
  mov %rax, W+48(%rip)
  stmxcsr W+68(%rip)
  cmpl $0, W+64(%rip)
  je 1f
  fxrstor64 W+128(%rip)
1:
  movl $1, W+72(%rip)
  pushq W+32(%rip)
  popfq
  mov W+76(%rip), %es
  mov W+82(%rip), %ds
  mov W+84(%rip), %fs
  mov W+86(%rip), %gs
  mov W+80(%rip), %ss
  mov W+16(%rip), %esp
  mov W+0(%rip), %eax
  mov W+4(%rip), %ecx
  mov W+8(%rip), %edx
  mov W+12(%rip), %ebx
  mov W+20(%rip), %ebp
  mov W+24(%rip), %esi
  mov W+28(%rip), %edi
  ljmp *W+56(%rip)

  .globl ring3_hostcpu_exit
ring3_hostcpu_exit:
  mov %eax, W+0(%rip)
  mov %ecx, W+4(%rip)
  mov %edx, W+8(%rip)
  mov %ebx, W+12(%rip)
  mov %esp, W+16(%rip)
  mov %ebp, W+20(%rip)
  mov %esi, W+24(%rip)
  mov %edi, W+28(%rip)
  mov %es, W+76(%rip)
  mov %ss, W+80(%rip)
  mov %ds, W+82(%rip)
  mov %fs, W+84(%rip)
  mov %gs, W+86(%rip)
  mov $0x2B, %eax
  mov %eax, %ss
  mov W+40(%rip), %rsp
  pushfq
  popq W+32(%rip)

  .globl ring3_hostcpu_exit_after_signal
ring3_hostcpu_exit_after_signal:
  mov W+40(%rip), %rsp
  pushq $0x202
  popfq
  xor %eax, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %gs
  mov %eax, %fs
  mov W+48(%rip), %rax
  wrfsbase %rax
  movl $0, W+72(%rip)
  cmpl $0, W+64(%rip)
  je 2f
  fxsave64 W+128(%rip)
  fninit
2:
  ldmxcsr W+68(%rip)
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret

  .globl ring3_hostcpu_signal
ring3_hostcpu_signal:
  pushfq
  andl $~0x40000, (%rsp)
  popfq
  cmpl $0, W+72(%rip)
  je ring3_hostcpu_on_signal
  mov %es, W+88(%rip)
  mov %ds, W+94(%rip)
  mov %fs, W+96(%rip)
  mov %gs, W+98(%rip)
  xor %eax, %eax
  mov %eax, %fs
  mov W+48(%rip), %rax
  wrfsbase %rax
  sub $8, %rsp
  call ring3_hostcpu_on_signal
  add $8, %rsp
  movzwl W+96(%rip), %eax
  test %eax, %eax
  je 3f
  mov %eax, %fs
3:
  ret
)");
