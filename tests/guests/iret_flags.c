// Which flags IRET loads, by CPL, IOPL and operand size, within a ring and to outer ones; a single step after it; and IRET with NT, whose
// checks of the TSS that it would return to are done before anything else (SDM vol. 2, IRET/IRETD; vol. 3, table 7-1).
//
// qemu: deviates in "no back link" (it reads past the limit, and takes entry 0 of the GDT)
//
// expect:
//   within the ring: ok
//   to outer rings: ok
//   VIF and VIP: ok
//   single step: ok
//   nested tasks: ok
//   no back link: ok
// end
#include "lib/transfer.h"

enum { f_vif = 0x80000, f_vip = 0x100000, f_reserved = (int)0xFFC08028 };
SNIPPET(iret_, "iretd\n");
SNIPPET(iret16, ".byte 0x66, 0xCF\n");

static u32 wanted(u32 old, u32 popped, u32 cpl, bool wide) {
  const u32 iopl = old >> 12 & 3;
  u32 mask = f_status | f_df | f_nt | f_tf;
  if (wide) mask |= f_rf | f_ac | f_id;
  if (cpl <= iopl) mask |= f_if;
  if (cpl == 0) mask |= f_iopl;
  return (old & ~mask) | (popped & mask) | f_fixed;
}

static u32 put_frame(u32 at, bool wide, const u32* items) {
  for (u32 i = 0; i < 5; i++) {
    if (wide)
      write32(at + 4 * i, items[i]);
    else
      *(volatile u16*)(at + 2 * i) = (u16)items[i];
  }
  return at;
}

// A 16-bit frame has 16 bits of ESP: the stack of stack_slot has small offsets.
static struct Cpu start_iret(u32 cpl, u32 to, bool wide, u32 popped) {
  struct Cpu cpu = start_in(cpl, wide ? iret_ : iret16);
  const u32 items[] = {pad_offset, slot | to, popped, 0x800, stack_slot | to};
  gdt[slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, (u8)(0x9B | to << 5), 0xC);
  gdt[stack_slot / 8] = descriptor((u32)ring_stacks[1], 0xFFF, (u8)(0x93 | to << 5), 4);
  put_frame(cpu.esp, wide, items);
  return cpu;
}

static struct Cpu end_iret(const struct Cpu* start, u32 to, bool wide, u32 popped) {
  struct Cpu end = *start;
  const u32 cpl = start->cs & 3;
  end.eip = pad_offset;
  end.cs = slot | to;
  end.eflags = wanted(start->eflags, popped, cpl, wide);
  end.esp += wide ? 12 : 6;
  if (to == cpl) return end;
  end.ss = stack_slot | to;
  end.esp = 0x800;
  end.ds = end.es = end.fs = end.gs = 0;
  return end;
}

static void flags(bool outer) {
  group(outer ? "to outer rings" : "within the ring");
  static const u32 olds[] = {0, f_cf | f_of | f_df, f_if | f_ac, f_id | f_status, f_if | f_id | f_df};
  static const u32 news[] = {0,
                             f_status,
                             f_df | f_nt,
                             f_if,
                             f_iopl,
                             f_ac,
                             f_id,
                             0x1000 | f_if,
                             f_rf,
                             f_reserved,
                             (u32)f_reserved | f_if | f_status | f_df | f_iopl | f_id | f_ac | f_nt};
  for (u32 n = 0; n < 4 * 4 * 2 * ARRAY_SIZE(olds) * ARRAY_SIZE(news); n++) {
    const u32 cpl = n & 3, iopl = n >> 2 & 3, wide = n >> 4 & 1, i = n >> 5;
    const u32 popped = news[i % ARRAY_SIZE(news)], old = olds[i / ARRAY_SIZE(news)];
    for (u32 to = outer ? cpl + 1 : cpl; to < 4; to++) {
      struct Cpu start = start_iret(cpl, to, wide, popped);
      start.eflags |= old | iopl << 12;
      struct Cpu end = end_iret(&start, to, wide, popped);
      if (!landed("flags", &start, &end) && showing_failures())
        printf("       cpl %u iopl %u to %u wide %u old %x popped %x\n", cpl, iopl, to, wide, old, popped);
      if (!outer) break;
    }
  }
}

static void virtual_flags(void) {
  group("VIF and VIP");
  for (u32 cpl = 0; cpl < 4; cpl++) {
    for (u32 wide = 0; wide < 2; wide++) {
      struct Cpu start = start_iret(cpl, cpl, wide, f_vif | f_vip), end = end_iret(&start, cpl, wide, f_vif | f_vip);
      start.eflags |= f_iopl;
      end.eflags |= cpl == 0 ? 0 : f_iopl;
      landed("no such flags", &start, &end);
    }
  }
}

// TF that IRET loads takes effect after the instruction at the new place.
static void single_step(void) {
  group("single step");
  for (u32 cpl = 0; cpl < 4; cpl++) {
    for (u32 to = cpl; to < 4; to++) {
      for (u32 wide = 0; wide < 2; wide++) {
        struct Cpu start = start_iret(cpl, to, wide, f_tf | f_cf);
        run_cpu(&start);
        check_trap("after one instruction", v_debug, 0, (void*)(pad_offset + 2));
        check("cs", trap.cpu.cs, slot | to);
        check("flags", trap.cpu.eflags, f_fixed | f_tf | f_cf);
      }
    }
  }
}

static void nested_tasks(void) {
  group("nested tasks");
  static const struct {
    const char* what;
    u16 link;
    u8 access;
    u32 limit, vector, error;
  } rows[] = {
      {"in the LDT", slot | 4, 0x8B, 0x67, v_tss, slot | 4},
      {"outside", gdt_entries * 8 | 3, 0x8B, 0x67, v_tss, gdt_entries * 8},
      {"data", slot | 3, 0x93, 0x67, v_tss, slot},
      {"code", slot, 0x9B, 0x67, v_tss, slot},
      {"an LDT", slot, 0x82, 0x67, v_tss, slot},
      {"a TSS that is not busy", slot, 0x89, 0x67, v_tss, slot},
      {"a 16-bit TSS that is not busy", slot, 0x81, 0x67, v_tss, slot},
      {"a gate", slot, 0x8C, 0x67, v_tss, slot},
      {"not busy and not present", slot, 0x09, 0x67, v_tss, slot},
      {"not present", slot | 1, 0x0B, 0x67, v_not_present, slot},
      {"too short", slot, 0x8B, 0x66, v_tss, slot},
      {"a 16-bit TSS too short", slot, 0x83, 0x2A, v_tss, slot},
  };
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    for (u32 cpl = 0; cpl < 4; cpl++) {
      // The frame would fault, too; nobody looks at it.
      struct Cpu start = start_in(cpl, cpl & 1 ? iret_ : iret16);
      const u32 items[5] = {0};
      put_frame(start.esp, cpl & 1, items);
      start.eflags |= f_nt | f_cf;
      tss.back_link = rows[i].link;
      gdt[slot / 8] = descriptor((u32)&tss, rows[i].limit, rows[i].access, 0);
      refused(rows[i].what, &start, rows[i].vector, rows[i].error);
    }
  }
}

// A TSS that ends before its back link. Only ring 0 can tell: the others need its stack for the fault.
static void no_back_link(void) {
  group("no back link");
  struct Cpu start = start_in(0, iret_);
  start.eflags |= f_nt;
  tss.back_link = slot;
  gdt[slot / 8] = descriptor((u32)&tss, 0x66, 0x8B, 0);
  for (u32 limit = 0; limit < 2; limit++) {
    gdt[other_slot / 8] = descriptor((u32)&tss, limit, 0x89, 0);
    __asm__ volatile("ltr %w0" ::"r"((u32)other_slot));
    refused("the TSS is too short", &start, v_tss, limit == 0 ? other_slot : slot);
  }
  gdt[0] = descriptor((u32)&tss, 0x67, 0x8B, 0);
  tss.back_link = 3;
  refused("NULL", &start, v_tss, 0);
  gdt[tss_selector / 8] &= ~(2ull << 40);
  __asm__ volatile("ltr %w0" ::"r"((u32)tss_selector));
}

void guest_main(void) {
  transfer_init();
  flags(false);
  flags(true);
  virtual_flags();
  single_step();
  nested_tasks();
  no_back_link();
}
