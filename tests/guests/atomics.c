// LOCKed read-modify-write forms, which instructions take LOCK (SDM vol. 2, LOCK), and that every read-modify-write of one instruction is
// whole against interrupts.
//
// qemu: deviates (takes LOCK before most instructions, and aborts at one of them)
//
// expect:
//   results: ok
//   illegal LOCK: ok
//   against interrupts: ok
//   locked across pages: ok
// end
#include "lib/guest.h"

// Memory (EBP) starts as 0xF0F0F0F0, EAX = 0x12345678, ECX = 0x0000000F, next dword 0x11111111.
#define CASES(X)                                                                                      \
  X(add, "lock add [ebp], eax", 0x03254768, 0x12345678)                                               \
  X(sub, "lock sub [ebp], eax", 0xDEBC9A78, 0x12345678)                                               \
  X(and, "lock and [ebp], eax", 0x10305070, 0x12345678)                                               \
  X(or, "lock or [ebp], eax", 0xF2F4F6F8, 0x12345678)                                                 \
  X(xor, "lock xor [ebp], eax", 0xE2C4A688, 0x12345678)                                               \
  X(adc, "stc\nlock adc dword ptr [ebp], 1", 0xF0F0F0F2, 0x12345678)                                  \
  X(sbb, "stc\nlock sbb dword ptr [ebp], 1", 0xF0F0F0EE, 0x12345678)                                  \
  X(inc, "lock inc dword ptr [ebp]", 0xF0F0F0F1, 0x12345678)                                          \
  X(dec, "lock dec dword ptr [ebp]", 0xF0F0F0EF, 0x12345678)                                          \
  X(neg, "lock neg dword ptr [ebp]", 0x0F0F0F10, 0x12345678)                                          \
  X(not, "lock not dword ptr [ebp]", 0x0F0F0F0F, 0x12345678)                                          \
  X(add8, "lock add byte ptr [ebp], 0x20", 0xF0F0F010, 0x12345678)                                    \
  X(add16, "lock add [ebp], ax", 0xF0F04768, 0x12345678)                                              \
  X(or_imm, "lock or dword ptr [ebp], 0x0F", 0xF0F0F0FF, 0x12345678)                                  \
  X(xchg, "xchg [ebp], eax", 0x12345678, 0xF0F0F0F0)                                                  \
  X(xchg_lock, "lock xchg [ebp], eax", 0x12345678, 0xF0F0F0F0)                                        \
  X(xchg8, "xchg [ebp], al", 0xF0F0F078, 0x123456F0)                                                  \
  X(xadd, "lock xadd [ebp], eax", 0x03254768, 0xF0F0F0F0)                                             \
  X(xadd8, "lock xadd [ebp], ah", 0xF0F0F046, 0x1234F078)                                             \
  X(cmpxchg_differs, "lock cmpxchg [ebp], ecx", 0xF0F0F0F0, 0xF0F0F0F0)                               \
  X(cmpxchg_equal, "mov eax, [ebp]\nlock cmpxchg [ebp], ecx", 0x0000000F, 0xF0F0F0F0)                 \
  X(cmpxchg8, "mov al, 0xF0\nlock cmpxchg [ebp], cl", 0xF0F0F00F, 0x123456F0)                         \
  X(cmpxchg16, "mov ax, 0xF0F0\nlock cmpxchg [ebp], cx", 0xF0F0000F, 0x1234F0F0)                      \
  X(bts, "lock bts dword ptr [ebp], 0", 0xF0F0F0F1, 0x12345678)                                       \
  X(btr, "lock btr dword ptr [ebp], 31", 0x70F0F0F0, 0x12345678)                                      \
  X(btc, "lock btc dword ptr [ebp], 4", 0xF0F0F0E0, 0x12345678)                                       \
  X(bts_reg, "mov ecx, 2\nlock bts [ebp], ecx", 0xF0F0F0F4, 0x12345678)                               \
  X(bts_far, "mov ebx, ebp\nadd ebx, 64\nmov ecx, -512\nlock bts [ebx], ecx", 0xF0F0F0F1, 0x12345678) \
  X(cmpxchg8b_differs, "xor edx, edx\nlock cmpxchg8b [ebp]", 0xF0F0F0F0, 0xF0F0F0F0)                  \
  X(cmpxchg8b_equal, "mov eax, 0xF0F0F0F0\nmov edx, 0x11111111\nmov ebx, 0x77\nlock cmpxchg8b [ebp]", 0x77, 0xF0F0F0F0)

#define X(name, text, memory, eax) SNIPPET(code_##name, text "\n" DONE);
CASES(X)
#undef X
static const struct {
  const char* what;
  const u8* code;
  u32 memory, eax;
} cases[] = {
#define X(name, text, memory, eax) {#name, code_##name, memory, eax},
    CASES(X)
#undef X
};

static void results(void) {
  static u32 area[32] __attribute__((aligned(64)));
  for (u32 misaligned = 0; misaligned < 8; misaligned++) {
    for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
      u32 at = (u32)area + misaligned;
      memset(area, 0, sizeof(area));
      write32(at, 0xF0F0F0F0);
      write32(at + 4, 0x11111111);
      struct Cpu cpu = i & 1 ? user_cpu(cases[i].code) : kernel_cpu(cases[i].code);
      cpu.ebp = at;
      cpu.eax = 0x12345678;
      cpu.ecx = 0xF;
      run_cpu(&cpu);
      check_done(cases[i].what);
      check(cases[i].what, read32(at), cases[i].memory);
      check(cases[i].what, trap.cpu.eax, cases[i].eax);
    }
  }
}

#define ILLEGAL(X)                                    \
  X(mov, ".byte 0xF0\nmov [esi], eax")                \
  X(mov_load, ".byte 0xF0\nmov eax, [esi]")           \
  X(add_register, ".byte 0xF0\nadd eax, ebx")         \
  X(add_load, ".byte 0xF0\nadd eax, [esi]")           \
  X(cmp, ".byte 0xF0\ncmp [esi], eax")                \
  X(test, ".byte 0xF0\ntest [esi], eax")              \
  X(bt, ".byte 0xF0\nbt dword ptr [esi], 1")          \
  X(shl, ".byte 0xF0\nshl dword ptr [esi], 1")        \
  X(push, ".byte 0xF0\npush dword ptr [esi]")         \
  X(movs, ".byte 0xF0\nmovsd")                        \
  X(nop, ".byte 0xF0\nnop")                           \
  X(inc_register, ".byte 0xF0\ninc eax")              \
  X(xchg_register, ".byte 0xF0\nxchg eax, ebx")       \
  X(lea, ".byte 0xF0\nlea eax, [esi]")                \
  X(mul, ".byte 0xF0\nmul dword ptr [esi]")           \
  X(jmp, ".byte 0xF0\njmp .+2")                       \
  X(cmpxchg_register, ".byte 0xF0\ncmpxchg eax, ebx") \
  X(bts_register, ".byte 0xF0\nbts eax, 1")           \
  X(not_register, ".byte 0xF0\nnot eax")              \
  X(movups, ".byte 0xF0\nmovups [esi], xmm0")         \
  X(fst, ".byte 0xF0\nfst dword ptr [esi]")
#define X(name, text) SNIPPET(bad_##name, text "\n" DONE);
ILLEGAL(X)
#undef X

static void illegal(void) {
  static const struct {
    const char* what;
    const u8* code;
  } rows[] = {
#define X(name, text) {#name, bad_##name},
      ILLEGAL(X)
#undef X
  };
  static u32 area[4];
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    struct Cpu cpu = user_cpu(rows[i].code);
    cpu.esi = (u32)area;
    cpu.edi = (u32)area;
    cpu.eax = 7;
    run_cpu(&cpu);
    check_trap(rows[i].what, v_opcode, 0, rows[i].code);
    check("memory kept", area[0], 0);
    check("eax kept", trap.cpu.eax, 7);
  }
}

static volatile u32 shared[4];
static volatile u32 ticks;
static bool on_timer(struct Frame* frame) {
  (void)frame;
  ticks++;
  shared[0] += 1000;
  shared[1] += 1000;
  shared[2] += 1000;
  pic_eoi(0);
  return true;
}

SNIPPET(increments, "1: inc dword ptr [ebx]\nadd dword ptr [ebx + 4], 1\nlock xadd [ebx + 8], edx\nmov edx, 1\ndec ecx\njnz 1b\n" DONE);

static void against_interrupts(void) {
  pic_init();
  pic_unmask(0);
  set_hook(irq_base, on_timer);
  pit_periodic(300);
  u32 turns = 0;
  do {
    for (u32 ring0 = 0; ring0 < 2; ring0++) {
      struct Cpu cpu = ring0 ? kernel_cpu(increments) : user_cpu(increments);
      cpu.eflags |= f_if;
      cpu.ebx = (u32)shared;
      cpu.ecx = 100000;
      cpu.edx = 1;
      run_cpu(&cpu);
      check_done("increments");
      turns += 100000;
    }
  } while (ticks < 20);
  pic_mask(0);
  check("inc", shared[0], turns + ticks * 1000);
  check("add", shared[1], turns + ticks * 1000);
  check("lock xadd", shared[2], turns + ticks * 1000);
}

static void across_pages(void) {
  enum { window = 0x40000000 };
  struct Space space = new_space(false);
  u32 a = new_page(), gap = new_page(), b = new_page();
  (void)gap;
  map(&space, window, a | p_present | p_write | p_user);
  map(&space, window + 0x1000, b | p_present | p_write | p_user);
  use_space(&space);
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
    if (cases[i].code == code_bts_far) continue;  // its operand lies 64 bytes on
    for (u32 before = 1; before < 8; before++) {
      u32 at = window + 0x1000 - before;
      write32(at, 0xF0F0F0F0);
      write32(at + 4, 0x11111111);
      struct Cpu cpu = user_cpu(cases[i].code);
      cpu.ebp = at;
      cpu.eax = 0x12345678;
      cpu.ecx = 0xF;
      run_cpu(&cpu);
      check_done(cases[i].what);
      check(cases[i].what, read32(at), cases[i].memory);
      check(cases[i].what, trap.cpu.eax, cases[i].eax);
    }
  }
}

void guest_main(void) {
  descriptors_init();
  write_cr4(read_cr4() | cr4_osfxsr);
  group("results");
  results();
  group("illegal LOCK");
  illegal();
  group("against interrupts");
  against_interrupts();
  group("locked across pages");
  across_pages();
}
