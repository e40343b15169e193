// CALL through a gate to an inner ring: what is pushed and copied, the stack from the TSS with every check of SDM vol. 2, CALL
// (MORE-PRIVILEGE), room on both stacks, EIP against the limit, and page faults in the middle (SDM vol. 3, 5.8.5 and 7.2).
//
// qemu: deviates in "stack segments" (an absent one is #TS, not #SS)
// qemu: deviates in "stack selectors" (as above)
// qemu: deviates in "TSS limits" (it wants eight bytes for a stack, not six)
// qemu: deviates in "room" (it checks no limits)
// qemu: deviates in "limits" (as above)
// qemu: deviates in "pages" (the caller's stack is read and written with the rights of ring 0; accessed bits are not set; limits)
// qemu: deviates in "accessed bits" (far transfers do not set them)
//
// expect:
//   frames: ok
//   stack segments: ok
//   stack selectors: ok
//   TSS limits: ok
//   room: ok
//   limits of code: ok
//   pages of stacks: ok
//   pages of tables: ok
//   accessed bits: ok
// end
#include "lib/transfer.h"

SNIPPET(call_m, "call fword ptr [ebx]\n");
enum { call_bytes = 2, absent = 0x40000000 };

static struct Cpu start_call(u32 cpl) {
  struct Cpu cpu = start_in(cpl, call_m);
  far_pointer.offset = 0x99999999;
  far_pointer.selector = gate_slot | 3;
  return cpu;
}

// A gate to `pad` in code of `ring`, and where a call through it lands.
static struct Cpu gate_to(const struct Cpu* start, u32 ring, u32 wide, u32 count) {
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x98 | ring << 5), 0xC);
  gdt[gate_slot / 8] = call_gate(slot, pad_offset, wide ? 0xEC : 0xE4, count);
  struct Cpu end = *start;
  end.cs = slot | ring;
  end.eip = pad_offset;
  end.ss = data_of(ring);
  end.esp = stack_top(ring) - (wide ? 4 : 2) * (4 + count);
  return end;
}

static void frames(void) {
  group("frames");
  static const struct { u8 from, to; } pairs[] = {{3, 0}, {3, 1}, {3, 2}, {2, 0}, {2, 1}, {1, 0}};
  static const u8 counts[] = {0, 1, 2, 7, 31};
  for (u32 i = 0; i < ARRAY_SIZE(pairs) * ARRAY_SIZE(counts) * 2; i++) {
    const u32 from = pairs[i % 6].from, to = pairs[i % 6].to, count = counts[i / 6 % 5], wide = i / 30, size = wide ? 4 : 2;
    struct Cpu start = start_call(from);
    start.eflags |= f_cf | f_of | f_df | f_if | f_nt | f_id | f_iopl;  // a call changes none of them
    struct Cpu end = gate_to(&start, to, wide, count);
    u32 want[36] = {start.eip + call_bytes, start.cs};
    for (u32 k = 0; k < count; k++) {
      const u32 value = 0x12345678 * (k + 1) + i;
      if (wide)
        write32(start.esp + 4 * k, value);
      else
        *(volatile u16*)(start.esp + 2 * k) = (u16)value;
      want[2 + k] = value;
    }
    want[2 + count] = start.esp;
    want[3 + count] = start.ss;
    const u64 code_before = gdt[slot / 8];
    memset(ring_stacks, 0xEE, sizeof(ring_stacks));
    bool good = landed("lands", &start, &end);
    good &= check_items("frame", end.esp, want, 4 + count, size);
    if (to != 0) good &= check("nothing below it", read32(end.esp - 4), 0xEEEEEEEE);
    note_accessed(slot, code_before);
    if (!good && showing_failures()) printf("       from %u to %u, %u parameters, wide %u\n", from, to, count, wide);
  }
  // The count has five bits: those above it in the gate are reserved and ignored.
  struct Cpu start = start_call(3), end = gate_to(&start, 1, 1, 1);
  gdt[gate_slot / 8] |= 7ull << 37;
  landed("reserved bits of the count", &start, &end);
}

static void stack_segments(void) {
  group("stack segments");
  for (u32 level = 1; level <= 2; level++) {
    for (u32 wide = 0; wide < 2; wide++) {
      struct Cpu start = start_call(3), end = gate_to(&start, level, wide, 3);
      every_inner_stack(&start, level, 0, 7 * (wide ? 4 : 2), &end);
    }
  }
}

static void set_ss(u32 level, u32 selector) {
  if (level == 1) tss.ss1 = selector;
  if (level == 2) tss.ss2 = selector;
}

static void stack_selectors(void) {
  group("stack selectors");
  static const struct {
    u16 selector, error;
  } bad[] = {{0, 0},
             {1, 0},
             {2, 0},
             {3, 0},
             {gdt_entries * 8 | 1, gdt_entries * 8},
             {gdt_entries * 8 | 2, gdt_entries * 8},
             {0xFFF9, 0xFFF8},
             {ldt_entries * 8 | 5, ldt_entries * 8 | 4},
             {0xFFFE, 0xFFFC},
             {0x3D, 0x3C}};
  for (u32 level = 1; level <= 2; level++) {
    struct Cpu start = start_call(3), end = gate_to(&start, level, 1, 0);
    ldt[7] = 0;
    gdt[0] = descriptor(0, 0xFFFFF, (u8)(0x93 | level << 5), 0xC);  // NULL does not lead there
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
      set_ss(level, bad[i].selector);
      refused("no stack", &start, v_tss, bad[i].error);
    }
    // In the LDT; the upper half of the field does not count.
    ldt[7] = descriptor(0, 0xFFFFF, (u8)(0x92 | level << 5), 0xC);
    set_ss(level, 0xABCD003C | level);
    end.ss = 0x3C | level;
    landed("stack in the LDT", &start, &end);
    ldt[7] &= ~(1ull << 47);
    refused("absent in the LDT", &start, v_stack, 0x3C);
  }
  tss_stacks_init();
}

static void use_tss(u32 base, u32 limit, u8 type) {
  gdt[other_slot / 8] = descriptor(base, limit, 0x80 | type, 0);
  __asm__ volatile("ltr %w0" ::"r"((u32)other_slot));
}

static void use_own_tss(void) {
  gdt[tss_selector / 8] &= ~(2ull << 40);
  __asm__ volatile("ltr %w0" ::"r"((u32)tss_selector));
}

// The last byte of SSn must be inside the TSS. The stack of ring 0 is inside all of these: it takes the faults.
static void tss_limits(void) {
  group("TSS limits");
  for (u32 level = 1; level <= 2; level++) {
    struct Cpu start = start_call(3), end = gate_to(&start, level, 1, 0);
    for (u32 limit = 11; limit < 0x1D; limit++) {
      use_tss((u32)&tss, limit, 9);
      if (limit < level * 8 + 4 + 5)
        refused("the 32-bit TSS is too short", &start, v_tss, other_slot);
      else
        landed("the 32-bit TSS is long enough", &start, &end);
    }
    static u16 tss16[22] = {0, 0x8000, kernel_data, 0x7000, ring1_data, 0x6000, ring2_data};
    for (u32 limit = 5; limit < 0x10; limit++) {
      use_tss((u32)tss16, limit, 1);
      end.esp = tss16[1 + 2 * level] - 16;
      if (limit < level * 4 + 2 + 3)
        refused("the 16-bit TSS is too short", &start, v_tss, other_slot);
      else
        landed("the 16-bit TSS is long enough", &start, &end);
    }
  }
  use_own_tss();
}

static void room(void) {
  group("room");
  static u8 area[0x10000] __attribute__((aligned(4096)));
  for (u32 i = 0; i < 8; i++) {
    const u32 wide = i & 1, count = i & 2 ? 5 : 0, from = i & 4 ? 3 : 2, frame = (4 + count) * (wide ? 4 : 2), top = wide ? 4 : 2;
    struct Cpu start = start_call(from), end = gate_to(&start, 1, wide, count);
    end.ss = tss.ss1 = stack_slot | 1;
    const struct {
      const char* what;
      u8 type, flags;
      u32 limit, esp;
      bool fits;
    } rows[] = {
        {"up to offset 0", 0xB2, 4, 0xFFF, frame, true},
        {"a byte short", 0xB2, 4, 0xFFF, frame - 1, false},
        {"down from the limit", 0xB2, 4, 0xFFF, 0x1000, true},
        {"the first item crosses the limit", 0xB2, 4, 0xFFF, 0x1001, false},
        {"all outside", 0xB2, 4, 0xFFF, 0x5000, false},
        {"down from 0", 0xB2, 4, 0xFFF, 0, false},
        {"expand-down: down to the limit", 0xB6, 4, 0x7FF, 0x800 + frame, true},
        {"expand-down: a byte short", 0xB6, 4, 0x7FF, 0x800 + frame - 1, false},
        {"expand-down of 64 KiB: from its end", 0xB6, 0, 0x7FF, 0x10000, true},
        {"expand-down of 64 KiB: an item across its end", 0xB6, 0, 0x7FF, top - 1, false},
        {"16-bit: up to offset 0", 0xB2, 0, 0xFFFF, frame, true},
        {"16-bit: round the end", 0xB2, 0, 0xFFFF, top, true},
        {"16-bit: an item would lie on both ends", 0xB2, 0, 0xFFFF, top - 1, false},
        {"16-bit: down from 0", 0xB2, 0, 0xFFFF, 0, true},
        {"16-bit: limit", 0xB2, 0, 0xFFFE, 0, false},
    };
    for (u32 k = 0; k < ARRAY_SIZE(rows); k++) {
      // In a 16-bit segment SP moves and the upper half of ESP, here the same before and after, does not.
      const u32 upper = rows[k].flags == 0 ? start.esp & 0xFFFF0000 : 0;
      gdt[stack_slot / 8] = descriptor((u32)area, rows[k].limit, rows[k].type, rows[k].flags);
      tss.esp1 = upper | (rows[k].flags == 0 ? rows[k].esp & 0xFFFF : rows[k].esp);
      end.esp = rows[k].flags == 0 ? upper | ((rows[k].esp - frame) & 0xFFFF) : rows[k].esp - frame;
      bool good = rows[k].fits ? landed(rows[k].what, &start, &end) : refused(rows[k].what, &start, v_stack, stack_slot);
      if (!good && showing_failures()) printf("       wide %u count %u from %u\n", wide, count, from);
    }
    // The parameters must be inside the caller's stack.
    if (count == 0) continue;
    tss_stacks_init();
    end.ss = ring1_data;
    end.esp = stack_top(1) - frame;
    const u32 bytes = count * (wide ? 4 : 2);
    start.ss = other_slot | from;
    gdt[other_slot / 8] = descriptor((u32)area, 0xFFF, (u8)(0x93 | from << 5), 4);
    for (u32 outside = 0; outside <= bytes; outside++) {
      start.esp = 0x1000 - bytes + outside;
      if (outside)
        refused("parameters past the limit", &start, v_stack, 0);
      else
        landed("parameters up to the limit", &start, &end);
    }
    // 16-bit: they wrap.
    gdt[other_slot / 8] = descriptor((u32)area, 0xFFFF, (u8)(0x93 | from << 5), 0);
    start.esp = 0x56780000 | (0x10000 - bytes + 2 * top);
    u32 want[12] = {start.eip + call_bytes, start.cs};
    for (u32 n = 0; n < count; n++) {
      want[2 + n] = 0x1111 * (n + 1);
      *(u16*)(area + ((start.esp + n * top) & 0xFFFF)) = (u16)want[2 + n];
      if (wide) *(u16*)(area + ((start.esp + n * top) & 0xFFFF) + 2) = 0;
    }
    landed("parameters round the end", &start, &end);
    check_items("copied round the end", end.esp, want, 2 + count, top);
    // The IRET that starts the caller leaves the upper half of ESP alone, since its stack is a 16-bit one.
    const u32 saved_esp[] = {start.esp & 0xFFFF}, saved_ss[] = {start.ss};
    check_items("SP saved", end.esp + (2 + count) * top, saved_esp, 1, 2);
    check_items("SS saved", end.esp + (3 + count) * top, saved_ss, 1, top);
  }
  tss_stacks_init();
}

static void code_limits(void) {
  group("limits of code");
  for (u32 wide = 0; wide < 2; wide++) {
    memset(ring_stacks, 0xEE, sizeof(ring_stacks));
    struct Cpu start = start_call(3), end = gate_to(&start, 1, wide, 2);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset - 1, 0xB8, 4);
    refused("an inner ring's code ends before the gate's offset", &start, v_protection, 0);
    check("nothing was pushed", read32(stack_top(1) - 4), 0xEEEEEEEE);
    tss.esp1 = 8;  // both: room comes first
    tss.ss1 = stack_slot | 1;
    gdt[stack_slot / 8] = descriptor((u32)ring_stacks, 0xFFF, 0xB2, 4);
    refused("no room and EIP outside", &start, v_stack, stack_slot);
    tss_stacks_init();
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset + 3, 0xB8, 4);
    landed("its last byte is inside", &start, &end);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset, 0xB8, 4);
    run_cpu(&start);
    check("its second byte is not: the call is done", trap.cpu.cs, slot | 1);
    check_trap("its second byte is not", v_protection, 0, (void*)pad_offset);

    // In the same ring.
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset - 1, 0xF8, 4);
    write32(start.esp - 8, 0xEEEEEEEE);
    refused("code of this ring ends before the gate's offset", &start, v_protection, 0);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset, 0xF8, 4);
    run_cpu(&start);
    check_trap("EIP at the limit", v_protection, 0, (void*)pad_offset);
    check("CS of the call", trap.cpu.cs, slot | 3);
    end = start;
    end.cs = slot | 3;
    end.eip = pad_offset;
    end.esp -= wide ? 8 : 4;
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset + 3, 0xF8, 4);
    landed("within", &start, &end);
    start.ss = stack_slot | 3;
    gdt[stack_slot / 8] = descriptor((u32)ring_stacks, 0xFFF, 0xF3, 4);
    start.esp = wide ? 7 : 3;
    refused("no room for two items", &start, v_stack, 0);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset - 1, 0xF8, 4);
    refused("no room and EIP outside", &start, v_stack, 0);
  }
}

static struct Space space;

static void set_page(u32 linear, u64 entry) {
  map(&space, linear, entry);
  invlpg(linear);
}

static void stack_pages(void) {
  group("pages of stacks");
  const u32 page = new_page(), lower = new_page();
  write_cr0(read_cr0() | cr0_wp);
  for (u32 i = 0; i < 6; i++) {
    // Frame: SS, ESP, two parameters, CS, EIP. The border lies after `above` items of it.
    const u32 wide = i & 1, size = wide ? 4 : 2, above = 1 + 2 * (i >> 1), border = absent + 0x2000;
    struct Cpu start = start_call(3), end = gate_to(&start, 1, wide, 2);
    write32(start.esp, 0x01020304);
    write32(start.esp + 4, 0x05060708);
    const u32 second = wide ? 0x05060708 : 0x0102, want[] = {start.eip + call_bytes, start.cs, 0x01020304, second, start.esp, start.ss};
    tss.esp1 = border + above * size;
    end.esp = tss.esp1 - 6 * size;
    set_page(border, page | p_present | p_write);
    set_page(border - 0x1000, 0);
    refused_by_page("a page of the new stack is absent", &start, 2, border - size);
    set_page(border - 0x1000, lower | p_present | p_user);
    refused_by_page("a page of the new stack is read-only", &start, 3, border - size);
    // Neither EIP outside the limit nor absent parameters are found later than by the manual's order: EIP, then pages.
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset - 1, 0xB8, 4);
    refused("EIP before pages", &start, v_protection, 0);
    gate_to(&start, 1, wide, 2);
    write_cr0(read_cr0() & ~(u32)cr0_wp);
    landed("without WP a read-only page will do", &start, &end);
    check_items("frame", end.esp, want, 6, size);
    write_cr0(read_cr0() | cr0_wp);
    set_page(border - 0x1000, lower | p_present | p_write);
    memset((void*)(border - 0x100), 0, 0x100);
    landed("restarted", &start, &end);
    check_items("frame after the restart", end.esp, want, 6, size);
    tss.esp1 = border + above * size - 1;
    set_page(border - 0x1000, 0);
    refused_by_page("an item across the border", &start, 2, border - 1);
    set_page(border, 0);
    tss.esp1 = border;
    refused_by_page("all absent: the first item", &start, 2, border - size);
  }
  tss_stacks_init();

  // Parameters are read with the rights of the caller.
  const u32 border = absent + 0x8000;
  struct Cpu start = start_call(3), end = gate_to(&start, 1, 1, 3);
  start.esp = border - 8;
  set_page(border - 0x1000, page | p_present | p_write | p_user);
  set_page(border, 0);
  refused_by_page("the third parameter is absent", &start, 4, border);
  set_page(border, lower | p_present | p_write);
  refused_by_page("the third parameter is the supervisor's", &start, 5, border);
  set_page(border, lower | p_present | p_user);
  landed("the third parameter is there", &start, &end);
  start = start_call(2);
  end = gate_to(&start, 1, 1, 3);
  start.esp = border - 8;
  set_page(border, lower | p_present);
  landed("ring 2 is a supervisor", &start, &end);

  // In the same ring: the pages of the caller's stack with its rights.
  start = start_call(3);
  gate_to(&start, 3, 1, 0);
  start.esp = border + 4;
  set_page(border, lower | p_present | p_write | p_user);
  set_page(border - 0x1000, 0);
  refused_by_page("second item absent", &start, 6, border - 4);
  set_page(border - 0x1000, page | p_present | p_write);
  refused_by_page("second item is the supervisor's", &start, 7, border - 4);
}

static void table_pages(void) {
  group("pages of tables");
  const u32 page = new_page(), table = absent + 0x10000;
  struct Cpu start = start_call(3), end = gate_to(&start, 1, 1, 0);
  // An LDT whose first page holds the gate, or code, or the stack, and is there or not; for ring 3 it is a supervisor access.
  gdt[ldt_slot / 8] = descriptor(table, 0xFFF, 0x82, 0);
  __asm__ volatile("lldt %w0" ::"r"((u32)ldt_slot));
  far_pointer.selector = 0x0C;
  set_page(table, 0);
  refused_by_page("gate in an absent page", &start, 0, table + 8);
  set_page(table, page | p_present | p_write);
  *(volatile u64*)(table + 8) = call_gate(0x14, pad_offset, 0xEC, 0);
  *(volatile u64*)(table + 16) = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xB8, 0xC);
  *(volatile u64*)(table + 24) = descriptor(0, 0xFFFFF, 0xB2, 0xC);
  tss.ss1 = 0x1D;
  end.cs = 0x15;
  end.ss = 0x1D;
  landed("all in one LDT", &start, &end);
  check("code accessed", read32(table + 20) >> 8 & 1, 1);
  check("stack accessed", read32(table + 28) >> 8 & 1, 1);
  *(volatile u64*)(table + 24) = descriptor(0, 0xFFFFF, 0xB2, 0xC);
  set_page(table, page | p_present);
  run_cpu(&start);
  check_trap("no accessed bit in a read-only page", v_page, 3, call_m);
  check("in the descriptor of the stack", trap.cr2 & ~7u, table + 24);
  check_unchanged("registers", &start);
  set_page(table, page | p_present | p_write);
  *(volatile u64*)(table + 16) = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xB8, 0xC);
  *(volatile u64*)(table + 24) = descriptor(0, 0xFFFFF, 0xB3, 0xC);
  set_page(table, page | p_present);
  run_cpu(&start);
  check_trap("no accessed bit of the code", v_page, 3, call_m);
  check("in the descriptor of the code", trap.cr2 & ~7u, table + 16);
  check_unchanged("registers", &start);
  far_pointer.selector = gate_slot;
  gdt[gate_slot / 8] = call_gate(0x14, pad_offset, 0xEC, 0);
  set_page(table, 0);
  refused_by_page("code in an absent page", &start, 0, table + 16);
  gate_to(&start, 1, 1, 0);
  refused_by_page("stack segment in an absent page", &start, 0, table + 24);
  tss_stacks_init();

  // A TSS whose SS1 lies in the next page.
  const u32 tss_at = table + 0x3000 - 16;
  set_page(table + 0x2000, new_page() | p_present | p_write);
  set_page(table + 0x3000, 0);
  memcpy((void*)tss_at, &tss, 16);
  use_tss(tss_at, 0x67, 9);
  start = start_call(3);
  end = gate_to(&start, 1, 1, 0);
  refused_by_page("SS1 in an absent page", &start, 0, tss_at + 16);
  set_page(table + 0x3000, page | p_present);
  memcpy((void*)(table + 0x2000), &tss, sizeof(u32) * 4);
  write_cr0(read_cr0() & ~(u32)cr0_wp);
  write32(tss_at + 16, ring1_data);
  write_cr0(read_cr0() | cr0_wp);
  landed("SS1 in a read-only page", &start, &end);
  use_own_tss();
}

void guest_main(void) {
  transfer_init();
  frames();
  stack_segments();
  stack_selectors();
  tss_limits();
  room();
  code_limits();
  space = new_space(false);
  use_space(&space);
  stack_pages();
  table_pages();
  paging_off();
  check_accessed();
}
