# Ways into a stream and out of it. Everything that an event interrupted goes to `current` before anything else uses memory, because at
# ring 0 the stack is the stream's.
  .intel_syntax noprefix
#include "offsets.h"

  .text
# Vectors at which the CPU pushes an error code (SDM vol. 3, table 6-1).
  .altmacro
  .macro entry number
    .balign 16
    .if (\number == 8) || ((\number >= 10) && (\number <= 14)) || (\number == 17)
    .else
      push 0
    .endif
    push \number
    jmp event
  .endm

  .globl event_entries
  .balign 16
event_entries:
  .set vector, 0
  .rept 64
    entry %vector
    .set vector, vector + 1
  .endr

event:
  push eax
  push ecx
  mov ecx, ds
  mov eax, HARNESS_DATA
  mov ds, eax
  mov current + CUR_DS, ecx
  pop dword ptr current + CUR_ECX
  pop dword ptr current + CUR_EAX
  pop dword ptr current + CUR_VECTOR
  pop dword ptr current + CUR_ERROR
  push 0                              # vector, error code and EFLAGS are taken from the stack: QEMU's differ in ways that are known
  push 0                              # (run_streams)
  lea esp, [esp + 8]
  pop dword ptr current + CUR_EIP
  pop dword ptr current + CUR_CS
  pop dword ptr current + CUR_EFLAGS
  push 0
  lea esp, [esp + 4]
  test byte ptr current + CUR_CS, 3
  jz 1f
  pop dword ptr current + CUR_ESP
  pop dword ptr current + CUR_SS
  jmp 2f
1:mov current + CUR_ESP, esp
  mov eax, ss
  mov current + CUR_SS, eax
2:mov eax, HARNESS_DATA
  mov ss, eax
  lea esp, harness_stack_top
save_rest:
  mov eax, es
  mov current + CUR_ES, eax
  mov eax, fs
  mov current + CUR_FS, eax
  mov eax, gs
  mov current + CUR_GS, eax
  mov eax, HARNESS_DATA
  mov es, eax
  mov current + CUR_EDX, edx
  mov current + CUR_EBX, ebx
  mov current + CUR_EBP, ebp
  mov current + CUR_ESI, esi
  mov current + CUR_EDI, edi
  cld
  call on_event
  test eax, eax
  jz leave_stream

# Into the stream, or back into it: `current` is the state.
resume_stream:
  mov ecx, current + CUR_ES
  mov es, ecx
  test byte ptr current + CUR_CS, 3
  jz 1f
  push dword ptr current + CUR_SS
  push dword ptr current + CUR_ESP
  jmp 2f
1:mov ss, current + CUR_SS
  mov esp, current + CUR_ESP
2:push dword ptr current + CUR_EFLAGS
  push dword ptr current + CUR_CS
  push dword ptr current + CUR_EIP
  mov ecx, current + CUR_ECX
  mov edx, current + CUR_EDX
  mov ebx, current + CUR_EBX
  mov ebp, current + CUR_EBP
  mov esi, current + CUR_ESI
  mov edi, current + CUR_EDI
  push dword ptr current + CUR_EAX
  mov eax, current + CUR_DS
  mov ds, eax
  pop eax
  iretd

# void enter_stream(void): returns when the stream has ended.
  .globl enter_stream
enter_stream:
  push ebp
  push ebx
  push esi
  push edi
  mov main_stack_pointer, esp
  mov fs, current + CUR_FS
  mov gs, current + CUR_GS
  lea esp, harness_stack_top
  jmp resume_stream

leave_stream:
  mov esp, main_stack_pointer
  pop edi
  pop esi
  pop ebx
  pop ebp
  ret

# SYSENTER leads here: neither stack nor return address come with it.
  .globl sysenter_entry
sysenter_entry:
  push eax
  push ecx
  mov ecx, ds
  mov eax, HARNESS_DATA
  mov ds, eax
  mov current + CUR_DS, ecx
  pop dword ptr current + CUR_ECX
  pop dword ptr current + CUR_EAX
  mov dword ptr current + CUR_VECTOR, 0x100
  mov dword ptr current + CUR_ERROR, 0
  mov dword ptr current + CUR_EIP, 0
  mov dword ptr current + CUR_CS, 0
  pushfd
  pop dword ptr current + CUR_EFLAGS
  mov current + CUR_ESP, esp
  mov dword ptr current + CUR_SS, 0
  lea esp, harness_stack_top
  jmp save_rest

# The timer, where its interrupts must be transparent: no state of the stream changes but the words below a ring-0 stack.
  .globl tick_entry
  .balign 16
tick_entry:
  push eax
  push ecx
  mov ecx, ds
  mov eax, HARNESS_DATA
  mov ds, eax
  mov al, 0x20
  out 0x20, al
  inc dword ptr ticks
  # What a return to an outer ring changes (SDM vol. 2, IRET): ESP's upper half if the stack is a 16-bit one, the RPL of NULL selectors.
  test byte ptr [esp + 12], 3
  jz 4f
  .irp segment, ds, es, fs, gs
    .ifc \segment, ds
      mov eax, ecx
    .else
      mov eax, \segment
    .endif
    dec eax
    cmp ax, 2
    jbe 3f
  .endr
  lar eax, [esp + 24]
  jnz 4f
  test eax, 0x400000
  jnz 4f
3:inc dword ptr visible_ticks
4:mov eax, ticks
  cmp eax, tick_limit
  ja 1f
  mov ds, ecx
  pop ecx
  pop eax
  iretd
1:mov current + CUR_DS, ecx           # too long: the stream ends here
  mov eax, HARNESS_DATA
  mov ss, eax
  lea esp, harness_stack_top
  mov dword ptr current + CUR_VECTOR, 0x200
  mov dword ptr current + CUR_ERROR, 0
  jmp save_rest

# void hash_pages(const void* from, u32 pages, u32 out[][4]): AES rounds as a mixing function, 64 bytes a turn.
  .globl hash_pages
hash_pages:
  push esi
  push edi
  mov esi, [esp + 12]
  mov edx, [esp + 16]
  mov edi, [esp + 20]
1:pxor xmm0, xmm0
  pxor xmm1, xmm1
  pxor xmm2, xmm2
  pxor xmm3, xmm3
  mov ecx, 32
2:aesenc xmm0, [esi]
  aesenc xmm1, [esi + 16]
  aesenc xmm2, [esi + 32]
  aesenc xmm3, [esi + 48]
  aesenc xmm0, [esi + 64]
  aesenc xmm1, [esi + 80]
  aesenc xmm2, [esi + 96]
  aesenc xmm3, [esi + 112]
  add esi, 128
  dec ecx
  jnz 2b
  aesenc xmm0, xmm1
  aesenc xmm0, xmm2
  aesenc xmm0, xmm3
  aesenc xmm0, xmm0
  aesenc xmm0, xmm1
  movdqu [edi], xmm0
  add edi, 16
  dec edx
  jnz 1b
  pop edi
  pop esi
  ret

# void hash_blocks(const void* from, u32 blocks, u32 out[4]): the same for blocks of 16 bytes.
  .globl hash_blocks
hash_blocks:
  mov eax, [esp + 4]
  mov ecx, [esp + 8]
  mov edx, [esp + 12]
  pxor xmm0, xmm0
1:aesenc xmm0, [eax]
  add eax, 16
  dec ecx
  jnz 1b
  aesenc xmm0, xmm0
  aesenc xmm0, xmm0
  aesenc xmm0, xmm0
  movdqu [edx], xmm0
  ret

  .bss
  .balign 16
  .globl harness_stack
harness_stack:
  .skip 8192
  .globl harness_stack_top
harness_stack_top:
  .globl main_stack_pointer
main_stack_pointer: .skip 4

  .section .note.GNU-stack, "", @progbits
