// Accesses that the processor makes by itself, to GDT, LDT and IDT: always the supervisor's, whatever the CPL (SDM vol. 3, 4.6.1). Tables
// on pages that ring 3 may not touch, absent pages, descriptors that lie across two pages, and accessed bits set in a table on a read-only
// page, which CR0.WP decides (2.5). Error code, CR2, and that a load that faults changes neither register nor table.
//
// qemu: deviates in "code segments" (far transfers do not mark them accessed)
// qemu: deviates in "PAE and no-execute" (the present bit is missing beside RSVD)
//
// expect:
//   GDT on a supervisor page: ok
//   GDT absent: ok
//   descriptor across pages: ok
//   accessed bit on a read-only page: ok
//   LDT: ok
//   code segments: ok
//   IDT: ok
//   PAE and no-execute: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, far_selector = 0x200, all = p_present | p_write };
static struct Space space;
static u32 pages;  // two physical pages, mapped at `window`

SNIPPET(load_es, "mov es, eax\n" DONE);
SNIPPET(load_ss, "mov ss, eax\n nop\n" DONE);
SNIPPET(load_ds, "mov ds, eax\n" DONE);
SNIPPET(load_fs, "mov fs, eax\n" DONE);
SNIPPET(load_gs, "mov gs, eax\n" DONE);
SNIPPET(pop_gs, "mov [esp], eax\n pop gs\n" DONE);
SNIPPET(lds_, "lds edi, [ebx]\n" DONE);
SNIPPET(lss_, "lss edi, [ebx]\n nop\n" DONE);
static const u8* const loads[] = {load_es, load_ss, load_ds, load_fs, load_gs, lds_, lss_};

static struct {
  u32 offset;
  u16 selector;
} __attribute__((packed)) pointer = {0x1234, 0};

static void map_second(u32 flags) {
  set_pte(&space, window + page_bytes, flags ? (pages + page_bytes) | flags : 0);
  invlpg(window + page_bytes);
}

// The GDT ends with the first page, and its entry 200h starts `shift` bytes before the second.
static u64* far_entry;
static void place_gdt(u32 shift) {
  const u32 base = pages + page_bytes - sizeof(gdt) - shift;
  memcpy((void*)base, gdt, sizeof(gdt));
  far_entry = (u64*)(base + sizeof(gdt));
  load_gdt(base - pages + window, 0x207);
}

static struct Cpu attempt(const u8* code, u32 ring, u32 selector) {
  struct Cpu cpu = ring_cpu(ring, code);
  cpu.eax = selector;
  pointer.selector = (u16)selector;
  cpu.ebx = (u32)&pointer;
  run_cpu(&cpu);
  return cpu;
}

static u64 data_entry(u32 ring) { return descriptor(0, 0xFFFFF, (u8)(0x92 | ring << 5), 0xC); }

static u32 second_flags(void) { return (u32)get_pte(&space, window + page_bytes) & (p_accessed | p_dirty); }

static void supervisor_page(void) {
  for (u32 shift = 0; shift < 8; shift++) {
    place_gdt(shift);
    for (u32 ring = 0; ring < 4; ring++) {
      for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
        *far_entry = data_entry(ring);
        map_second(all);
        attempt(loads[i], ring, far_selector | ring);
        check_done("load");
        check_true("accessed", *far_entry == (data_entry(ring) | 1ull << 40));
        // Byte 5 lies on the second page up to a shift of 5; how much more than that byte is written, the manual does not say.
        if (shift < 6) check("its page is marked", second_flags(), p_accessed | p_dirty);
        map_second(all);
        attempt(loads[i], ring, far_selector | ring);
        check("read only this time", second_flags(), p_accessed);
      }
    }
  }
}

static void absent(void) {
  place_gdt(0);
  map_second(0);
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
      struct Cpu cpu = attempt(loads[i], ring, far_selector | ring);
      check_page_fault("absent", 0, window + page_bytes, loads[i]);
      check_unchanged("absent", &cpu);
      // Only inside the limit: a selector beyond it is never looked up.
      cpu = attempt(loads[i], ring, 0x208 | ring);
      check_trap("beyond the limit", v_protection, 0x208, loads[i]);
    }
  }
}

static void across(void) {
  for (u32 shift = 1; shift < 8; shift++) {
    place_gdt(shift);
    for (u32 ring = 0; ring < 4; ring += 3) {
      for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
        *far_entry = data_entry(ring);
        map_second(0);
        struct Cpu cpu = attempt(loads[i], ring, far_selector | ring);
        check_page_fault("second half absent", 0, window + page_bytes, loads[i]);
        check_unchanged("second half absent", &cpu);
        check_true("not marked", *far_entry == data_entry(ring));
      }
    }
  }
}

static void read_only(void) {
  for (u32 shift = 0; shift < 8; shift += 4) {
    place_gdt(shift);
    for (u32 wp = 0; wp < 2; wp++) {
      write_cr0(wp ? read_cr0() | cr0_wp : read_cr0() & ~(u32)cr0_wp);
      for (u32 user_page = 0; user_page < 2; user_page++) {
        for (u32 ring = 0; ring < 4; ring++) {
          for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
            u64 entry = data_entry(ring);
            *far_entry = entry;
            map_second(p_present | (user_page ? p_user : 0));
            struct Cpu cpu = attempt(loads[i], ring, far_selector | ring);
            if (wp) {
              check_trap("refused", v_page, e_present | e_write, loads[i]);
              check("its page", trap.cr2 & ~0xFFFu, window + page_bytes);
              check_unchanged("refused", &cpu);
              check_true("not marked", *far_entry == entry);
              check("page not dirty", second_flags() & p_dirty, 0);
            } else {
              check_done("allowed");
              check_true("marked", *far_entry == (entry | 1ull << 40));
            }
            // An entry that is marked already needs no write.
            *far_entry = entry | 1ull << 40;
            map_second(p_present | (user_page ? p_user : 0));
            attempt(loads[i], ring, far_selector | ring);
            check_done("marked already");
            check("page not dirty", second_flags(), p_accessed);
          }
        }
      }
    }
    // Checks come before the mark: what is refused is not written, so that nothing but the check faults.
    write_cr0(read_cr0() | cr0_wp);
    map_second(p_present);
    *far_entry = descriptor(0, 0xFFFFF, 0x12, 0xC);
    attempt(load_ds, 0, far_selector);
    check_trap("not present", v_not_present, far_selector, load_ds);
    *far_entry = data_entry(0);
    attempt(load_ds, 3, far_selector | 3);
    check_trap("privilege", v_protection, far_selector, load_ds);
    write_cr0(read_cr0() & ~(u32)cr0_wp);
  }
}

static void local_table(void) {
  enum { ldt_slot = 0x80 };
  own_gdt();
  u64* local = (u64*)(pages + page_bytes - 16);
  gdt[ldt_slot / 8] = descriptor(window + page_bytes - 16, 0xFF, 0x82, 0);
  load_ldt(ldt_slot);
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
      local[1] = local[2] = data_entry(ring);
      map_second(0);
      attempt(loads[i], ring, 8 | 4 | ring);
      check_done("in the first page");
      struct Cpu cpu = attempt(loads[i], ring, 16 | 4 | ring);
      check_page_fault("absent", 0, window + page_bytes, loads[i]);
      check_unchanged("absent", &cpu);
      map_second(all);
      attempt(loads[i], ring, 16 | 4 | ring);
      check_done("supervisor page");
      check_true("marked", local[2] == (data_entry(ring) | 1ull << 40));
    }
  }
  // The first half of a descriptor absent: it is there that the read starts.
  map(&space, window - page_bytes, 0);
  for (u32 shift = 1; shift < 8; shift++) {
    gdt[ldt_slot / 8] = descriptor(window - shift, 0xFF, 0x82, 0);
    load_ldt(ldt_slot);
    for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
      struct Cpu cpu = attempt(loads[i], 3, 7);
      check_page_fault("first half absent", 0, window - shift, loads[i]);
      check_unchanged("first half absent", &cpu);
    }
  }
  load_ldt(0);
}

SNIPPET(jump_far, "jmp fword ptr [ebx]\n");
SNIPPET(call_far, "call fword ptr [ebx]\n");
SNIPPET(return_far, "push eax\n push ecx\n" LABEL(return_far_at) "retf\n");
SNIPPET(return_interrupt, "pushfd\n push eax\n push ecx\n" LABEL(return_interrupt_at) "iretd\n");
SNIPPET(landing, "mov ebp, 5\n" DONE);
extern const u8 return_far_at[], return_interrupt_at[];

// Far transfers read and mark code descriptors in the same way.
static void code_segments(void) {
  static const struct {
    const char* what;
    const u8 *code, *at;
  } rows[] = {{"jmp", jump_far, jump_far},
              {"call", call_far, call_far},
              {"retf", return_far, return_far_at},
              {"iret", return_interrupt, return_interrupt_at}};
  place_gdt(0);
  for (u32 ring = 0; ring < 4; ring++) {
    const u64 entry = descriptor(0, 0xFFFFF, (u8)(0x9A | ring << 5), 0xC);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
      for (u32 how = 0; how < 4; how++) {  // absent, read-only without and with WP, writable
        *far_entry = entry;
        map_second(how == 0 ? 0 : how == 3 ? all : p_present);
        if (how == 2) write_cr0(read_cr0() | cr0_wp);
        pointer.offset = (u32)landing;
        struct Cpu cpu = ring_cpu(ring, rows[i].code);
        cpu.eax = far_selector | ring;
        cpu.ecx = (u32)landing;
        pointer.selector = (u16)(far_selector | ring);
        cpu.ebx = (u32)&pointer;
        run_cpu(&cpu);
        if (how == 0) {
          check_page_fault(rows[i].what, 0, window + page_bytes, rows[i].at);
        } else if (how == 2) {
          check_trap(rows[i].what, v_page, e_present | e_write, rows[i].at);
          check("its page", trap.cr2 & ~0xFFFu, window + page_bytes);
        } else {
          check_done(rows[i].what);
          check(rows[i].what, trap.cpu.ebp, 5);
          check("cs", trap.cpu.cs, far_selector | ring);
        }
        check_true("accessed", *far_entry == (how & 1 ? entry | 1ull << 40 : entry));
        if (how == 0 || how == 2) check("esp", trap.cpu.esp, cpu.esp - (i == 2 ? 8 : i == 3 ? 12 : 0));
        write_cr0(read_cr0() & ~(u32)cr0_wp);
      }
    }
  }
  own_gdt();
}

SNIPPET(int_20, "int 0x20\n" DONE);
SNIPPET(int_21, "int 0x21\n" DONE);

// Vector 20h's gate starts `shift` bytes before the second page.
static void interrupt_table(void) {
  for (u32 shift = 0; shift < 8; shift++) {
    const u32 base = pages + page_bytes - 0x100 - shift;
    memcpy((void*)base, idt, 0x100 + 16);
    u64* gates = (u64*)base;
    gates[0x20] |= 0x6000ull << 32;
    gates[0x21] |= 0x6000ull << 32;
    for (u32 ring = 0; ring < 4; ring++) {
      static const u8* const codes[] = {int_20, int_21};
      for (u32 i = 0; i < 2; i++) {
        load_idt((void*)(base - pages + window), 0x10F);
        map_second(0);
        struct Cpu cpu = ring_cpu(ring, codes[i]);
        run_cpu(&cpu);
        check_page_fault("gate absent", 0, window + page_bytes + (i == 1 ? 8 - shift : 0), codes[i]);
        check_unchanged("gate absent", &cpu);
        map_second(p_present);
        run_cpu(&cpu);
        check_trap("supervisor page", 0x20 + i, 0, codes[i] + 2);
        check("read only", second_flags(), p_accessed);
        load_idt(idt, sizeof(idt) - 1);
      }
    }
  }
}

// A table may lie on a page that forbids execution; the implicit read of ring 3 has no U in its error code here either.
static void pae(void) {
  write_msr(MSR_EFER, EFER_NXE);
  space = new_space(true);
  map(&space, window, pages | all | P_NX);
  map(&space, window + page_bytes, (pages + page_bytes) | all | P_NX);
  use_space(&space);
  supervisor_page();
  place_gdt(0);
  set_pte(&space, window + page_bytes, P_NX);
  invlpg(window + page_bytes);
  for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
    attempt(loads[i], 3, far_selector | 3);
    check_page_fault("absent", 0, window + page_bytes, loads[i]);
  }
  set_pte(&space, window + page_bytes, (pages + page_bytes) | all | 1ull << 61);
  invlpg(window + page_bytes);
  for (u32 i = 0; i < ARRAY_SIZE(loads); i++) {
    attempt(loads[i], 3, far_selector | 3);
    check_page_fault("reserved bit", e_present | e_reserved, window + page_bytes, loads[i]);
  }
  own_gdt();
}

void guest_main(void) {
  descriptors_init();
  new_page();
  pages = new_pages(2);
  space = new_space(false);
  map(&space, window, pages | all);
  map(&space, window + page_bytes, (pages + page_bytes) | all);
  use_space(&space);
  group("GDT on a supervisor page");
  supervisor_page();
  group("GDT absent");
  absent();
  group("descriptor across pages");
  across();
  group("accessed bit on a read-only page");
  read_only();
  group("LDT");
  local_table();
  group("code segments");
  code_segments();
  group("IDT");
  interrupt_table();
  group("PAE and no-execute");
  pae();
  finish();
}
