// Every CPU model of --cpu: what CPUID says, which instructions are undefined, which bits of CR4 and which model-specific registers do not
// exist (SDM vol. 2, CPUID and each instruction's opcode table; vol. 3, 2.5, 23.13 and 23.22; vol. 4). The command line names the model.
//
// qemu: deviates (this test is about --cpu)
// run: --cpu 486 --append 486
// run: --cpu pentium --append pentium
// run: --cpu pentium2 --append pentium2
// run: --cpu pentium3 --append pentium3
// run: --cpu core --append core
// run: --append core
//
// expect:
//   CPUID: ok
//   ID flag: ok
//   instructions: ok
//   undefined in ring 3 too: ok
//   control register 4: ok
//   model-specific registers: ok
//   page sizes: ok
//   FXSAVE image: ok
// end
#include "lib/guest.h"

enum Model { m486, pentium, pentium2, pentium3, core, never };
static u32 model = never;

static bool same(const char* a, const char* b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

static void find_model(void) {
  static const char* const names[] = {"486", "pentium", "pentium2", "pentium3", "core"};
  const u32* info = (const u32*)multiboot_info;
  const char* line = (const char*)info[4];
  for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
    if (info[0] & 4 && same(line, names[i])) model = i;
  }
  if (model == never) panic("the command line names no CPU model");
}

static u32 edx_flags(void) { return cpuid(1).edx; }

static void cpuid_leaves(void) {
  static const u32 signature[] = {0x435, 0x52C, 0x652, 0x68A, 0x806F8};
  static const u32 highest[] = {1, 1, 2, 2, 0x16};
  // Flags that each model has, whatever else ring3 learns to do; VME, MCE, APIC, MTRR, MCA, SEP before the P6 and so on are not there.
  static const u32 announced[] = {0x1, 0x139, 0x0183A979, 0x0383A979, 0x0781A979};
  static const u32 absent[] = {0xFFFFFFFE, 0xFFFFFEC2, 0xFE7C5682, 0xFC7C5682, 0x10005282};
  struct Cpuid zero = cpuid(0), one = cpuid(1);
  check("GenuineIntel", zero.ebx == 0x756E6547 && zero.edx == 0x49656E69 && zero.ecx == 0x6C65746E, 1);
  check("highest leaf", zero.eax, highest[model]);
  check("signature", one.eax, signature[model]);
  check("flags", one.edx & announced[model], announced[model]);
  check("flags that must not be there", one.edx & absent[model], 0);
  if (model < core) check("no flags in ecx", one.ecx, 0);
  if (model < core) check("no leaf 80000000h", cpuid(0x80000000).eax >> 31, 0);
  if (model == pentium2) check("second level cache of 512 KiB", cpuid(2).edx, 0x0C040843);
  if (model == pentium3) check("second level cache of 256 KiB", cpuid(2).edx, 0x0C040882);
  if (model == core) check("NX", cpuid(0x80000001).edx >> 20 & 1, 1);
}

// Every model has CPUID, and so the flag.
static void id_flag(void) {
  u32 before = read_flags(), changed;
  __asm__ volatile("push %1; popf; pushf; pop %0" : "=r"(changed) : "r"(before ^ (f_id | f_ac)));
  check("ID and AC toggle", changed ^ before, f_id | f_ac);
  __asm__ volatile("push %0; popf" ::"r"(before));
}

// What an instruction needs: a model at least, and for the last model a CPUID flag (leaf 1 ECX n: 32 + n; 7 EBX n: 64 + n;
// 80000001h EDX n: 96 + n).
struct Need {
  const char* name;
  u32 first, flag;
  u8 length, code[9];
};
enum { always = ~0u };
static const struct Need probes[] = {
    {"bswap", m486, always, 2, {0x0F, 0xC9}},
    {"xadd", m486, always, 3, {0x0F, 0xC1, 0xC9}},
    {"cmpxchg", m486, always, 3, {0x0F, 0xB1, 0xC9}},
    {"invlpg", m486, always, 3, {0x0F, 0x01, 0x3B}},
    {"wbinvd", m486, always, 2, {0x0F, 0x09}},
    {"cpuid", m486, always, 2, {0x0F, 0xA2}},
    {"salc", m486, always, 1, {0xD6}},
    {"fsin", m486, always, 2, {0xD9, 0xFE}},
    {"fucompp", m486, always, 2, {0xDA, 0xE9}},
    {"pause, a NOP", m486, always, 2, {0xF3, 0x90}},
    {"f3 bsf", m486, always, 4, {0xF3, 0x0F, 0xBC, 0xC9}},
    {"f3 bsr", m486, always, 4, {0xF3, 0x0F, 0xBD, 0xC9}},
    {"rdtsc", pentium, 4, 2, {0x0F, 0x31}},
    {"cmpxchg8b", pentium, 8, 3, {0x0F, 0xC7, 0x0B}},
    {"lock cmpxchg8b", pentium, 8, 4, {0xF0, 0x0F, 0xC7, 0x0B}},
    {"mov eax, cr4", pentium, always, 3, {0x0F, 0x20, 0xE0}},
    {"rdmsr", pentium, 5, 2, {0x0F, 0x32}},  // ecx = 10h
    {"cmovc eax", pentium2, 15, 3, {0x0F, 0x42, 0xC1}},
    {"cmovnle [ebx]", pentium2, 15, 3, {0x0F, 0x4F, 0x03}},
    {"cmovc ax", pentium2, 15, 4, {0x66, 0x0F, 0x42, 0xC1}},
    {"fcmovb", pentium2, 15, 2, {0xDA, 0xC1}},
    {"fcmovnu", pentium2, 15, 2, {0xDB, 0xD9}},
    {"fcomi", pentium2, 15, 2, {0xDB, 0xF1}},
    {"fucomip", pentium2, 15, 2, {0xDF, 0xE9}},
    {"multi-byte nop", pentium2, always, 3, {0x0F, 0x1F, 0x00}},
    {"hint nop", pentium2, always, 3, {0x0F, 0x19, 0xC0}},
    {"prefetchnta", pentium2, always, 3, {0x0F, 0x18, 0x03}},
    {"prefetcht2", pentium2, always, 3, {0x0F, 0x18, 0x1B}},
    {"paddb mm", pentium2, 23, 3, {0x0F, 0xFC, 0xC1}},
    {"movd mm, eax", pentium2, 23, 3, {0x0F, 0x6E, 0xC0}},
    {"movq mm, [ebx]", pentium2, 23, 3, {0x0F, 0x6F, 0x03}},
    {"psrlw mm, 1", pentium2, 23, 4, {0x0F, 0x71, 0xD0, 1}},
    {"emms", pentium2, 23, 2, {0x0F, 0x77}},
    {"fxsave", pentium2, 24, 3, {0x0F, 0xAE, 0x03}},
    {"fxrstor", pentium2, 24, 3, {0x0F, 0xAE, 0x0B}},
    {"addps", pentium3, 25, 3, {0x0F, 0x58, 0xC1}},
    {"movaps [ebx]", pentium3, 25, 3, {0x0F, 0x29, 0x03}},
    {"movups", pentium3, 25, 3, {0x0F, 0x10, 0xC1}},
    {"addss, F3", pentium3, 25, 4, {0xF3, 0x0F, 0x58, 0xC1}},
    {"cvtpi2ps", pentium3, 25, 3, {0x0F, 0x2A, 0xC1}},
    {"stmxcsr", pentium3, 25, 3, {0x0F, 0xAE, 0x1B}},
    {"sfence", pentium3, 25, 3, {0x0F, 0xAE, 0xF8}},
    {"pshufw mm", pentium3, 25, 4, {0x0F, 0x70, 0xC1, 0}},
    {"pavgb mm", pentium3, 25, 3, {0x0F, 0xE0, 0xC1}},
    {"pextrw eax, mm", pentium3, 25, 4, {0x0F, 0xC5, 0xC1, 0}},
    {"pinsrw mm, eax", pentium3, 25, 4, {0x0F, 0xC4, 0xC1, 0}},
    {"pmovmskb eax, mm", pentium3, 25, 3, {0x0F, 0xD7, 0xC1}},
    {"maskmovq", pentium3, 25, 3, {0x0F, 0xF7, 0xC1}},
    {"movntq [ebx], mm", pentium3, 25, 3, {0x0F, 0xE7, 0x03}},
    {"addpd, 66", core, 26, 4, {0x66, 0x0F, 0x58, 0xC1}},
    {"addsd, F2", core, 26, 4, {0xF2, 0x0F, 0x58, 0xC1}},
    {"paddb xmm", core, 26, 4, {0x66, 0x0F, 0xFC, 0xC1}},
    {"paddq mm", core, 26, 3, {0x0F, 0xD4, 0xC1}},
    {"pmuludq mm", core, 26, 3, {0x0F, 0xF4, 0xC1}},
    {"pextrw eax, xmm", core, 26, 5, {0x66, 0x0F, 0xC5, 0xC1, 0}},
    {"cvtpd2pi mm, [ebx]", core, 26, 4, {0x66, 0x0F, 0x2D, 0x03}},
    {"movnti", core, 26, 3, {0x0F, 0xC3, 0x03}},
    {"lfence", core, 26, 3, {0x0F, 0xAE, 0xE8}},
    {"mfence", core, 26, 3, {0x0F, 0xAE, 0xF0}},
    {"clflush", core, 19, 3, {0x0F, 0xAE, 0x3B}},
    {"prefetchw", core, always, 3, {0x0F, 0x0D, 0x0B}},
    {"haddps", core, 32 + 0, 4, {0xF2, 0x0F, 0x7C, 0xC1}},
    {"fisttp", core, 32 + 0, 2, {0xDB, 0x0B}},
    {"pabsb mm", core, 32 + 9, 4, {0x0F, 0x38, 0x1C, 0xC1}},
    {"pabsb xmm", core, 32 + 9, 5, {0x66, 0x0F, 0x38, 0x1C, 0xC1}},
    {"pmulld", core, 32 + 19, 5, {0x66, 0x0F, 0x38, 0x40, 0xC1}},
    {"pextrw [ebx], xmm", core, 32 + 19, 6, {0x66, 0x0F, 0x3A, 0x15, 0x03, 0}},
    {"pcmpgtq", core, 32 + 20, 5, {0x66, 0x0F, 0x38, 0x37, 0xC1}},
    {"crc32", core, 32 + 20, 5, {0xF2, 0x0F, 0x38, 0xF1, 0xC1}},
    {"popcnt", core, 32 + 23, 4, {0xF3, 0x0F, 0xB8, 0xC1}},
    {"movbe", core, 32 + 22, 4, {0x0F, 0x38, 0xF0, 0x03}},
    {"aesenc", core, 32 + 25, 5, {0x66, 0x0F, 0x38, 0xDC, 0xC1}},
    {"pclmulqdq", core, 32 + 1, 6, {0x66, 0x0F, 0x3A, 0x44, 0xC1, 0}},
    {"rdrand", core, 32 + 30, 3, {0x0F, 0xC7, 0xF0}},
    {"rdseed", core, 64 + 18, 3, {0x0F, 0xC7, 0xF8}},
    {"rdtscp", core, 96 + 27, 3, {0x0F, 0x01, 0xF9}},
    {"0F 0B", never, always, 2, {0x0F, 0x0B}},
    {"0F B9", never, always, 3, {0x0F, 0xB9, 0xC0}},
    {"0F FF", never, always, 3, {0x0F, 0xFF, 0xC0}},
    {"0F B8 without F3", never, always, 3, {0x0F, 0xB8, 0xC1}},
    {"syscall", never, always, 2, {0x0F, 0x05}},
    {"monitor", never, always, 3, {0x0F, 0x01, 0xC8}},
    {"mwait", never, always, 3, {0x0F, 0x01, 0xC9}},
    {"xgetbv", never, always, 3, {0x0F, 0x01, 0xD0}},
    {"loadall", never, always, 2, {0x0F, 0x07}},
};

static bool announced(u32 flag) {
  if (flag == always) return true;
  u32 word = flag < 32   ? cpuid(1).edx
             : flag < 64 ? cpuid(1).ecx
             : flag < 96 ? cpuid(0).eax >= 7 ? cpuid(7).ebx : 0
                         : cpuid(0x80000000).eax >> 31 ? cpuid(0x80000001).edx : 0;
  return word >> flag % 32 & 1;
}

static bool present(const struct Need* p) { return p->first <= model && announced(p->flag); }

static u8 operand[512] __attribute__((aligned(16)));

// Runs the probe's bytes and INT 80h behind them.
static void run_probe(const struct Need* p, bool user) {
  static u8 code[32] __attribute__((aligned(64)));
  memset(operand, 0, sizeof(operand));
  write32((u32)operand + 24, 0x1F80);  // MXCSR of an FXSAVE image
  memcpy(code, p->code, p->length);
  code[p->length] = 0xCD;
  code[p->length + 1] = 0x80;
  struct Cpu cpu = user ? user_cpu(code) : kernel_cpu(code);
  cpu.ebx = cpu.edi = (u32)operand;
  cpu.ecx = 0x10;
  __asm__ volatile("fninit");
  run_cpu(&cpu);
  if (present(p)) {
    check_done(p->name);
  } else {
    check_trap(p->name, v_opcode, 0, code);
  }
}

static void instructions(void) {
  if (edx_flags() >> 24 & 1) write_cr4(read_cr4() | cr4_osfxsr);
  for (u32 i = 0; i < ARRAY_SIZE(probes); i++) {
    const struct Need* p = &probes[i];
    if (p->first < core && model < core) check(p->name, announced(p->flag), p->flag == always || p->first <= model);
    run_probe(p, false);
  }
}

static void user_instructions(void) {
  for (u32 i = 0; i < ARRAY_SIZE(probes); i++) {
    if (!present(&probes[i])) run_probe(&probes[i], true);
  }
}

SNIPPET(load_cr4, "mov cr4, eax\n" DONE);
SNIPPET(store_cr4, "mov eax, cr4\n" DONE);
SNIPPET(do_rdmsr, "rdmsr\n" DONE);
SNIPPET(do_wrmsr, "wrmsr\n" DONE);
SNIPPET(do_rdpmc, "rdpmc\n" DONE);
SNIPPET(do_sysexit, "sysexit\n" DONE);

static void control4(void) {
  struct Cpu cpu = kernel_cpu(load_cr4);
  if (model == m486) {
    run_cpu(&cpu);
    check_trap("mov cr4, eax", v_opcode, 0, load_cr4);
    cpu = kernel_cpu(store_cr4);
    run_cpu(&cpu);
    check_trap("mov eax, cr4", v_opcode, 0, store_cr4);
    return;
  }
  // Flag of CPUID(1).EDX for each bit of CR4; PCE belongs to RDPMC, which the P6 has without a flag.
  static const u8 flag_of[32] = {1, 1, 4, 2, 3, 6, 7, 13, 0, 24, 25};
  u32 before = read_cr4();
  for (u32 bit = 0; bit < 32; bit++) {
    bool exists = bit == 8 ? model >= pentium2 : flag_of[bit] && edx_flags() >> flag_of[bit] & 1;
    cpu.eax = (before & ~(1u << bit)) | 1u << bit;
    run_cpu(&cpu);
    if (exists) {
      check_done("bit that exists");
      check("cr4", read_cr4(), cpu.eax);
    } else {
      check_trap("bit that does not exist", v_protection, 0, load_cr4);
      check("cr4", read_cr4(), before);
    }
    write_cr4(before);
  }
}

static void registers(void) {
  static const struct {
    u32 number, first;
  } known[] = {{0x10, pentium},   {0x17, pentium2}, {0x8B, pentium2}, {0x174, pentium2}, {0x175, pentium2},   {0x176, pentium2},
               {0x277, pentium2}, {0x48, core},     {0x10A, core},    {0x1A0, core},     {0xC0000080u, core}, {0x1B, never},
               {0xFE, never},     {0x179, never},   {0x480, never},   {0xC0000081u, never}};
  for (u32 i = 0; i < ARRAY_SIZE(known); i++) {
    struct Cpu cpu = kernel_cpu(do_rdmsr);
    cpu.ecx = known[i].number;
    run_cpu(&cpu);
    if (known[i].first <= model) {
      check_done("rdmsr");
    } else {
      check_trap("rdmsr", model == m486 ? v_opcode : v_protection, 0, do_rdmsr);
    }
    cpu = kernel_cpu(do_wrmsr);
    cpu.ecx = known[i].number;
    if (known[i].first <= model) continue;
    run_cpu(&cpu);
    check_trap("wrmsr", model == m486 ? v_opcode : v_protection, 0, do_wrmsr);
  }
  struct Cpu cpu = kernel_cpu(do_rdpmc);
  cpu.ecx = 0x1000;  // no counter of any part
  run_cpu(&cpu);
  check_trap("rdpmc", model < pentium2 ? v_opcode : v_protection, 0, do_rdpmc);
  cpu = kernel_cpu(do_sysexit);
  run_cpu(&cpu);
  check_trap("sysexit with IA32_SYSENTER_CS 0", model < pentium2 ? v_opcode : v_protection, 0, do_sysexit);
  if (model >= pentium) {
    // Before the Pentium 4's later models a write sets the low half and clears the high one (SDM vol. 3, 18.17.3).
    write_msr(0x10, 0x0012345600000000ull);
    u32 high = rdtsc() >> 32;
    check("high half of a written time-stamp counter", high, model == core ? 0x00123456 : 0);
  }
}

// The directory entry's PS bit means something only with PSE (SDM vol. 3, table 4-5): the same entry is a large page, or it points to a
// page table at the start of that page.
static void page_sizes(void) {
  enum { spare = 28 << 20, linear = 100 << 22 };
  u32* directory = (u32*)new_page();
  for (u32 i = 0; i < 16; i++) {
    u32* table = (u32*)new_page();
    for (u32 k = 0; k < 1024; k++) table[k] = i << 22 | k << 12 | 3;
    directory[i] = (u32)table | 3;
  }
  u32 probe = new_page();
  write32(probe, 0x11111111);
  write32(spare, probe | 3);
  directory[linear >> 22] = spare | 0x83;
  bool pse = edx_flags() >> 3 & 1;
  if (pse) write_cr4(read_cr4() | cr4_pse);
  write_cr3((u32)directory);
  write_cr0(read_cr0() | (u32)cr0_pg);
  u32 got = read32(linear);
  write_cr0(read_cr0() & ~(u32)cr0_pg);
  check("through the entry", got, pse ? probe | 3 : 0x11111111);
}

SNIPPET(do_fxsave, "fxsave [ebx]\n" DONE);
SNIPPET(do_ldmxcsr, "ldmxcsr [ebx]\n" DONE);

static void image(void) {
  if (model < pentium2) return;  // undefined: see above
  memset(operand, 0xA5, sizeof(operand));
  struct Cpu cpu = kernel_cpu(do_fxsave);
  cpu.ebx = (u32)operand;
  run_cpu(&cpu);
  check_done("fxsave");
  const u32* word = (const u32*)operand;
  check("MXCSR_MASK", word[7], model == core ? 0xFFFF : 0);
  check("XMM0", word[40], model == pentium2 ? 0xA5A5A5A5 : 0);
  check("XMM7", word[71], model == pentium2 ? 0xA5A5A5A5 : 0);
  if (model < pentium3) return;
  check("MXCSR", word[6], 0x1F80);
  cpu = kernel_cpu(do_ldmxcsr);
  cpu.ebx = (u32)operand;
  write32(cpu.ebx, 0x1FC0);  // DAZ
  run_cpu(&cpu);
  if (model == core) {
    check_done("DAZ");
    write32(cpu.ebx, 0x1F80);
    run_cpu(&cpu);
  } else {
    check_trap("DAZ", v_protection, 0, do_ldmxcsr);
  }
}

void guest_main(void) {
  find_model();
  descriptors_init();
  group("CPUID");
  cpuid_leaves();
  group("ID flag");
  id_flag();
  group("instructions");
  instructions();
  group("undefined in ring 3 too");
  user_instructions();
  group("control register 4");
  control4();
  group("model-specific registers");
  registers();
  group("page sizes");
  page_sizes();
  group("FXSAVE image");
  image();
}
