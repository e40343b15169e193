# Entry from a Multiboot 1 loader: protected mode, flat segments, paging off, interrupts off (Multiboot specification 0.6.96, 3.2).
  .intel_syntax noprefix

  .section .multiboot, "a"
  .balign 4
  .long 0x1BADB002                    # magic
  .long 0x00000003                    # page-aligned modules, memory information wanted
  .long -(0x1BADB002 + 0x00000003)

  .text
  .globl start
start:
  cld
  lea esp, main_stack_top
  mov multiboot_magic, eax
  mov multiboot_info, ebx
  push 0
  popfd
  call guest_start

  .bss
  .balign 4096
main_stack:
  .skip 65536
  .globl main_stack_top
main_stack_top:
  .globl multiboot_magic, multiboot_info
multiboot_magic: .skip 4
multiboot_info: .skip 4

  .section .note.GNU-stack, "", @progbits
