// RETF and IRET in protected mode, from and to every ring: each code and stack segment, NULL and outside selectors, presence, limits, the
// stack they read, RETF's released bytes, and data segments that an outer ring may not keep (SDM vol. 2, RET and IRET/IRETD). What must
// happen is computed here from the pseudo-code. IRET's flags: iret_flags.c.
//
// qemu: deviates in "stack segments" (an absent one is #NP, not #SS)
// qemu: deviates in "released bytes" (the count is sign-extended)
// qemu: deviates in "frames and limits" (it checks no limits)
// qemu: deviates in "limits of code" (as above)
// qemu: deviates in "NULL data segments" (it keeps the RPL of a NULL selector)
// qemu: deviates in "accessed bits" (far transfers do not set them)
// qemu: deviates in "pages" (the stack is read with the rights of ring 0)
//
// expect:
//   code segments: ok
//   code selectors: ok
//   stack segments: ok
//   stack selectors: ok
//   released bytes: ok
//   frames and limits: ok
//   16-bit stacks: ok
//   limits of code: ok
//   data segments: ok
//   NULL data segments: ok
//   pages: ok
//   accessed bits: ok
// end
#include "lib/transfer.h"

enum { absent = 0x40000000 };
enum Operation { op_retf, op_iret, op_retf16, op_iret16, op_retf_n, op_retf16_n, operations };
SNIPPET(retf_, "retf\n");
SNIPPET(iret_, "iretd\n");
SNIPPET(retf16, ".byte 0x66, 0xCB\n");
SNIPPET(iret16, ".byte 0x66, 0xCF\n");
SNIPPET(retf_n, "retf 24\n");
SNIPPET(retf16_n, ".byte 0x66, 0xCA, 24, 0\n");
static const u8* const codes[] = {retf_, iret_, retf16, iret16, retf_n, retf16_n};
static u32 size_of(enum Operation op) { return op == op_retf16 || op == op_iret16 || op == op_retf16_n ? 2 : 4; }
static bool is_iret(enum Operation op) { return op == op_iret || op == op_iret16; }
static u32 released(enum Operation op) { return op == op_retf_n || op == op_retf16_n ? 24 : 0; }

// 16-bit returns load 16 bits of ESP: such stacks are described by a segment whose offsets are small.
enum { small_esp = 0xC00 };
static u8 small_stacks[4][4096] __attribute__((aligned(4096)));
static u32 outer_esp(enum Operation op, u32 ring) { return size_of(op) == 2 ? small_esp : (u32)small_stacks[ring] + small_esp; }

static void put(u32 address, u32 value, u32 size) {
  if (size == 4)
    write32(address, value);
  else
    *(volatile u16*)address = (u16)value;
}

// The frame of a return to cs:eip and, if it is an outer ring's, ss:esp. Upper halves of selectors are rubbish.
static void make_frame(enum Operation op, u32 at, u32 cs, u32 eip, u32 ss, u32 esp) {
  const u32 size = size_of(op);
  put(at, eip, size);
  put(at + size, cs | 0xABCD0000, size);
  at += 2 * size;
  if (is_iret(op)) {
    put(at, f_fixed, size);
    at += size;
  }
  at += released(op);
  put(at, esp, size);
  put(at + size, ss | 0x43210000, size);
}

// A return from `cpl` to `pad` in `cs`; if `outer`, with the stack `ss`.
static struct Cpu start_return(enum Operation op, u32 cpl, u32 cs, u32 ss) {
  struct Cpu cpu = start_in(cpl, codes[op]);
  make_frame(op, cpu.esp, cs, pad_offset, ss, outer_esp(op, ss & 3));
  return cpu;
}

// Data segments keep what the new ring may see.
static void drop_data(struct Cpu* end) {
  const u32 ring = end->cs & 3;
  u32* const registers[] = {&end->ds, &end->es, &end->fs, &end->gs};
  for (u32 i = 0; i < 4; i++) {
    const u8 access = access_of((u16)*registers[i]);
    const bool conforming = (access & 0x1C) == 0x1C;
    if (*registers[i] < 4 || (!conforming && (access >> 5 & 3u) < ring)) *registers[i] = 0;
  }
}

static struct Cpu end_of(enum Operation op, const struct Cpu* start, u32 cs, u32 ss) {
  struct Cpu end = *start;
  const bool outer = (cs & 3) > (start->cs & 3);
  end.cs = cs;
  end.eip = pad_offset;
  if (outer) {
    end.ss = ss;
    end.esp = outer_esp(op, ss & 3) + released(op);
    drop_data(&end);
  } else {
    end.esp += (is_iret(op) ? 3 : 2) * size_of(op) + released(op);
  }
  if (is_iret(op)) end.eflags = f_fixed;
  return end;
}

// A stack of `ring` in stack_slot that serves both sizes of return.
static u64 stack_segment(enum Operation op, u8 access) {
  const bool expand_down = (access & 0x1C) == 0x14;
  const u32 base = size_of(op) == 2 ? (u32)small_stacks[access >> 5 & 3] : 0;
  return descriptor(base, expand_down ? 0 : 0xFFFFF, access, expand_down ? 4 : 0xC);
}

static struct Outcome return_code(u8 access, u32 rpl, u32 cpl) {
  const u32 dpl = access >> 5 & 3;
  const bool code = (access & 0x18) == 0x18, conforming = access & 4;
  if (!code || rpl < cpl || (conforming ? dpl > rpl : dpl != rpl)) return (struct Outcome){v_protection, slot};
  if (!(access & 0x80)) return (struct Outcome){v_not_present, slot};
  return (struct Outcome){vector_done, 0};
}

static void code_segments(void) {
  group("code segments");
  for (u32 access = 0; access < 256; access++) {
    for (u32 n = 0; n < 4 * 4 * operations; n++) {
      const u32 rpl = n & 3, cpl = n >> 2 & 3, op = n >> 4;
      if (op >= op_retf16 && ((access ^ access >> 1) & 1)) continue;  // a half of them is enough
      const u64 before = gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)access, 0xC);
      gdt[stack_slot / 8] = stack_segment(op, (u8)(0x93 | rpl << 5));
      struct Cpu start = start_return(op, cpl, slot | rpl, stack_slot | rpl);
      struct Outcome want = return_code((u8)access, rpl, cpl);
      bool good;
      if (want.vector == vector_done) {
        struct Cpu end = end_of(op, &start, slot | rpl, stack_slot | rpl);
        good = landed("returns", &start, &end);
        note_accessed(slot, before);
      } else {
        good = refused("refused", &start, want.vector, want.error);
      }
      if (!good && showing_failures()) printf("       access %x rpl %u cpl %u operation %u\n", access, rpl, cpl, op);
    }
  }
}

static const struct {
  u16 selector, error;
} outside[] = {{0, 0},
               {1, 0},
               {2, 0},
               {3, 0},
               {gdt_entries * 8 | 3, gdt_entries * 8},
               {0xFFFB, 0xFFF8},
               {ldt_entries * 8 | 7, ldt_entries * 8 | 4},
               {0xFFFF, 0xFFFC},
               {0x3F, 0x3C}};

static void code_selectors(void) {
  group("code selectors");
  ldt[7] = 0;
  ldt[2] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
  gdt[stack_slot / 8] = stack_segment(op_retf, 0xF3);
  gdt[0] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);  // NULL does not lead there
  for (u32 op = 0; op < operations; op++) {
    for (u32 i = 0; i < ARRAY_SIZE(outside); i++) {
      for (u32 cpl = 0; cpl < 4; cpl += 3) {
        struct Cpu start = start_return(op, cpl, outside[i].selector, stack_slot | 3);
        refused("outside", &start, v_protection, outside[i].error);
      }
    }
    for (u32 cpl = 0; cpl < 4; cpl++) {
      gdt[stack_slot / 8] = stack_segment(op, 0xF3);
      struct Cpu start = start_return(op, cpl, 0x17, stack_slot | 3), end = end_of(op, &start, 0x17, stack_slot | 3);
      landed("to the LDT", &start, &end);
    }
  }
}

static void stack_segments(void) {
  group("stack segments");
  for (u32 n = 0; n < 256 * 4 * 6; n++) {
    const u32 access = n & 255, rpl = n >> 8 & 3;
    static const struct { u8 from, to; } pairs[] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
    const u32 from = pairs[n >> 10].from, to = pairs[n >> 10].to, dpl = access >> 5 & 3;
    for (u32 op = 0; op < operations; op++) {
      if (op >= op_retf16 && (to != 3 || ((access ^ access >> 1) & 1))) continue;
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x98 | to << 5), 0xC);
      const u64 before = gdt[stack_slot / 8] = stack_segment(op, (u8)access);
      struct Cpu start = start_return(op, from, slot | to, stack_slot | rpl);
      const bool writable_data = (access & 0x1A) == 0x12;
      bool good;
      if (rpl != to || !writable_data || dpl != to) {
        good = refused("RPL, type or DPL", &start, v_protection, stack_slot);
      } else if (!(access & 0x80)) {
        good = refused("absent", &start, v_stack, stack_slot);
      } else {
        struct Cpu end = end_of(op, &start, slot | to, stack_slot | to);
        good = landed("taken", &start, &end);
        note_accessed(stack_slot, before);
      }
      if (!good && showing_failures()) printf("       access %x rpl %u from %u to %u operation %u\n", access, rpl, from, to, op);
    }
  }
}

static void stack_selectors(void) {
  group("stack selectors");
  gdt[0] = descriptor(0, 0xFFFFF, 0xF3, 0xC);  // NULL does not lead there
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
  for (u32 op = 0; op < operations; op++) {
    for (u32 i = 0; i < ARRAY_SIZE(outside); i++) {
      struct Cpu start = start_return(op, 1, slot | 3, outside[i].selector);
      refused("outside", &start, v_protection, outside[i].error);
    }
    ldt[6] = stack_segment(op, 0xF2);
    struct Cpu start = start_return(op, 1, slot | 3, 0x37), end = end_of(op, &start, slot | 3, 0x37);
    landed("stack in the LDT", &start, &end);
    // Two faults: the code segment comes first.
    gdt[slot / 8] &= ~(1ull << 47);
    make_frame(op, start.esp, slot | 3, pad_offset, 0, 0);
    refused("code absent and no stack", &start, v_not_present, slot);
    gdt[slot / 8] |= 1ull << 47;
  }
}

SNIPPET(retf_8010, "retf 0x8010\n");
SNIPPET(retf_0, "retf 0\n");

static void released_bytes(void) {
  group("released bytes");
  for (u32 cpl = 0; cpl < 4; cpl++) {
    // The count is unsigned, and releases on both stacks.
    struct Cpu start = start_in(cpl, retf_8010), end;
    start.esp -= 0x8100;
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | cpl << 5), 0xC);
    put(start.esp, pad_offset, 4);
    put(start.esp + 4, slot | cpl, 4);
    end = start;
    end.cs = slot | cpl;
    end.eip = pad_offset;
    end.esp += 8 + 0x8010;
    landed("within the ring", &start, &end);
    put(start.esp, pad_offset, 4);  // ring 0's trap was on this stack
    put(start.esp + 4, slot | cpl, 4);
    start.eip = (u32)retf_0;
    end.esp = start.esp + 8;
    landed("none", &start, &end);
    if (cpl == 3) break;
    start.eip = (u32)retf_8010;
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
    put(start.esp, pad_offset, 4);
    put(start.esp + 4, slot | 3, 4);
    put(start.esp + 8 + 0x8010, (u32)user_stack + 0x100, 4);
    put(start.esp + 12 + 0x8010, user_data, 4);
    end = start;
    end.cs = slot | 3;
    end.eip = pad_offset;
    end.ss = user_data;
    end.esp = (u32)user_stack + 0x100 + 0x8010;
    drop_data(&end);
    landed("to ring 3", &start, &end);
  }
}

// The frame must be inside the stack segment, all that is read of it.
static void frames_and_limits(void) {
  group("frames and limits");
  for (u32 n = 0; n < operations * 2 * 2; n++) {
    const u32 op = n % operations, outer = n / operations & 1, down = n / operations >> 1, size = size_of(op);
    const u32 last = ((is_iret(op) ? 3 : 2) + (outer ? 2 : 0)) * size + (outer ? released(op) : 0);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
    gdt[stack_slot / 8] = stack_segment(op, 0xF3);
    for (u32 inside = 0; inside <= last + 4; inside++) {
      // From ring 2 to 3, or within 3; the frame begins at offset 400h of a segment that ends, or begins, around it.
      const u32 cpl = outer ? 2 : 3;
      struct Cpu start = start_return(op, cpl, slot | 3, stack_slot | 3), end = end_of(op, &start, slot | 3, stack_slot | 3);
      const u32 base = start.esp - 0x400;
      if (down)
        gdt[other_slot / 8] = descriptor(base, 0x400 + last - inside - 1, (u8)(0x97 | cpl << 5), 4);
      else
        gdt[other_slot / 8] = descriptor(base, 0x400 + inside - 1, (u8)(0x93 | cpl << 5), 4);
      start.ss = other_slot | cpl;
      start.esp = 0x400;
      if (!outer) {
        end.ss = start.ss;
        end.esp -= base;
      }
      // Intel CPUs read two bytes of CS; it comes last in a frame that RETF leaves within the ring.
      const u32 unread = !is_iret(op) && !outer && !down ? size - 2 : 0;
      const bool fits = inside >= last - unread;
      bool good = fits ? landed("inside", &start, &end) : refused("outside", &start, v_stack, 0);
      if (!good && showing_failures())
        printf("       operation %u outer %u down %u bytes inside %u of %u\n", op, outer, down, inside, last);
    }
  }
}

// SS.B = 0: SP wraps at 64 KiB, and the upper half of ESP is not touched by a return to such a stack.
static void stacks16(void) {
  group("16-bit stacks");
  static u8 area[0x10000] __attribute__((aligned(4096)));
  for (u32 op = 0; op < 4; op++) {
    const u32 size = size_of(op), items = is_iret(op) ? 5 : 4;
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
    gdt[stack_slot / 8] = stack_segment(op, 0xF3);
    gdt[other_slot / 8] = descriptor((u32)area, 0xFFFF, 0xD3, 0);
    for (u32 before = 1; before < items; before++) {
      struct Cpu start = start_in(2, codes[op]), end;
      u32 frame[5] = {pad_offset, slot | 3, f_fixed, outer_esp(op, 3), stack_slot | 3};
      if (!is_iret(op)) {
        frame[2] = frame[3];
        frame[3] = frame[4];
      }
      start.ss = other_slot | 2;
      start.esp = 0x10000 - before * size;
      for (u32 i = 0; i < items; i++) put((u32)area + ((start.esp + i * size) & 0xFFFF), frame[i], size);
      end = start;
      end.cs = slot | 3;
      end.eip = pad_offset;
      end.ss = stack_slot | 3;
      end.esp = outer_esp(op, 3);
      drop_data(&end);
      if (is_iret(op)) end.eflags = f_fixed;
      landed("frame round the end", &start, &end);
    }
    // To a 16-bit stack, from a 32-bit one of ring 2.
    struct Cpu start = start_in(2, codes[op]), end;
    gdt[other_slot / 8] = descriptor((u32)area, 0xFFFF, 0xF3, 0);
    make_frame(op, start.esp, slot | 3, pad_offset, other_slot | 3, 0x87651230);
    end = start;
    end.cs = slot | 3;
    end.eip = pad_offset;
    end.ss = other_slot | 3;
    end.esp = (start.esp & 0xFFFF0000) | 0x1230;
    drop_data(&end);
    if (is_iret(op)) end.eflags = f_fixed;
    landed("only SP is loaded", &start, &end);
  }
}

static void code_limits(void) {
  group("limits of code");
  for (u32 op = 0; op < operations; op++) {
    for (u32 cpl = 0; cpl < 4; cpl++) {
      gdt[stack_slot / 8] = stack_segment(op, 0xF2);
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset - 1, 0xF8, 4);
      struct Cpu start = start_return(op, cpl, slot | 3, stack_slot | 3);
      refused("EIP outside", &start, v_protection, 0);
      // Intel CPUs and the manual agree: what is wrong with SS comes before EIP.
      gdt[stack_slot / 8] = stack_segment(op, 0x72);
      if (cpl < 3) refused("EIP outside and the stack absent", &start, v_stack, stack_slot);
      gdt[stack_slot / 8] = stack_segment(op, 0xF2);
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset + 3, 0xF8, 4);
      struct Cpu end = end_of(op, &start, slot | 3, stack_slot | 3);
      landed("EIP inside", &start, &end);
      if (cpl == 0) make_frame(op, start.esp, slot | 3, pad_offset, stack_slot | 3, outer_esp(op, 3));
      gdt[slot / 8] = descriptor((u32)pad - pad_offset, pad_offset, 0xF8, 4);
      run_cpu(&start);
      check_trap("EIP at the limit", v_protection, 0, (void*)pad_offset);
      check("CS of the return", trap.cpu.cs, slot | 3);
    }
  }
}

static void one_data_segment(u32 selector, u32 from, u32 to, enum Operation op) {
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | to << 5), 0xC);
  gdt[stack_slot / 8] = stack_segment(op, (u8)(0x93 | to << 5));
  for (u32 which = 0; which < 4; which++) {
    struct Cpu start = start_return(op, from, slot | to, stack_slot | to);
    u32* const registers[] = {&start.ds, &start.es, &start.fs, &start.gs};
    *registers[which] = selector;
    struct Cpu end = end_of(op, &start, slot | to, stack_slot | to);
    if (!landed("data segment", &start, &end) && showing_failures())
      printf("       selector %x access %x from %u to %u operation %u\n", selector, access_of((u16)selector), from, to, op);
  }
}

static void data_segments(void) {
  group("data segments");
  for (u32 type = 0; type < 4 * 4 * 4 * 4; type++) {
    static const u8 types[] = {0x11, 0x17, 0x1B, 0x1F};  // data, expand-down, readable code, conforming
    const u32 dpl = type & 3, from = type >> 2 & 3, to = type >> 4 & 3, kind = type >> 6;
    const bool loadable = kind == 3 || dpl >= from;
    if (to < from || !loadable) continue;
    gdt[other_slot / 8] = segment_with((u8)(0x80 | types[kind] | dpl << 5));
    for (u32 op = 0; op < operations; op++) one_data_segment(other_slot, from, to, op);
  }
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
  struct Cpu start = start_return(op_retf, 3, slot | 3, 0), end = end_of(op_retf, &start, slot | 3, 0);
  landed("no stack is popped within a ring", &start, &end);
}

static void null_data_segments(void) {
  group("NULL data segments");
  for (u32 selector = 0; selector < 4; selector++) {
    for (u32 op = 0; op < operations; op++) {
      for (u32 from = 0; from < 4; from++) {
        for (u32 to = from; to < 4; to++) {
          if (from != to) one_data_segment(selector, from, to, op);
        }
      }
    }
  }
}

static struct Space space;

static void set_page(u32 linear, u64 entry) {
  map(&space, linear, entry);
  invlpg(linear);
}

static void pages(void) {
  group("pages");
  const u32 page = new_page(), upper = new_page(), border = absent + 0x1000;
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
  for (u32 n = 0; n < 4 * 2; n++) {
    const u32 op = n & 3, from = n >> 2 ? 3 : 2, size = size_of(op), items = (is_iret(op) ? 3 : 2) + (from == 2 ? 2 : 0);
    gdt[stack_slot / 8] = stack_segment(op, 0xF3);
    for (u32 below = 1; below < items; below++) {
      struct Cpu start = start_in(from, codes[op]);
      start.esp = border - below * size;
      set_page(border - 0x1000, page | p_present | p_write | p_user);
      set_page(border, upper | p_present | p_write | p_user);
      make_frame(op, start.esp, slot | 3, pad_offset, stack_slot | 3, outer_esp(op, 3));
      struct Cpu end = end_of(op, &start, slot | 3, stack_slot | 3);
      landed("all there", &start, &end);
      // RETF reads CS first, then EIP: on Intel CPUs. IRET reads EFLAGS before both.
      const u32 first = start.esp + (is_iret(op) ? 2 : 1) * size;
      const u32 address = first > border ? first : border;
      set_page(border, 0);
      refused_by_page("absent", &start, from == 3 ? 4 : 0, address);
      set_page(border, upper | p_present);
      if (from == 3)
        refused_by_page("the supervisor's", &start, 5, address);
      else
        landed("the supervisor's", &start, &end);
    }
  }
  // Descriptors are read with the rights of a supervisor.
  const u32 table = absent + 0x10000;
  gdt[ldt_slot / 8] = descriptor(table, 0xFFF, 0x82, 0);
  __asm__ volatile("lldt %w0" ::"r"((u32)ldt_slot));
  for (u32 op = 0; op < 2; op++) {
    set_page(table, 0);
    struct Cpu start = start_return(op, 3, 0x17, 0);
    refused_by_page("code descriptor absent", &start, 0, table + 16);
    gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xFB, 0xC);
    start = start_return(op, 1, slot | 3, 0x1F);
    refused_by_page("stack descriptor absent", &start, 0, table + 24);
    set_page(table, page | p_present | p_write);
    *(volatile u64*)(table + 16) = descriptor((u32)pad - pad_offset, 0xFFFFF, 0xF8, 0xC);
    *(volatile u64*)(table + 24) = descriptor(0, 0xFFFFF, 0xF2, 0xC);
    start = start_return(op, 1, 0x17, 0x1F);
    struct Cpu end = end_of(op, &start, 0x17, 0x1F);
    end.ds = end.es = end.fs = end.gs = 0;
    landed("both in the LDT", &start, &end);
  }
}

void guest_main(void) {
  transfer_init();
  code_segments();
  code_selectors();
  stack_segments();
  stack_selectors();
  released_bytes();
  frames_and_limits();
  stacks16();
  code_limits();
  data_segments();
  null_data_segments();
  space = new_space(false);
  use_space(&space);
  pages();
  paging_off();
  check_accessed();
}
