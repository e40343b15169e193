// Code and data in segments with base and limit run translated, and right: loops through every segment register, code whose EIP is not
// its linear address, one piece of code under several bases, string instructions between segments (SDM vol. 3, 3.2-3.4 and 5.3).
//
// emitted: 97
// qemu: deviates in "limits in turn" (no limit of CS is checked)
// qemu: deviates in "reads through cs" (execute-only code can be read)
//
// expect:
//   data loops: ok
//   code with a base: ok
//   bases in turn: ok
//   limits in turn: ok
//   reads through cs: ok
//   strings: ok
// end
#include "lib/guest.h"

enum { slot = first_free, selector = slot | 3, code_slot = first_free + 8, other_slot = first_free + 16, rounds = 20000 };
static u8 data[65536] __attribute__((aligned(4096)));

#define LOOP(name, segment)                                                                                                    \
  SNIPPET(name,                                                                                                                \
          "1: mov edx, " #segment ":[esi]\nadd eax, edx\nlea edx, [edx+ecx]\nmov " #segment ":[esi+4], edx\nmovzx ebx, byte ptr " \
          #segment ":[esi+7]\nadd eax, ebx\nxor " #segment ":[esi+4], ebx\nbts dword ptr " #segment ":[esi+8], ecx\nadc eax, 0\n"    \
          "btr dword ptr " #segment ":[esi+8], ecx\ndec ecx\njnz 1b\n" DONE)
LOOP(loop_ds, ds);
LOOP(loop_es, es);
LOOP(loop_fs, fs);
LOOP(loop_gs, gs);
LOOP(loop_ss, ss);
static const u8* const loops[] = {loop_ds, loop_es, loop_fs, loop_gs, loop_ss};

static u32 expected_sum(u32 first) {
  u32 sum = 0, next = 0;
  for (u32 c = rounds; c != 0; c--) {
    sum += first;
    next = first + c;
    u32 top = next >> 24;
    sum += top;
    next ^= top;
  }
  return sum;
}

static void use_segment(struct Cpu* cpu, u32 which) {
  u32* const where[] = {&cpu->ds, &cpu->es, &cpu->fs, &cpu->gs, &cpu->ss};
  *where[which] = selector;
}

static void data_loops(void) {
  // Expand-up with a byte limit, with a page limit, whole with a base; expand-down with either upper bound.
  static const struct {
    u32 base_offset, limit, offset;
    u8 access, flags;
  } kinds[] = {{16, 0x1FFF, 0x20, 0xF3, 4},    {32, 15, 0x3000, 0xF3, 0xC},       {64, 0xFFFFF, 0xFFFFFFF0, 0xF3, 0xC},
               {0, 0xFFF, 0x1800, 0xF7, 4},    {0, 0, 0x2000, 0xF7, 0xC},         {0x100, 0x1FFF, 0x3000, 0xF7, 0}};
  for (u32 k = 0; k < ARRAY_SIZE(kinds); k++) {
    for (u32 which = 0; which < ARRAY_SIZE(loops); which++) {
      memset(data, 0, sizeof(data));
      u32 base = (u32)data + 0x100 + kinds[k].base_offset;
      gdt[slot / 8] = descriptor(base, kinds[k].limit, kinds[k].access, kinds[k].flags);
      u32* first = (u32*)(base + kinds[k].offset);
      *first = 0xC1234567;
      struct Cpu cpu = user_cpu(loops[which]);
      use_segment(&cpu, which);
      cpu.esi = kinds[k].offset;
      cpu.ecx = rounds;
      run_cpu(&cpu);
      if (!check_done("loop") || !check("sum", trap.cpu.eax, expected_sum(0xC1234567))) printf("       kind %u, register %u\n", k, which);
    }
  }
}

// Code in `code_slot`: adds up the EIP that CALL pushes.
SNIPPET(sum_eips,
        "1: call 2f\n3: add ebx, eax\nlea edx, [eax+(4f-3b)]\njmp edx\nud2\n4: push edx\nadd dword ptr [esp], 5f-4b\njmp [esp]\nud2\n"
        "5: pop edx\nadd ebx, edx\nlea edx, [eax+(2f-3b)]\ncall edx\n6: add ebx, eax\ndec ecx\njnz 1b\n" DONE "2: mov eax, [esp]\nret\n");
SNIPPET(enter_code, "push esi\npush edi\nretf\n");

static u32 run_in(u32 code, u32 base, u32 count) {
  struct Cpu cpu = user_cpu(enter_code);
  cpu.esi = code | 3;
  cpu.edi = (u32)sum_eips - base;
  cpu.ecx = count;
  run_cpu(&cpu);
  check_done("code");
  check("cs", trap.cpu.cs, code | 3);
  check("eip", trap.cpu.eip - (cpu.edi), (u32)(sum_eips_end - sum_eips) - 4);
  return trap.cpu.ebx;
}

// What one round adds: the addresses of labels 3, 5 and 6 less the base. Their distances are taken from a flat run.
static void code_base(void) {
  gdt[code_slot / 8] = descriptor(0, 0xFFFFF, 0xFB, 0xC);
  u32 flat = run_in(code_slot, 0, 1);
  check("flat", run_in(code_slot, 0, rounds), flat * rounds);
  static const u32 bases[] = {0x1000, 0x10, 0x12345, 0xF0000000, 0xFFFFF000};
  for (u32 i = 0; i < ARRAY_SIZE(bases); i++) {
    gdt[code_slot / 8] = descriptor(bases[i], 0xFFFFF, 0xFB, 0xC);
    check("sum", run_in(code_slot, bases[i], rounds), (flat - 3 * bases[i]) * rounds);
    u32 end = (u32)sum_eips_end - bases[i] - 1;
    if (end > 0xFFFFF) continue;
    gdt[code_slot / 8] = descriptor(bases[i], end, 0xFB, 4);
    check("limited", run_in(code_slot, bases[i], rounds), (flat - 3 * bases[i]) * rounds);
  }
}

// The same linear addresses under two bases in turn: what one left in a jump table must not serve the other.
static void alternate(void) {
  gdt[code_slot / 8] = descriptor(0, 0xFFFFF, 0xFB, 0xC);
  u32 flat = run_in(code_slot, 0, 1);
  gdt[code_slot / 8] = descriptor(0x2000, 0xFFFFF, 0xFB, 0xC);
  gdt[other_slot / 8] = descriptor(0x5000, 0xFFFFF, 0xFB, 0xC);
  for (u32 i = 0; i < 50; i++) {
    check("first", run_in(code_slot, 0x2000, 200), (flat - 3 * 0x2000) * 200);
    check("second", run_in(other_slot, 0x5000, 200), (flat - 3 * 0x5000) * 200);
  }
}

// One base, two limits: only one of them lets the last instruction be fetched.
static void limits(void) {
  u32 base = (u32)sum_eips & ~0xFFFu;
  u32 last = (u32)sum_eips_end - base - 1;
  gdt[code_slot / 8] = descriptor(base, last, 0xFB, 4);
  gdt[other_slot / 8] = descriptor(base, last - 1, 0xFB, 4);
  for (u32 i = 0; i < 20; i++) {
    run_in(code_slot, base, 200);
    struct Cpu cpu = user_cpu(enter_code);
    cpu.esi = other_slot | 3;
    cpu.edi = (u32)sum_eips - base;
    cpu.ecx = 200;
    run_cpu(&cpu);
    check_trap("the return is cut off", v_protection, 0, (const u8*)last);
  }
}

SNIPPET(read_cs, "1: add eax, cs:[esi]\nadd eax, cs:[esi+ecx*4]\ndec ecx\njnz 1b\n" DONE);

static void through_cs(void) {
  u32 base = (u32)data - 0x1000;
  u32 sum = 0;
  for (u32 i = 0; i < 8192; i++) ((u32*)data)[i] = i * 0x01010101;
  memcpy(data + 0x9000, read_cs, (u32)(read_cs_end - read_cs));
  for (u32 c = 8000; c != 0; c--) sum += ((u32*)data)[0x100] + ((u32*)data)[0x100 + c];
  gdt[code_slot / 8] = descriptor(base, 0xFFFF, 0xFB, 4);
  struct Cpu cpu = user_cpu(enter_code);
  cpu.esi = code_slot | 3;
  static const u8 set_up[] = {0xBE, 0x00, 0x14, 0x00, 0x00, 0xB9, 0x40, 0x1F, 0x00, 0x00};  // mov esi, 1400h; mov ecx, 8000
  memcpy(data + 0x8FF6, set_up, sizeof(set_up));
  cpu.edi = 0x9FF6;
  run_cpu(&cpu);
  check_done("reads");
  check("sum", trap.cpu.eax, sum);
  // Execute-only: every read faults.
  gdt[code_slot / 8] = descriptor(base, 0xFFFF, 0xF9, 4);
  run_cpu(&cpu);
  check_trap("execute-only", v_protection, 0, (const u8*)0xA000);
}

SNIPPET(copies, "1: mov esi, ebx\nmov edi, edx\nmov ecx, ebp\nrep movsd\nmov ecx, 3\nrep movsb\nadd eax, edi\ndec dword ptr gs:[0]\njnz 1b\n" DONE);

static void strings(void) {
  for (u32 i = 0; i < 0x2000; i++) data[i] = (u8)(i * 7);
  gdt[slot / 8] = descriptor((u32)data + 1, 0x3FFF, 0xF3, 4);
  gdt[other_slot / 8] = descriptor((u32)data - 0x10000000, 0x1000, 0xF7, 0xC);  // expand-down: offsets from 1001000h
  static u32 counter;
  gdt[other_slot / 8 + 1] = descriptor((u32)&counter, 3, 0xF3, 4);
  counter = 200;
  struct Cpu cpu = user_cpu(copies);
  cpu.ds = selector;
  cpu.es = other_slot | 3;
  cpu.gs = (other_slot + 8) | 3;
  cpu.ebx = 2;
  cpu.edx = 0x10004001;
  cpu.ebp = 0x700;
  run_cpu(&cpu);
  check_done("copies");
  check("copied", (u32)memcmp(data + 0x4001, data + 3, 0x1C03), 0);
  check("edi", trap.cpu.eax, (0x10004001u + 0x1C03) * 200);
  check("esi", trap.cpu.esi, 2 + 0x1C03);
}

void guest_main(void) {
  descriptors_init();
  group("data loops");
  data_loops();
  group("code with a base");
  code_base();
  group("bases in turn");
  alternate();
  group("limits in turn");
  limits();
  group("reads through cs");
  through_cs();
  group("strings");
  strings();
}
