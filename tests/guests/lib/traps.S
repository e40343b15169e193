# Entry points of all 256 vectors, and `run_cpu`, which starts code with a complete register state and returns when it traps.
  .intel_syntax noprefix
#define KERNEL_DATA 0x10

  .text
# Vectors at which the CPU pushes an error code (SDM vol. 3, table 6-1): 8, 10-14, 17.
  .altmacro
  .macro entry number
    .balign 16
trap_entry_\number:
    .if (\number == 8) || ((\number >= 10) && (\number <= 14)) || (\number == 17)
    .else
      push 0
    .endif
    push \number
    jmp trap_common
  .endm

  .set vector, 0
  .rept 256
    entry %vector
    .set vector, vector + 1
  .endr

trap_common:
  pushad
  # CPUs may write two of the four bytes that PUSH of a segment register takes (SDM vol. 2, PUSH).
  .irp register, ds, es, fs, gs
  push 0
  mov [esp], \register
  .endr
  mov ax, KERNEL_DATA
  mov ds, eax
  mov es, eax
  cld
  push esp
  call trap_dispatch
  add esp, 4
  test eax, eax
  jnz leave_run
  pop gs
  pop fs
  pop es
  pop ds
  popad
  add esp, 8
  iretd

# Back to the caller of run_cpu, whatever the trapped code did to stack and segments.
leave_run:
  mov ax, KERNEL_DATA
  mov ss, eax
  mov esp, run_stack
  mov dword ptr run_stack, 0
  mov fs, eax
  mov gs, eax
  push 0
  popfd
  pop edi
  pop esi
  pop ebx
  pop ebp
  ret

# void run_cpu(const struct Cpu* cpu): field order of struct Cpu in lib/guest.h.
  .globl run_cpu
run_cpu:
  push ebp
  push ebx
  push esi
  push edi
  mov run_stack, esp
  mov eax, [esp + 20]
  test byte ptr [eax + 40], 3
  jz 1f
  push dword ptr [eax + 44]           # SS and ESP are popped only by a return to an outer ring
  push dword ptr [eax + 28]
  jmp 2f
1:mov esp, [eax + 28]
2:push dword ptr [eax + 36]
  push dword ptr [eax + 40]
  push dword ptr [eax + 32]
  mov ebx, [eax + 4]
  mov ecx, [eax + 8]
  mov edx, [eax + 12]
  mov esi, [eax + 16]
  mov edi, [eax + 20]
  mov ebp, [eax + 24]
  mov es, [eax + 52]
  mov fs, [eax + 56]
  mov gs, [eax + 60]
  push dword ptr [eax + 48]
  mov eax, [eax]
  pop ds
  iretd

  .bss
  .balign 4
  .globl run_stack                    # 0: no run is on
run_stack: .skip 4

  .data
  .balign 4
  .globl trap_entries
  .macro address number
    .long trap_entry_\number
  .endm
trap_entries:
  .set vector, 0
  .rept 256
    address %vector
    .set vector, vector + 1
  .endr

  .section .note.GNU-stack, "", @progbits
