// INT n, INT3, INTO, ICEBP (INT1) and exceptions through every kind of IDT entry, handler segment and stack, from and to every ring, with
// every check of SDM vol. 2, INT n ("Operation"), taken and passed; error codes with the IDT and EXT bits (vol. 3, 6.13); the frame, and
// the flags that a gate clears (6.12.1). Faults of delivery that meet other faults: delivery_faults.c.
//
// qemu: deviates in "exceptions" (the EXT bit is never set)
// qemu: deviates in "stack segments" (an absent one is #TS, not #SS)
// qemu: deviates in "accessed bits" (far transfers do not set them)
// qemu: deviates in "frames, ICEBP" (it does not know the opcode)
// qemu: deviates in "offsets of 16-bit gates" (it takes 32 bits)
// qemu: deviates in "RF in frames" (faults push 0)
// qemu: deviates in "TSS limits" (it wants eight bytes for a stack, not six)
// qemu: deviates in "room" (it checks no limits)
// qemu: deviates in "limits of code" (as above)
//
// expect:
//   gates, software interrupts: ok
//   gates, exceptions: ok
//   handlers, software interrupts: ok
//   handlers, exceptions: ok
//   selectors, software interrupts: ok
//   selectors, exceptions: ok
//   stack segments, software interrupts: ok
//   stack segments, exceptions: ok
//   frames: ok
//   frames, ICEBP: ok
//   offsets of 16-bit gates: ok
//   RF in frames: ok
//   INTO without OF: ok
//   IDT limits: ok
//   TSS limits: ok
//   room: ok
//   limits of code: ok
//   accessed bits: ok
// end
#include "lib/transfer.h"

// A vector whose gate tests may break, raised in all four rings. `software`: the gate's DPL counts, and EXT is 0.
struct Event {
  const char* name;
  const u8* code;
  u8 vector, length;  // length: what the pushed EIP is past the instruction
  bool software, fault, has_error;
};
SNIPPET(do_int, "int 0x90\n");
SNIPPET(do_int3, "int3\n");
SNIPPET(do_int_3, ".byte 0xCD, 3\n");
SNIPPET(do_into, "into\n");
SNIPPET(do_int1, ".byte 0xF1\n");
SNIPPET(do_ud, "ud2\n");
SNIPPET(do_gp, "mov fs, ecx\n");  // a selector outside the LDT
enum { gp_error = 0xC3C4 };
static const struct Event events[] = {
    {"INT n", do_int, 0x90, 2, true, false, false},     {"INT3", do_int3, 3, 1, true, false, false},
    {"INT 3", do_int_3, 3, 2, true, false, false},      {"INTO", do_into, 4, 1, true, false, false},
    {"ICEBP", do_int1, 1, 1, false, false, false},      {"#UD", do_ud, 6, 0, false, true, false},
    {"#GP", do_gp, v_protection, 0, false, true, true},  // contributory: what goes wrong in its delivery is a double fault
};
enum { n_int = 0, n_icebp = 4, n_ud = 5, n_gp = 6, benign_events = 6 };

static struct Cpu start_event(const struct Event* e, u32 cpl) {
  struct Cpu cpu = start_in(cpl, e->code);
  cpu.eflags |= f_of | f_cf | f_if | f_nt | f_id | f_iopl;
  return cpu;
}

static u32 ext_of(const struct Event* e) { return !e->software; }

// Where the event lands through a gate of `type` (6, 7, Eh, Fh) to `ring`; `inner`: with another stack.
static struct Cpu end_event(const struct Event* e, const struct Cpu* start, u32 type, u32 cs, bool inner) {
  struct Cpu end = *start;
  const u32 size = type & 8 ? 4 : 2, items = (inner ? 5 : 3) + e->has_error;
  end.cs = cs;
  end.eip = pad_offset;
  end.eflags &= ~(u32)(f_tf | f_nt | f_rf | (type & 1 ? 0 : f_if));
  if (inner) {
    end.ss = data_of(cs & 3);
    end.esp = stack_top(cs & 3);
  }
  end.esp -= items * size;
  return end;
}

static u32 rf_wrong;

static bool check_frame(const struct Event* e, const struct Cpu* start, const struct Cpu* end, u32 type, bool inner) {
  u32 frame[6], n = 0;
  const u32 saved_flags = end->esp + (e->has_error ? 12 : 8);
  if (type & 8 && (read32(saved_flags) & f_rf) != (e->fault ? f_rf : 0)) rf_wrong++;
  if (e->has_error) frame[n++] = gp_error;
  frame[n++] = start->eip + e->length;
  frame[n++] = start->cs;
  frame[n++] = start->eflags | (type & 8 ? read32(saved_flags) & f_rf : 0);
  if (inner) {
    frame[n++] = start->esp;
    frame[n++] = start->ss;
  }
  return check_items("frame", end->esp, frame, n, type & 8 ? 4 : 2);
}

static bool lands(const struct Event* e, const struct Cpu* start, u32 type, u32 cs, bool inner) {
  struct Cpu end = end_event(e, start, type, cs, inner);
  bool good = landed(e->name, start, &end);
  return check_frame(e, start, &end, type, inner) && good;
}

static bool is_event_gate(u32 access) {
  const u32 type = access & 31;
  return type == 5 || type == 6 || type == 7 || type == 14 || type == 15;
}

static void gates(bool software) {
  group(software ? "gates, software interrupts" : "gates, exceptions");
  for (u32 access = 0; access < 256; access++) {
    for (u32 n = 0; n < 4 * benign_events; n++) {
      const u32 cpl = n & 3, dpl = access >> 5 & 3, type = access & 31;
      const struct Event* e = &events[n >> 2];
      if (e->software != software) continue;
      const u64 good_gate = idt[e->vector];
      const u32 idt_error = e->vector * 8u + 2 + ext_of(e);
      gdt[base_slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | cpl << 5), 0xC);
      idt[e->vector] = gate(type == 5 ? tss_selector : base_slot | 3, pad_offset, (u8)access) | 0xFFull << 32;  // byte 4 is ignored
      struct Cpu start = start_event(e, cpl);
      bool good;
      if (!is_event_gate(access))
        good = refused("type", &start, v_protection, idt_error);
      else if (software && dpl < cpl)
        good = refused("DPL", &start, v_protection, idt_error);
      else if (!(access & 0x80))
        good = refused("absent", &start, v_not_present, idt_error);
      else if (type == 5)
        good = refused("task gate to a busy TSS", &start, v_protection, tss_selector + ext_of(e));
      else
        good = lands(e, &start, type, base_slot | cpl, false);
      if (!good && showing_failures()) printf("       %s, gate access %x cpl %u\n", e->name, access, cpl);
      idt[e->vector] = good_gate;
    }
  }
}

static void handlers(const struct Event* e) {
  group(e->software ? "handlers, software interrupts" : "handlers, exceptions");
  const u64 good_gate = idt[e->vector];
  for (u32 access = 0; access < 256; access++) {
    for (u32 n = 0; n < 4 * 4 * 2; n++) {
      static const u8 types[] = {6, 7, 14, 15};
      const u32 cpl = n & 3, type = types[n >> 2 & 3], rpl = n >> 4 ? 3 : 0, dpl = access >> 5 & 3;
      const bool code = (access & 0x18) == 0x18, conforming = access & 4;
      const u64 before = gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)access, 0xC);
      idt[e->vector] = gate((u16)(slot | rpl), pad_offset, (u8)(0xE0 | type));
      struct Cpu start = start_event(e, cpl);
      bool good;
      if (!code || dpl > cpl) {
        good = refused("type or DPL", &start, v_protection, slot + ext_of(e));
      } else if (!(access & 0x80)) {
        good = refused("absent", &start, v_not_present, slot + ext_of(e));
      } else {
        const bool inner = !conforming && dpl < cpl;
        good = lands(e, &start, type, slot | (conforming ? cpl : dpl), inner);
        note_accessed(slot, before);
      }
      if (!good && showing_failures()) printf("       handler access %x rpl %u cpl %u gate type %u\n", access, rpl, cpl, type);
    }
  }
  idt[e->vector] = good_gate;
}

static void selectors(const struct Event* e) {
  group(e->software ? "selectors, software interrupts" : "selectors, exceptions");
  const u64 good_gate = idt[e->vector];
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
  const u32 ext = ext_of(e);
  ldt[7] = 0;
  for (u32 cpl = 0; cpl < 4; cpl++) {
    struct Cpu start = start_event(e, cpl);
    gdt[0] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | cpl << 5), 0xC);  // NULL does not lead there
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
      idt[e->vector] = gate(bad[i].selector, pad_offset, 0xEE);
      refused("no handler", &start, v_protection, bad[i].error + ext);
    }
    ldt[2] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | cpl << 5), 0xC);
    idt[e->vector] = gate(0x14, pad_offset, 0xEE);
    lands(e, &start, 14, 0x14 | cpl, false);
    ldt[2] &= ~(1ull << 47);
    refused("absent in the LDT", &start, v_not_present, 0x14 + ext);
  }
  // Stacks: only rings 1 and 2, since ring 0 takes the faults.
  struct Cpu start = start_event(e, 3);
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xBB, 0xC);
  idt[e->vector] = gate(slot, pad_offset, 0xEE);
  gdt[0] = descriptor(0, 0xFFFFF, 0xB3, 0xC);
  for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
    tss.ss1 = bad[i].selector;
    refused("no stack", &start, v_tss, bad[i].error + ext);
  }
  ldt[7] = descriptor(0, 0xFFFFF, 0xB2, 0xC);
  tss.ss1 = 0xABCD003D;
  struct Cpu end = end_event(e, &start, 14, slot | 1, true);
  end.ss = 0x3D;
  landed("stack in the LDT", &start, &end);
  tss_stacks_init();
  idt[e->vector] = good_gate;
}

static void stack_segments(const struct Event* e) {
  group(e->software ? "stack segments, software interrupts" : "stack segments, exceptions");
  const u64 good_gate = idt[e->vector];
  for (u32 level = 1; level <= 2; level++) {
    for (u32 type = 6; type < 15; type += 8) {
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | level << 5), 0xC);
      idt[e->vector] = gate(slot, pad_offset, (u8)(0xE0 | type));
      struct Cpu start = start_event(e, 3), end = end_event(e, &start, type, slot | level, true);
      every_inner_stack(&start, level, ext_of(e), type & 8 ? 20 : 10, &end);
    }
  }
  idt[e->vector] = good_gate;
}

SNIPPET(into_pad, "into\n mov edi, ss\n" DONE);

// Every event, from every ring to every ring, through the four gates, with different flags.
static void frames(bool icebp) {
  group(icebp ? "frames, ICEBP" : "frames");
  static const u32 flag_sets[] = {f_of | f_if | f_nt, f_of | f_status | f_df | f_id | f_ac, f_of | f_if | f_iopl | f_nt | f_ac | f_id};
  for (u32 n = 0; n < ARRAY_SIZE(events) * 4 * 4 * 4 * ARRAY_SIZE(flag_sets); n++) {
    static const u8 types[] = {6, 7, 14, 15};
    const u32 type = types[n & 3], from = n >> 2 & 3, to = n >> 4 & 3, i = n >> 6;
    const struct Event* e = &events[i % ARRAY_SIZE(events)];
    if (to > from || (e == &events[n_icebp]) != icebp) continue;
    const u64 good_gate = idt[e->vector];
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | to << 5), 0xC);
    idt[e->vector] = gate(slot, pad_offset, (u8)(0xE0 | type));
    struct Cpu start = start_event(e, from);
    start.eflags = f_fixed | flag_sets[i / ARRAY_SIZE(events)];
    memset(ring_stacks[to % 3], 0xEE, sizeof(ring_stacks[0]));
    bool good = lands(e, &start, type, slot | to, to < from);
    if (to != from && to != 0) {
      const u32 size = type & 8 ? 4 : 2, below = stack_top(to) - (5u + e->has_error) * size - 2;
      good &= check("nothing below the frame", *(volatile u16*)below, 0xEEEE);
    }
    if (!good && showing_failures()) printf("       %s from %u to %u gate type %u\n", e->name, from, to, type);
    idt[e->vector] = good_gate;
  }
}

static void other_forms(void) {
  group("offsets of 16-bit gates");
  // 16-bit gates have 16 bits of offset; the upper ones in the entry are reserved.
  gdt[base_slot / 8] = descriptor((u32)pad - 0xFFF0, 0xFFFFF, 0xFB, 0xC);
  struct Cpu start = start_event(&events[n_int], 3), end = end_event(&events[n_int], &start, 7, base_slot | 3, false);
  end.eip = 0xFFF0;
  idt[0x90] = gate(base_slot, 0x0070FFF0, 0xE7);
  *(u16*)((u32)pad + 0x700000) = 0x0B0F;  // where a CPU goes that takes them: UD2
  landed("upper half of a 16-bit gate's offset", &start, &end);
  group("RF in frames");
  check("faults push RF, the others do not", rf_wrong, 0);
  group("INTO without OF");
  start = end = start_event(&events[n_int], 3);
  start.eip = (u32)into_pad;
  start.eflags = end.eflags = f_fixed | f_status | f_df;
  start.eflags &= ~(u32)f_of;
  end.eflags &= ~(u32)f_of;
  end.eip = (u32)into_pad + 1;
  landed("INTO without OF", &start, &end);
}

static void idt_limits(void) {
  group("IDT limits");
  const struct Event* e = &events[n_int];
  for (u32 cpl = 0; cpl < 4; cpl++) {
    gdt[base_slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | cpl << 5), 0xC);
    idt[0x90] = gate(base_slot, pad_offset, 0xEE);
    struct Cpu start = start_event(e, cpl);
    for (u32 less = 1; less <= 8; less++) {
      load_idt(idt, (u16)(0x90 * 8 + 7 - less));
      refused("the entry is not all inside", &start, v_protection, 0x90 * 8 + 2);
    }
    load_idt(idt, 0x90 * 8 + 7);
    lands(e, &start, 14, base_slot | cpl, false);
    // An event with EXT: ICEBP and #UD cannot be outside while the other exceptions are inside; vector 90h comes by INT n alone.
    load_idt(idt, sizeof(idt) - 1);
  }
}

static void tss_limits(void) {
  group("TSS limits");
  const struct Event* rows[] = {&events[n_int], &events[n_ud]};
  for (u32 i = 0; i < 2; i++) {
    const u64 good_gate = idt[rows[i]->vector];
    for (u32 level = 1; level <= 2; level++) {
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | level << 5), 0xC);
      idt[rows[i]->vector] = gate(slot, pad_offset, 0xEE);
      for (u32 limit = 11; limit < 0x1D; limit++) {
        struct Cpu start = start_event(rows[i], 3);
        gdt[other_slot / 8] = descriptor((u32)&tss, limit, 0x89, 0);
        __asm__ volatile("ltr %w0" ::"r"((u32)other_slot));
        if (limit < level * 8 + 9)
          refused("too short", &start, v_tss, other_slot + ext_of(rows[i]));
        else
          lands(rows[i], &start, 14, slot | level, true);
      }
    }
    idt[rows[i]->vector] = good_gate;
  }
  gdt[tss_selector / 8] &= ~(2ull << 40);
  __asm__ volatile("ltr %w0" ::"r"((u32)tss_selector));
}

// The frame must fit: #SS with the selector of a new stack, or EXT alone for the current one; a fault with an error code pushes one item
// more, and what goes wrong for #GP is a double fault.
static void room(void) {
  group("room");
  static u8 area[0x10000] __attribute__((aligned(4096)));
  static const u8 chosen[] = {n_int, n_ud, n_gp};
  for (u32 n = 0; n < ARRAY_SIZE(chosen) * 2 * 2 * 3; n++) {
    const u32 wide = n & 1, inner = n >> 1 & 1, type = wide ? 14 : 6, size = wide ? 4 : 2;
    const struct Event* e = &events[chosen[(n >> 2) % 3]];
    const u32 shape = n / 12, frame = ((inner ? 5 : 3) + e->has_error) * size, level = inner ? 1 : 3;
    const u64 good_gate = idt[e->vector];
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | level << 5), 0xC);
    idt[e->vector] = gate(slot, pad_offset, (u8)(0xE0 | type));
    // Expand-up to offset 0, expand-down to its limit, 16-bit at the end of what it may reach.
    static const u8 rights[] = {0x93, 0x97, 0x93}, flags[] = {4, 4, 0};
    static const u32 limits[] = {0xFFF, 0x7FF, 0xFFFF}, lowest[] = {0, 0x800, 0};
    gdt[stack_slot / 8] = descriptor((u32)area, limits[shape], (u8)(rights[shape] | level << 5), flags[shape]);
    for (u32 missing = 0; missing <= frame; missing++) {
      struct Cpu start = start_event(e, 3), end = end_event(e, &start, type, slot | level, inner);
      const u32 upper = shape == 2 ? (inner ? start.esp : (u32)0) & 0xFFFF0000 : 0;
      u32 at = lowest[shape] + frame - missing;
      bool fits = missing == 0;
      if (shape == 2) {
        // SP wraps between items: only an item that would lie on both ends has no room.
        fits = missing % size == 0;
        at = upper | (at & 0xFFFF);
      }
      end.ss = stack_slot | level;
      if (inner) {
        tss.ss1 = stack_slot | 1;
        tss.esp1 = at;
      } else {
        // The IRET that starts this leaves the upper half of ESP alone if the stack is a 16-bit one; so SP alone is looked at.
        start.ss = stack_slot | 3;
        start.esp = at;
      }
      end.esp = shape == 2 ? upper | ((at - frame) & 0xFFFF) : at - frame;
      if (shape == 2 && !inner) continue;
      bool good;
      if (fits)
        good = landed("fits", &start, &end);
      else if (e->has_error)
        good = refused("double fault", &start, v_double, 0);
      else
        good = refused("does not fit", &start, v_stack, (inner ? stack_slot : 0) + ext_of(e));
      if (!good && showing_failures()) printf("       %s wide %u inner %u shape %u missing %u\n", e->name, wide, inner, shape, missing);
    }
    idt[e->vector] = good_gate;
    tss_stacks_init();
  }
}

static void code_limits(void) {
  group("limits of code");
  static const u8 chosen[] = {n_int, n_ud, n_gp};
  for (u32 n = 0; n < ARRAY_SIZE(chosen) * 2 * 3; n++) {
    const u32 wide = n & 1, level = 1 + (n >> 1) % 3, type = wide ? 15 : 7;
    const struct Event* e = &events[chosen[n / 6]];
    const u64 good_gate = idt[e->vector];
    idt[e->vector] = gate(slot, pad_offset, (u8)(0xE0 | type));
    struct Cpu start = start_event(e, 3);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset - 1, (u8)(0x98 | level << 5), 4);
    memset(ring_stacks, 0xEE, sizeof(ring_stacks));
    refused("EIP outside", &start, e->has_error ? v_double : v_protection, e->has_error ? 0 : ext_of(e));
    if (level < 3) check("nothing was pushed", read32(stack_top(level) - 4), 0xEEEEEEEE);
    if (level == 1 && !e->has_error) {
      tss.esp1 = 4;
      tss.ss1 = stack_slot | 1;
      gdt[stack_slot / 8] = descriptor((u32)ring_stacks, 0xFFF, 0xB2, 4);
      refused("no room and EIP outside", &start, v_stack, stack_slot + ext_of(e));
      tss_stacks_init();
    }
    if (!e->has_error) {
      // The limit at the handler's first byte: it is entered, and cannot go on.
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset, (u8)(0x98 | level << 5), 4);
      run_cpu(&start);
      check_trap("EIP at the limit", v_protection, 0, (void*)pad_offset);
      check("CS of the handler", trap.cpu.cs, slot | level);
    }
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset + 3, (u8)(0x98 | level << 5), 4);
    lands(e, &start, type, slot | level, level < 3);
    idt[e->vector] = good_gate;
  }
}

void guest_main(void) {
  transfer_init();
  gates(true);
  gates(false);
  handlers(&events[n_int]);
  handlers(&events[n_ud]);
  selectors(&events[n_int]);
  selectors(&events[n_ud]);
  stack_segments(&events[n_int]);
  stack_segments(&events[n_ud]);
  frames(false);
  frames(true);
  other_forms();
  idt_limits();
  tss_limits();
  room();
  code_limits();
  check_accessed();
}
