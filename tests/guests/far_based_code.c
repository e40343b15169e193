// Far transfers and events out of code whose segment has a base, 32-bit and 16-bit: what is pushed is EIP, not the linear address; default
// operand sizes follow the segment; a fault reports EIP as an offset (SDM vol. 2, CALL, RET, INT n, IRET; vol. 3, 3.4.5).
//
// expect:
//   32-bit code: ok
//   16-bit code: ok
// end
#include "lib/transfer.h"

// The bytes are the same in 16-bit and 32-bit code.
SNIPPET(call_m, ".byte 0xFF, 0x1F\n");  // call far [edi], or [bx] in 16-bit code
SNIPPET(call_m_66, ".byte 0x66, 0xFF, 0x1F\n");
SNIPPET(jmp_m, ".byte 0xFF, 0x2F\n");
SNIPPET(jmp_m_66, ".byte 0x66, 0xFF, 0x2F\n");
SNIPPET(do_int, "int 0x90\n");
SNIPPET(do_ud, "ud2\n");
SNIPPET(retf_, "retf\n");
SNIPPET(retf_66, ".byte 0x66, 0xCB\n");
SNIPPET(iret_, ".byte 0xCF\n");
SNIPPET(iret_66, ".byte 0x66, 0xCF\n");

enum { source_offset = 0x4560 };

// `code` at offset 4560h of a segment of its own.
static struct Cpu start_based(u32 cpl, const u8* code, bool wide) {
  gdt[other_slot / 8] = descriptor((u32)code - source_offset, 0xFFFFF, (u8)(0x9B | cpl << 5), wide ? 0xC : 0x8);
  struct Cpu cpu = start_in(cpl, code);
  cpu.cs = other_slot | cpl;
  cpu.eip = source_offset;
  return cpu;
}

static void put_pointer(u32 at, u32 size, u32 cs) {
  write32(at, pad_offset | (size == 2 ? cs << 16 : 0));
  write32(at + 4, cs);
}

static void all_of(bool wide) {
  group(wide ? "32-bit code" : "16-bit code");
  // EDI and EBX are 0: DS begins at far_pointer.
  for (u32 cpl = 0; cpl < 4; cpl++) {
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | cpl << 5), 0xC);
    gdt[base_slot / 8] = descriptor((u32)&far_pointer, 0xFFF, (u8)(0x93 | cpl << 5), 4);
    for (u32 prefixed = 0; prefixed < 2; prefixed++) {
      const u32 size = wide != prefixed ? 4 : 2;
      struct Cpu start = start_based(cpl, prefixed ? call_m_66 : call_m, wide), end;
      start.ds = base_slot | cpl;
      start.ebx = 0;
      put_pointer((u32)&far_pointer, size, slot | cpl);
      end = start;
      end.cs = slot | cpl;
      end.eip = pad_offset;
      end.esp -= 2 * size;
      landed("CALL", &start, &end);
      const u32 frame[] = {source_offset + 2 + prefixed, start.cs};
      check_items("return address of CALL", end.esp, frame, 2, size);
      gdt[slot / 8] &= ~(1ull << 47);
      refused("CALL to absent code", &start, v_not_present, slot);
      gdt[slot / 8] |= 1ull << 47;

      start = start_based(cpl, prefixed ? jmp_m_66 : jmp_m, wide);
      start.ds = base_slot | cpl;
      start.ebx = 0;
      end.esp = start.esp;
      landed("JMP", &start, &end);

      start = end = start_based(cpl, prefixed ? retf_66 : retf_, wide);
      write32(start.esp, size == 4 ? (u32)pad_offset : (u32)pad_offset | (slot | cpl) << 16);
      write32(start.esp + 4, slot | cpl);
      end.cs = slot | cpl;
      end.eip = pad_offset;
      end.esp += 2 * size;
      landed("RETF", &start, &end);

      start = end = start_based(cpl, prefixed ? iret_66 : iret_, wide);
      write32(start.esp, size == 4 ? (u32)pad_offset : (u32)pad_offset | (slot | cpl) << 16);
      write32(start.esp + 4, size == 4 ? (u32)(slot | cpl) : f_fixed | f_cf);
      write32(start.esp + 8, f_fixed | f_cf);
      end.cs = slot | cpl;
      end.eip = pad_offset;
      end.esp += 3 * size;
      end.eflags |= f_cf;
      landed("IRET", &start, &end);
      write32(start.esp, size == 4 ? (u32)pad_offset : (u32)pad_offset);
      write32(start.esp + 4, 0);
      refused("IRET to NULL", &start, v_protection, 0);
    }
    // The gate's size, not the code's, is that of the frame; interrupted 16-bit code has 32 bits of EIP.
    for (u32 n = 0; n < 4; n++) {
      const u32 type = n & 1 ? 15 : 7, size = type & 8 ? 4 : 2;
      const u8 vector = n & 2 ? v_opcode : 0x90;
      const u64 good_gate = idt[vector];
      idt[vector] = gate(slot, pad_offset, (u8)(0xE0 | type));
      struct Cpu start = start_based(cpl, n & 2 ? do_ud : do_int, wide), end = start;
      end.cs = slot | cpl;
      end.eip = pad_offset;
      end.esp -= 3 * size;
      landed("INT n or #UD", &start, &end);
      const u32 frame[] = {source_offset + (n & 2 ? 0 : 2), start.cs};
      check_items("EIP and CS", end.esp, frame, 2, size);
      idt[vector] &= ~(1ull << 47);
      if (vector == 0x90) refused("gate absent", &start, v_not_present, 0x90 * 8 + 2);
      idt[vector] = good_gate;
    }
    if (cpl == 0) continue;
    // Through a call gate to ring 0, whose frame has the gate's size.
    for (u32 n = 0; n < 2; n++) {
      const u32 size = n ? 4 : 2;
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0x9B, 0xC);
      gdt[gate_slot / 8] = call_gate(slot, pad_offset, n ? 0xEC : 0xE4, 0);
      struct Cpu start = start_based(cpl, call_m, wide), end;
      start.ds = base_slot | cpl;
      start.ebx = 0;
      put_pointer((u32)&far_pointer, wide ? 4 : 2, gate_slot);
      end = start;
      end.cs = slot;
      end.eip = pad_offset;
      end.ss = kernel_data;
      end.esp = stack_top(0) - 4 * size;
      landed("call gate", &start, &end);
      const u32 frame[] = {source_offset + 2, start.cs, start.esp, start.ss};
      check_items("frame of the gate", end.esp, frame, 4, size);
    }
  }
}

void guest_main(void) {
  transfer_init();
  all_of(true);
  all_of(false);
}
