// Far CALL and JMP, direct and through call gates, in all four rings: every descriptor as target, as gate and as the code that a gate
// names. What must happen is computed here from the pseudo-code of SDM vol. 2, CALL and JMP; what is refused changes no register and no
// descriptor. Stacks of inner rings: gate_stacks.c.
//
// qemu: deviates in "TSS as target" (it takes one in the LDT)
// qemu: deviates in "accessed bits" (far transfers do not set them)
// qemu: deviates in "selectors in gates" (a JMP through a gate takes NULL for entry 0 of the GDT)
// qemu: deviates in "limits of pointers and targets" (it checks no limits, and lets the selector of a 16-bit address cross 64 KiB)
// qemu: deviates in "JMP through gates" (absent code is #GP, not #NP)
// qemu: deviates in "conforming targets" (as above, and a CALL through a gate sets CPL to the DPL of conforming code)
//
// expect:
//   direct: ok
//   TSS as target: ok
//   selectors: ok
//   privileges of gates: ok
//   CALL through gates: ok
//   JMP through gates: ok
//   conforming targets: ok
//   conforming targets: ok
//   selectors in gates: ok
//   immediate operands: ok
//   limits of pointers and targets: ok
//   accessed bits: ok
// end
#include "lib/transfer.h"

enum Operation { op_jmp, op_call, op_jmp16, op_call16, operations };
SNIPPET(jmp_m, "jmp fword ptr [ebx]\n");
SNIPPET(call_m, "call fword ptr [ebx]\n");
SNIPPET(jmp_m16, ".byte 0x66, 0xFF, 0x2B\n");
SNIPPET(call_m16, ".byte 0x66, 0xFF, 0x1B\n");
static const u8* const codes[] = {jmp_m, call_m, jmp_m16, call_m16};
static const u32 lengths[] = {2, 2, 3, 3};

static struct Cpu start_far(enum Operation op, u32 cpl, u16 selector, u32 offset) {
  struct Cpu cpu = start_in(cpl, codes[op]);
  far_pointer.offset = offset;
  far_pointer.selector = selector;
  if (op >= op_jmp16) far_pointer.offset = (offset & 0xFFFF) | (u32)selector << 16;
  return cpu;
}

// Makes `base_slot` code of `ring`, accessed.
static void base_code_of(u32 ring) { gdt[base_slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | ring << 5), 0xC); }

static bool is_call(enum Operation op) { return op == op_call || op == op_call16; }

// Lands at `offset` of `cs` without a change of ring; a call has pushed two items of `size` bytes.
static bool lands_here(const char* what, enum Operation op, const struct Cpu* start, u32 cs, u32 offset, u32 size) {
  struct Cpu end = *start;
  const u32 frame[] = {start->eip + lengths[op], start->cs};
  end.cs = (cs & ~3u) | (start->cs & 3);
  end.eip = offset;
  if (is_call(op)) end.esp -= 2 * size;
  bool good = landed(what, start, &end);
  if (is_call(op)) good &= check_items("return address", end.esp, frame, 2, size);
  return good;
}

static struct Outcome direct(u8 access, u32 rpl, u32 cpl) {
  const u32 dpl = access >> 5 & 3;
  const bool code = (access & 0x18) == 0x18, conforming = access & 4, present = access & 0x80;
  const struct Outcome protection = {v_protection, slot}, absent = {v_not_present, slot};
  if (access & 0x10) {
    if (!code) return protection;
    if (conforming ? dpl > cpl : rpl > cpl || dpl != cpl) return protection;
    return present ? (struct Outcome){vector_done, 0} : absent;
  }
  const u32 type = access & 15;
  const bool tss_free = type == 1 || type == 9, call_gate_any = type == 4 || type == 12, task_gate = type == 5;
  if (!tss_free && !call_gate_any && !task_gate) return protection;
  if (dpl < cpl || dpl < rpl) return protection;
  if (!present) return absent;
  if (tss_free) return (struct Outcome){v_tss, slot};                  // too short: SDM vol. 3, table 7-1
  if (task_gate) return (struct Outcome){v_protection, tss_selector};  // busy
  return (struct Outcome){vector_done, 0};
}

static u64 direct_target(u8 access) {
  const u32 type = access & 31;
  if (access & 0x10) return descriptor((u32)pad - pad_offset, 0xFFFFF, access, 0xC);
  if (type == 4 || type == 12) return call_gate(base_slot, pad_offset, access, 0);
  if (type == 5) return gate(tss_selector, 0, access);
  return descriptor((u32)&tss, 0x20, access, 0);
}

static void direct_targets(void) {
  group("direct");
  for (u32 access = 0; access < 256; access++) {
    for (u32 n = 0; n < 4 * 4 * operations; n++) {
      const u32 rpl = n & 3, cpl = n >> 2 & 3, op = n >> 4;
      if (op >= op_jmp16 && ((access ^ access >> 1) & 1)) continue;  // a half of them is enough
      const u64 before = gdt[slot / 8] = direct_target((u8)access);
      base_code_of(cpl);
      struct Cpu start = start_far(op, cpl, (u16)(slot | rpl), pad_offset);
      struct Outcome want = direct((u8)access, rpl, cpl);
      bool good;
      if (want.vector != vector_done) {
        good = refused("refused", &start, want.vector, want.error);
      } else if (access & 0x10) {
        good = lands_here("code", op, &start, slot, pad_offset, op >= op_jmp16 ? 2 : 4);
        note_accessed(slot, before);
      } else {
        good = lands_here("gate", op, &start, base_slot, pad_offset, access & 8 ? 4 : 2);
      }
      if (!good && showing_failures()) printf("       access %x rpl %u cpl %u operation %u\n", access, rpl, cpl, op);
    }
  }
  group("TSS as target");
  ldt[3] = descriptor((u32)&tss, 0x67, 0xE9, 0);
  for (u32 op = 0; op < 2; op++) {
    struct Cpu start = start_far(op, 3, 0x1F, 0);
    refused("TSS in the LDT", &start, v_protection, 0x1C);
  }
}

static void set_ldt_limit(u32 limit) {
  gdt[ldt_slot / 8] = descriptor((u32)ldt, limit, 0x82, 0);
  __asm__ volatile("lldt %w0" ::"r"(limit ? (u32)ldt_slot : 0));
}

static void selectors(void) {
  group("selectors");
  ldt[2] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFF, 0xC);
  ldt[ldt_entries - 1] = ldt[2];
  const u16 last = (ldt_entries - 1) * 8 | 4;
  static const struct {
    u16 selector;
    u32 error;
  } bad[] = {{0, 0},
             {1, 0},
             {2, 0},
             {3, 0},
             {gdt_entries * 8, gdt_entries * 8},
             {0xFFFB, 0xFFF8},
             {ldt_entries * 8 | 7, ldt_entries * 8 | 4},
             {0xFFFF, 0xFFFC}};
  gdt[0] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);  // NULL does not lead there
  for (u32 op = 0; op < operations; op++) {
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
      struct Cpu start = start_far(op, 3, bad[i].selector, pad_offset);
      refused("outside", &start, v_protection, bad[i].error);
    }
    struct Cpu start = start_far(op, 3, last, pad_offset);
    lands_here("last of the LDT", op, &start, last, pad_offset, op >= op_jmp16 ? 2 : 4);
    set_ldt_limit(sizeof(ldt) - 2);
    refused("the LDT ends a byte too early", &start, v_protection, last & ~3u);
    set_ldt_limit(0);
    refused("no LDT", &start, v_protection, last & ~3u);
    set_ldt_limit(sizeof(ldt) - 1);
    gdt[slot / 8] = ldt[2];
    struct TableRegister table = {slot + 7, (u32)gdt};
    start = start_far(op, 0, slot, pad_offset);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0x9F, 0xC);
    __asm__ volatile("lgdt %0" ::"m"(table));
    lands_here("last of the GDT", op, &start, slot, pad_offset, op >= op_jmp16 ? 2 : 4);
    table.limit--;
    __asm__ volatile("lgdt %0" ::"m"(table));
    refused("the GDT ends a byte too early", &start, v_protection, slot);
    table.limit = sizeof(gdt) - 1;
    __asm__ volatile("lgdt %0" ::"m"(table));
  }
}

// DPL of the gate against CPL and RPL, and presence, for 16- and 32-bit gates; DPL comes first.
static void gate_privileges(void) {
  group("privileges of gates");
  for (u32 n = 0; n < 4 * 4 * 4 * 2 * 2 * operations; n++) {
    const u32 dpl = n & 3, rpl = n >> 2 & 3, cpl = n >> 4 & 3, present = n >> 6 & 1, wide = n >> 7 & 1, op = n >> 8;
    gdt[gate_slot / 8] = call_gate(base_slot | 3, pad_offset, (u8)(0x04 | wide << 3 | dpl << 5 | present << 7), 0);
    base_code_of(cpl);
    struct Cpu start = start_far(op, cpl, (u16)(gate_slot | rpl), 0xDEAD);
    bool good;
    if (dpl < cpl || dpl < rpl)
      good = refused("DPL", &start, v_protection, gate_slot);
    else if (!present)
      good = refused("absent", &start, v_not_present, gate_slot);
    else
      good = lands_here("through the gate", op, &start, base_slot, pad_offset, wide ? 4 : 2);
    if (!good && showing_failures())
      printf("       dpl %u rpl %u cpl %u present %u wide %u operation %u\n", dpl, rpl, cpl, present, wide, op);
  }
}

// The code segment that a gate names: it may be more privileged for CALL, and its selector's RPL does not matter.
static void gate_targets(enum Operation op, bool conforming_code) {
  group(conforming_code ? "conforming targets" : op == op_jmp ? "JMP through gates" : "CALL through gates");
  for (u32 access = 0; access < 256; access++) {
    if (conforming_code != ((access & 0x1C) == 0x1C)) continue;
    for (u32 n = 0; n < 4 * 2 * 2; n++) {
      const u32 cpl = n & 3, wide = n >> 2 & 1, rpl = n >> 3 & 1 ? 3 : 0, size = wide ? 4 : 2;
      const u32 dpl = access >> 5 & 3;
      const bool code = (access & 0x18) == 0x18, conforming = access & 4, present = access & 0x80;
      const u64 before = gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)access, 0xC);
      gdt[gate_slot / 8] = call_gate((u16)(slot | rpl), pad_offset, wide ? 0xEC : 0xE4, 0);
      struct Cpu start = start_far(op, cpl, gate_slot | 3, 0);
      const bool level_fits = op == op_call || conforming ? dpl <= cpl : dpl == cpl;
      bool good;
      if (!code || !level_fits) {
        good = refused("type or DPL", &start, v_protection, slot);
      } else if (!present) {
        good = refused("absent", &start, v_not_present, slot);
      } else if (conforming || dpl == cpl) {
        good = lands_here("in the ring", op, &start, slot, pad_offset, size);
        note_accessed(slot, before);
      } else {
        struct Cpu end = start;
        end.cs = slot | dpl;
        end.eip = pad_offset;
        end.ss = data_of(dpl);
        end.esp = stack_top(dpl) - 4 * size;
        const u32 frame[] = {start.eip + lengths[op], start.cs, start.esp, start.ss};
        good = landed("in an inner ring", &start, &end);
        good &= check_items("frame", end.esp, frame, 4, size);
        note_accessed(slot, before);
      }
      if (!good && showing_failures()) printf("       access %x cpl %u operation %u wide %u rpl %u\n", access, cpl, op, wide, rpl);
    }
  }
}

static void gate_selectors(void) {
  group("selectors in gates");
  static const struct {
    u16 selector;
    u32 error;
  } bad[] = {{0, 0},
             {1, 0},
             {2, 0},
             {3, 0},
             {gdt_entries * 8 | 1, gdt_entries * 8},
             {0xFFFB, 0xFFF8},
             {ldt_entries * 8 | 7, ldt_entries * 8 | 4},
             {0xFFFF, 0xFFFC},
             {0x24, 0x24}};
  ldt[4] = 0;
  ldt[2] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
  for (u32 op = 0; op < 2; op++) {
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
      gdt[gate_slot / 8] = call_gate(bad[i].selector, pad_offset, 0xEC, 0);
      struct Cpu start = start_far(op, 3, gate_slot, 0);
      refused("names no code", &start, v_protection, bad[i].error);
    }
    // A gate in the LDT to code in the LDT.
    ldt[1] = call_gate(0x14, pad_offset, 0xEC, 0);
    struct Cpu start = start_far(op, 3, 0x0C, 0);
    lands_here("LDT to LDT", op, &start, 0x17, pad_offset, 4);
    ldt[2] &= ~(1ull << 47);
    if (op == op_call) refused("absent in the LDT", &start, v_not_present, 0x14);
    ldt[2] |= 1ull << 47;
    ldt[1] &= ~(1ull << 47);
    refused("gate absent in the LDT", &start, v_not_present, 0x0C);
  }
  // JMP ignores the parameter count, and so does a CALL that stays in its ring.
  for (u32 op = 0; op < 2; op++) {
    base_code_of(3);
    gdt[gate_slot / 8] = call_gate(base_slot, pad_offset, 0xEC, 31);
    struct Cpu start = start_far(op, 3, gate_slot, 0);
    lands_here("parameter count", op, &start, base_slot, pad_offset, 4);
  }
}

SNIPPET(jmp_imm, "ljmp 0x98, 0x1234\n");
SNIPPET(call_imm, "lcall 0x98, 0x1234\n");
SNIPPET(jmp_imm16, ".byte 0x66, 0xEA, 0x34, 0x92, 0x98, 0\n");
SNIPPET(call_imm16, ".byte 0x66, 0x9A, 0x34, 0x92, 0x98, 0\n");
SNIPPET(jmp_bx, ".byte 0x67, 0xFF, 0x2F\n");   // jmp far [bx]
SNIPPET(call_bx, ".byte 0x67, 0xFF, 0x1F\n");  // call far [bx]
SNIPPET(call_es, "call fword ptr es:[ebx]\n");
SNIPPET(call_reg, ".byte 0xFF, 0xDB\n");  // call far ebx
SNIPPET(jmp_reg, ".byte 0xFF, 0xEB\n");   // jmp far ebx

static void operand_forms(void) {
  group("immediate operands");
  struct Cpu start, end;
  for (u32 cpl = 0; cpl < 4; cpl++) {
    static const struct {
      const u8* code;
      bool call;
      u8 size, length;
      u16 high;
    } rows[] = {{jmp_imm, false, 4, 7, 0}, {call_imm, true, 4, 7, 0}, {jmp_imm16, false, 2, 6, 0x8000}, {call_imm16, true, 2, 6, 0x8000}};
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
      // 16-bit offsets are not sign-extended.
      gdt[base_slot / 8] = descriptor((u32)pad - pad_offset - rows[i].high, 0xFFFFF, 0x9F, 0xC);
      start = end = start_in(cpl, rows[i].code);
      end.cs = base_slot | cpl;
      end.eip = pad_offset + rows[i].high;
      if (rows[i].call) end.esp -= 2 * rows[i].size;
      write32(start.esp - 4, 0xEEEEEEEE);
      landed("immediate", &start, &end);
      const u32 frame[] = {start.eip + rows[i].length, start.cs};
      if (rows[i].call) check_items("return address", end.esp, frame, 2, rows[i].size);
    }
  }
  gdt[base_slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0x9F, 0xC);

  group("limits of pointers and targets");
  // A pointer at the end of its segment: limit, and no register changed. The selector of a 16-bit address wraps to offset 0.
  static u8 data[0x10010];
  gdt[other_slot / 8] = descriptor((u32)data, 0xFFFF, 0xF3, 4);
  for (u32 call = 0; call < 2; call++) {
    start = end = start_in(3, call ? call_bx : jmp_bx);
    start.ds = end.ds = other_slot | 3;
    start.ebx = end.ebx = 0x5678FFFC;
    *(u32*)(data + 0xFFFC) = pad_offset;
    *(u16*)data = base_slot;
    end.cs = base_slot | 3;
    end.eip = pad_offset;
    if (call) end.esp -= 8;
    landed("16-bit address wraps", &start, &end);
    start.ebx = 0x5678FFFD;
    refused("offset across the limit", &start, v_protection, 0);
    start = start_in(3, call ? call_m : jmp_m);
    start.ds = other_slot | 3;
    for (u32 k = 1; k <= 5; k++) {
      start.ebx = 0x10000 - k;
      refused("pointer across the limit", &start, v_protection, 0);
    }
    start.ebx = 0xFFFA;
    *(u32*)(data + 0xFFFA) = pad_offset;
    *(u16*)(data + 0xFFFE) = base_slot;
    end.ds = other_slot | 3;
    end.ebx = 0xFFFA;
    landed("pointer up to the limit", &start, &end);
    start.ds = 0;
    refused("pointer in a NULL segment", &start, v_protection, 0);
  }
  // JMP and the limit of its target.
  for (u32 cpl = 0; cpl < 4; cpl++) {
    start = start_far(op_jmp, cpl, slot | cpl, pad_offset);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset - 1, (u8)(0x98 | cpl << 5), 4);
    refused("JMP past the limit", &start, v_protection, 0);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset, (u8)(0x98 | cpl << 5), 4);
    run_cpu(&start);
    check_trap("JMP to the limit", v_protection, 0, (void*)pad_offset);
    check("CS of the jump", trap.cpu.cs, slot | cpl);
  }
  start = start_in(3, call_es);
  start.es = 0;
  refused("pointer in a NULL ES", &start, v_protection, 0);
  start = start_in(3, call_reg);
  run_cpu(&start);
  check_trap("CALL far of a register", v_opcode, 0, call_reg);
  start = start_in(3, jmp_reg);
  run_cpu(&start);
  check_trap("JMP far of a register", v_opcode, 0, jmp_reg);
}

void guest_main(void) {
  transfer_init();
  direct_targets();
  selectors();
  gate_privileges();
  gate_targets(op_call, false);
  gate_targets(op_jmp, false);
  gate_targets(op_call, true);
  gate_targets(op_jmp, true);
  gate_selectors();
  operand_forms();
  check_accessed();
}
