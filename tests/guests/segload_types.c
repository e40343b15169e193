// Loading ES, SS, DS, FS and GS with every kind of descriptor: 32 types, each DPL, present or not, each RPL, from each ring, by MOV, POP
// and LDS LES LSS LFS LGS. What must happen is computed here from the pseudo-code of SDM vol. 2, MOV ("Loading a segment register while
// in protected mode"), POP and LDS; a refused load changes no register, and no bit of the descriptor.
//
// qemu: deviates in "operand forms" (it checks no limits, takes LOCK POP, and C4h and C5h for VEX prefixes without CR4.OSXSAVE)
//
// expect:
//   mov es: ok
//   mov ss: ok
//   mov ds: ok
//   mov fs: ok
//   mov gs: ok
//   pop: ok
//   far pointers: ok
//   16-bit forms: ok
//   operand forms: ok
// end
#include "lib/guest.h"

enum { slot = 0x80 };
enum Register { r_es, r_ss, r_ds, r_fs, r_gs, register_count };
static const char* const register_names[] = {"mov es", "mov ss", "mov ds", "mov fs", "mov gs"};

SNIPPET(mov_es, "mov es, eax\n" DONE);
SNIPPET(mov_ss, "mov ss, eax\n nop\n" DONE);
SNIPPET(mov_ds, "mov ds, eax\n" DONE);
SNIPPET(mov_fs, "mov fs, eax\n" DONE);
SNIPPET(mov_gs, "mov gs, eax\n" DONE);
static const u8* const mov_codes[] = {mov_es, mov_ss, mov_ds, mov_fs, mov_gs};

// The stack holds the selector; EBX leads there, too.
SNIPPET(pop_es, "pop es\n" DONE);
SNIPPET(pop_ss, "pop ss\n nop\n" DONE);
SNIPPET(pop_ds, "pop ds\n" DONE);
SNIPPET(pop_fs, "pop fs\n" DONE);
SNIPPET(pop_gs, "pop gs\n" DONE);
static const u8* const pop_codes[] = {pop_es, pop_ss, pop_ds, pop_fs, pop_gs};

SNIPPET(pop_es16, "data16 pop es\n" DONE);
SNIPPET(pop_ss16, "data16 pop ss\n nop\n" DONE);
SNIPPET(pop_ds16, "data16 pop ds\n" DONE);
SNIPPET(pop_fs16, "data16 pop fs\n" DONE);
SNIPPET(pop_gs16, "data16 pop gs\n" DONE);
static const u8* const pop16_codes[] = {pop_es16, pop_ss16, pop_ds16, pop_fs16, pop_gs16};

SNIPPET(les_, "les edi, [ebx]\n" DONE);
SNIPPET(lss_, "lss edi, [ebx]\n nop\n" DONE);
SNIPPET(lds_, "lds edi, [ebx]\n" DONE);
SNIPPET(lfs_, "lfs edi, [ebx]\n" DONE);
SNIPPET(lgs_, "lgs edi, [ebx]\n" DONE);
static const u8* const far_codes[] = {les_, lss_, lds_, lfs_, lgs_};

SNIPPET(les16, "les di, [ebx]\n" DONE);
SNIPPET(lss16, "lss di, [ebx]\n nop\n" DONE);
SNIPPET(lds16, "lds di, [ebx]\n" DONE);
SNIPPET(lfs16, "lfs di, [ebx]\n" DONE);
SNIPPET(lgs16, "lgs di, [ebx]\n" DONE);
static const u8* const far16_codes[] = {les16, lss16, lds16, lfs16, lgs16};

// What the manual's pseudo-code says of a selector that is not NULL and inside its table. `access` is byte 5 of the descriptor.
struct Outcome {
  u32 vector;  // vector_done: the load takes place
  u32 error;
};
static struct Outcome expected(enum Register to, u8 access, u32 rpl, u32 cpl) {
  const struct Outcome protection = {v_protection, slot}, done = {vector_done, 0};
  bool segment = access & 0x10, code = access & 8, conforming = code && (access & 4), present = access & 0x80;
  u32 dpl = access >> 5 & 3;
  if (to == r_ss) {
    bool writable_data = segment && !code && (access & 2);
    if (rpl != cpl || !writable_data || dpl != cpl) return protection;
    return present ? done : (struct Outcome){v_stack, slot};
  }
  bool data = segment && !code, readable_code = segment && code && (access & 2);
  if (!data && !readable_code) return protection;
  if (!conforming && (rpl > dpl || cpl > dpl)) return protection;
  return present ? done : (struct Outcome){v_not_present, slot};
}

static u32 register_of(const struct Cpu* cpu, enum Register which) {
  const u32 values[] = {cpu->es, cpu->ss, cpu->ds, cpu->fs, cpu->gs};
  return values[which];
}

static void set_register(struct Cpu* cpu, enum Register which, u32 value) {
  u32* const places[] = {&cpu->es, &cpu->ss, &cpu->ds, &cpu->fs, &cpu->gs};
  *places[which] = value;
}

// Flat, so that an SS that was loaded can be used; an expand-down segment covers all but the first byte.
static u64 make_descriptor(u8 access) {
  bool expand_down = (access & 0x1C) == 0x14;
  return expand_down ? descriptor(0, 0, access, 0x4) : descriptor(0, 0xFFFFF, access, 0xC);
}

enum Form { by_mov, by_pop, by_far_pointer, by_pop16, by_far_pointer16 };

static void attempt(enum Form form, enum Register to, u8 access, u32 rpl, u32 cpl) {
  static const u8* const* const codes[] = {mov_codes, pop_codes, far_codes, pop16_codes, far16_codes};
  static const u32 popped[] = {0, 4, 0, 2, 0};
  static u16 pointer[8];
  const u64 before = make_descriptor(access);
  gdt[slot / 8] = before;
  struct Cpu cpu = ring_cpu(cpl, codes[form][to]);
  const u16 selector = (u16)(slot | rpl);
  cpu.eax = 0xABCD0000 | selector;
  cpu.edi = 0x11112222;
  if (form == by_pop || form == by_pop16) {
    cpu.esp -= 16;
    ((u16*)cpu.esp)[0] = selector;
    ((u16*)cpu.esp)[1] = 0x5555;  // the upper half of a 32-bit pop goes nowhere
  }
  if (form == by_far_pointer) {
    pointer[0] = 0x3344;
    pointer[1] = 0x7788;
    pointer[2] = selector;
  }
  if (form == by_far_pointer16) {
    pointer[0] = 0x3344;
    pointer[1] = selector;
  }
  cpu.ebx = (u32)pointer;
  run_cpu(&cpu);

  struct Outcome want = expected(to, access, rpl, cpl);
  bool good = true;
  if (want.vector == vector_done) {
    good = check_done("loads");
    // Ring 0's SS is replaced by the trap handler's.
    if (to != r_ss || cpl != 0) good &= check("selector", register_of(&trap.cpu, to), selector);
    set_register(&cpu, to, register_of(&trap.cpu, to));
    cpu.esp += popped[form];
    if (form == by_far_pointer) cpu.edi = 0x77883344;
    if (form == by_far_pointer16) cpu.edi = 0x11113344;
    good &= check_true("accessed bit", gdt[slot / 8] == (before | 1ull << 40));
  } else {
    good = check_trap("refused", want.vector, want.error, codes[form][to]);
    good &= check_true("descriptor as before", gdt[slot / 8] == before);
  }
  good &= check_unchanged("registers", &cpu);
  if (!good && showing_failures()) printf("       form %u register %u access %x rpl %u cpl %u\n", form, to, access, rpl, cpl);
}

static void every_combination(enum Register to) {
  for (u32 access = 0; access < 256; access++) {
    for (u32 rpl = 0; rpl < 4; rpl++) {
      for (u32 cpl = 0; cpl < 4; cpl++) attempt(by_mov, to, (u8)access, rpl, cpl);
    }
  }
}

// The other forms share the checks: every type, and the privileges that decide.
static void other_form(enum Form form) {
  static const struct { u8 dpl, rpl, cpl; } privileges[] = {{0, 0, 0}, {3, 3, 3}, {0, 3, 0}, {0, 0, 3}, {3, 0, 3}, {1, 1, 1}, {2, 2, 1}};
  for (u32 to = 0; to < register_count; to++) {
    for (u32 type = 0; type < 64; type++) {
      u8 access = (u8)((type & 31) | (type & 32) << 2);
      for (u32 i = 0; i < ARRAY_SIZE(privileges); i++)
        attempt(form, to, access | (u8)(privileges[i].dpl << 5), privileges[i].rpl, privileges[i].cpl);
    }
  }
}

// Encodings that name no segment register or no memory (SDM vol. 2, MOV: "attempt is made to load the CS register"; LDS: "source operand
// is not a memory location"). C4h and C5h with a register operand are VEX prefixes, undefined without CR4.OSXSAVE.
SNIPPET(mov_cs, "mov cs, eax\n" DONE);
SNIPPET(mov_cs_memory, ".byte 0x8E, 0x0B\n" DONE);
SNIPPET(mov_sreg6, ".byte 0x8E, 0xF0\n" DONE);
SNIPPET(mov_sreg7, ".byte 0x8E, 0xF8\n" DONE);
SNIPPET(mov_from6, ".byte 0x8C, 0xF0\n" DONE);
SNIPPET(mov_from7, ".byte 0x8C, 0xF8\n" DONE);
SNIPPET(lss_register, ".byte 0x0F, 0xB2, 0xC1\n" DONE);
SNIPPET(lfs_register, ".byte 0x0F, 0xB4, 0xC1\n" DONE);
SNIPPET(lgs_register, ".byte 0x0F, 0xB5, 0xC1\n" DONE);
SNIPPET(les_register, ".byte 0xC4, 0xC1, 0x78, 0x10, 0xC0\n" DONE);
SNIPPET(lds_register, ".byte 0xC5, 0xF8, 0x10, 0xC0, 0x90\n" DONE);
SNIPPET(lock_mov, ".byte 0xF0, 0x8E, 0xD8\n" DONE);
SNIPPET(lock_lss, ".byte 0xF0, 0x0F, 0xB2, 0x03\n" DONE);
SNIPPET(lock_pop, ".byte 0xF0, 0x1F\n" DONE);

// A selector in memory is 16 bits wide, whatever the operand size; the two bytes end at the segment's limit.
SNIPPET(mov_fs_memory, "mov fs, [ebx]\n" DONE);
SNIPPET(mov_fs_memory16, "data16 mov fs, [ebx]\n" DONE);
SNIPPET(mov_fs_limit, "mov fs, gs:[0xFFE]\n" DONE);
SNIPPET(mov_fs_past_limit, "mov fs, gs:[0xFFF]\n" DONE);
SNIPPET(lfs_limit, "lfs edi, gs:[0xFFA]\n" DONE);
SNIPPET(lfs_past_limit, "lfs edi, gs:[0xFFB]\n" DONE);
SNIPPET(lfs16_limit, "lfs di, gs:[0xFFC]\n" DONE);
SNIPPET(lfs16_past_limit, "lfs di, gs:[0xFFD]\n" DONE);
SNIPPET(lfs_stack_past_limit, "mov ss, edx\n lfs edi, ss:[0xFFB]\n" DONE);

static void operand_forms(void) {
  static const u8* const undefined[] = {mov_cs,       mov_cs_memory, mov_sreg6,    mov_sreg7,    mov_from6, mov_from7, lss_register,
                                        lfs_register, lgs_register,  les_register, lds_register, lock_mov,  lock_lss,  lock_pop};
  static u16 selector = user_data;
  for (u32 ring = 0; ring < 4; ring++) {
    for (u32 i = 0; i < ARRAY_SIZE(undefined); i++) {
      struct Cpu cpu = ring_cpu(ring, undefined[i]);
      cpu.ebx = (u32)&selector;
      run_cpu(&cpu);
      check_trap("undefined", v_opcode, 0, undefined[i]);
      check_unchanged("undefined", &cpu);
    }
  }

  static u8 area[4096] __attribute__((aligned(4096)));
  enum { short_data = slot + 8, short_stack = slot + 16 };
  gdt[short_data / 8] = descriptor((u32)area, 0xFFF, 0xF2, 0x4);
  gdt[short_stack / 8] = descriptor((u32)area, 0xFFF, 0xF2, 0x4);
  *(u16*)(area + 0xFFE) = user_data;
  *(u32*)(area + 0xFFA) = 0x12345678;
  static const struct {
    const char* what;
    const u8* code;
    u32 vector, edi;
  } rows[] = {
      {"mov fs, m16", mov_fs_memory, vector_done, 0},
      {"mov fs, m16 with 66h", mov_fs_memory16, vector_done, 0},
      {"up to the limit", mov_fs_limit, vector_done, 0},
      {"past the limit", mov_fs_past_limit, v_protection, 0},
      {"lfs m16:32 up to the limit", lfs_limit, vector_done, 0x12345678},
      {"lfs m16:32 past the limit", lfs_past_limit, v_protection, 0},
      {"lfs m16:16 up to the limit", lfs16_limit, vector_done, 0x1234},
      {"lfs m16:16 past the limit", lfs16_past_limit, v_protection, 0},
  };
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    struct Cpu cpu = user_cpu(rows[i].code);
    cpu.ebx = (u32)&selector;
    cpu.gs = short_data | 3;
    cpu.fs = 0;
    run_cpu(&cpu);
    if (rows[i].vector == vector_done) {
      check_done(rows[i].what);
      cpu.fs = user_data;
    } else {
      check_trap(rows[i].what, rows[i].vector, 0, rows[i].code);
    }
    cpu.edi = rows[i].edi;
    check_unchanged(rows[i].what, &cpu);
  }
  // Through SS the limit violation is #SS(0).
  struct Cpu cpu = user_cpu(lfs_stack_past_limit);
  cpu.edx = short_stack | 3;
  run_cpu(&cpu);
  check_trap("past the limit of SS", v_stack, 0, lfs_stack_past_limit + 2);
}

void guest_main(void) {
  descriptors_init();
  for (u32 to = 0; to < register_count; to++) {
    group(register_names[to]);
    every_combination(to);
  }
  group("pop");
  other_form(by_pop);
  group("far pointers");
  other_form(by_far_pointer);
  group("16-bit forms");
  other_form(by_pop16);
  other_form(by_far_pointer16);
  group("operand forms");
  operand_forms();
  finish();
}
