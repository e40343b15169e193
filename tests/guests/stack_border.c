// Stack instructions at page borders, in ring 3: the page below or above ESP is absent. A fault leaves ESP, EBP and the operands as they
// were; after mending, the instruction goes on. And the awkward forms: PUSH ESP, POP ESP, POP [ESP], PUSH [ESP], LEAVE, ENTER with levels.
//
// qemu: deviates in "absent below" (ENTER writes EBP early and does not probe the final ESP)
// qemu: deviates in "absent above" (POPA changes registers before the fault; RETF and IRET read as ring 0)
//
// expect:
//   absent below: ok
//   absent above: ok
//   mended: ok
//   across the border: ok
//   awkward forms: ok
//   nested frames: ok
//   operand faults: ok
//   stack over 0 and 4 GiB: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, border = window + 0x1000, open_page = p_present | p_write | p_user };
static struct Space space;
static u32 low_page, high_page;

#define DOWN(X)                          \
  X(push_r, "push eax", 0)               \
  X(push_imm8, "push 5", 0)              \
  X(push_imm32, "push 0x12345678", 0)    \
  X(push_m, "push dword ptr [esi]", 0)   \
  X(push_es, "push es", 0)               \
  X(push_fs, "push fs", 0)               \
  X(push_esp, "push esp", 0)             \
  X(push_16, "push ax", 0)               \
  X(pushf, "pushfd", 0)                  \
  X(pusha, "pushad", 4)                  \
  X(pusha_w, "pushaw", 4)                \
  X(call_rel, "call .+5", 0)             \
  X(call_r, "call edi", 0)               \
  X(call_m, "call [esi]", 0)             \
  X(call_far, "lcall 0x1B, 0x100000", 4) \
  X(enter_0, "enter 0, 0", 0)            \
  X(enter_64, "enter 64, 0", 32)         \
  X(enter_nested, "enter 8, 3", 8)       \
  X(push_push, "push eax\npush ebx", 4)

#define UP(X)                        \
  X(pop_r, "pop eax", 0)             \
  X(pop_m, "pop dword ptr [esi]", 0) \
  X(pop_es, "pop es", 0)             \
  X(pop_esp, "pop esp", 0)           \
  X(pop_16, "pop ax", 0)             \
  X(popf, "popfd", 0)                \
  X(popa, "popad", 16)               \
  X(popa_w, "popaw", 8)              \
  X(ret, "ret", 0)                   \
  X(ret_n, "ret 8", 0)               \
  X(retf, "retf", 4)                 \
  X(iret, "iretd", 4)                \
  X(leave, "leave", 0)               \
  X(add_esp, "add esp, 4\nsub esp, 4\nmov eax, [esp]", 0)

struct Row {
  const char* what;
  const u8* code;
  u32 room;  // bytes that still fit on the good side
};
#define X(name, text, room) SNIPPET(code_##name, text "\n" DONE);
DOWN(X)
UP(X)
#undef X
#define X(name, text, room) {#name, code_##name, room},
static const struct Row down_rows[] = {DOWN(X)};
static const struct Row up_rows[] = {UP(X)};
#undef X

static u32 operand;

static void set_pages(bool low, bool high) {
  map(&space, window, low_page | (low ? open_page : p_write | p_user));
  map(&space, border, high_page | (high ? open_page : p_write | p_user));
  use_space(&space);
}

static struct Cpu cpu_at(const u8* code, u32 esp) {
  struct Cpu cpu = user_cpu(code);
  cpu.esp = esp;
  cpu.ebp = border + 0x800;
  cpu.eax = 0xA0A0A0A0;
  cpu.ebx = 0xB0B0B0B0;
  cpu.ecx = 0xC0C0C0C0;
  cpu.edx = 0xD0D0D0D0;
  cpu.esi = (u32)&operand;
  cpu.edi = (u32)user_stack;
  return cpu;
}

static void check_kept(const char* what, const struct Cpu* before, u32 esp) {
  bool good = check("esp kept", trap.cpu.esp, esp);
  // POPA keeps what it has popped, on Intel CPUs; with the old ESP it is popped again.
  if (trap.cpu.eip == (u32)code_popa || trap.cpu.eip == (u32)code_popa_w) return;
  good &= check("ebp kept", trap.cpu.ebp, before->ebp);
  good &= check("eax kept", trap.cpu.eax, before->eax);
  good &= check("ebx kept", trap.cpu.ebx, before->ebx);
  good &= check("edi kept", trap.cpu.edi, before->edi);
  good &= check("es kept", trap.cpu.es, before->es);
  if (!good && showing_failures()) printf("       %s\n", what);
}

static void absent_below(void) {
  for (u32 i = 0; i < ARRAY_SIZE(down_rows); i++) {
    const struct Row* row = &down_rows[i];
    set_pages(false, true);
    // Frames for ENTER with levels.
    for (u32 k = 0; k < 16; k++) write32(high_page + 0x800 - 4 * k, border + 0x900 + 4 * k);
    struct Cpu cpu = cpu_at(row->code, border + row->room);
    run_cpu(&cpu);
    bool two = row->code == code_push_push;
    check(row->what, trap.vector, v_page);
    check(row->what, trap.error, 6);
    check(row->what, trap.cr2 & ~0xFFFu, window);
    check(row->what, trap.cpu.eip, (u32)row->code + two);
    check_kept(row->what, &cpu, cpu.esp - (two ? 4 : 0));
    if (!row->room) check(row->what, trap.cr2, border - (row->code == code_push_16 ? 2 : 4));
  }
}

static void absent_above(void) {
  for (u32 i = 0; i < ARRAY_SIZE(up_rows); i++) {
    const struct Row* row = &up_rows[i];
    set_pages(true, false);
    for (u32 k = 0; k < 16; k++) write32(low_page + page_bytes - 64 + 4 * k, user_data);
    struct Cpu cpu = cpu_at(row->code, border - row->room);
    if (row->code == code_leave) cpu.ebp = border;
    run_cpu(&cpu);
    check(row->what, trap.vector, v_page);
    check(row->what, trap.error, 4);
    check(row->what, trap.cr2 & ~0xFFFu, border);
    check(row->what, trap.cpu.eip, (u32)row->code + (row->code == code_add_esp ? 6 : 0));
    check_kept(row->what, &cpu, cpu.esp);
  }
}

static u32 mended;
static bool mend(struct Frame* frame) {
  (void)frame;
  mended++;
  u32 at = read_cr2();
  set_pte(&space, at, get_pte(&space, at) | p_present);
  return true;
}

SNIPPET(after_call, "mov eax, [esp]\n" DONE);

static void mended_runs(void) {
  set_hook(v_page, mend);
  set_pages(false, true);
  mended = 0;
  struct Cpu cpu = cpu_at(code_pusha, border + 12);
  run_cpu(&cpu);
  check_done("pusha");
  check("faults", mended, 1);
  check("esp", trap.cpu.esp, border - 20);
  check("eax", read32(high_page + 8), 0xA0A0A0A0);
  check("ecx", read32(high_page + 4), 0xC0C0C0C0);
  check("edx", read32(high_page), 0xD0D0D0D0);
  check("ebx", read32(low_page + 0xFFC), 0xB0B0B0B0);
  check("old esp", read32(low_page + 0xFF8), border + 12);
  check("ebp", read32(low_page + 0xFF4), border + 0x800);
  check("esi", read32(low_page + 0xFF0), (u32)&operand);
  check("edi", read32(low_page + 0xFEC), (u32)user_stack);
  set_pages(true, false);
  cpu = cpu_at(code_popa, border - 20);
  run_cpu(&cpu);
  check_done("popa");
  check("edi", trap.cpu.edi, (u32)user_stack);
  check("ebx", trap.cpu.ebx, 0xB0B0B0B0);
  check("eax", trap.cpu.eax, 0xA0A0A0A0);
  check("esp", trap.cpu.esp, border + 12);
  set_pages(false, true);
  cpu = cpu_at(code_call_m, border);
  operand = (u32)after_call;
  run_cpu(&cpu);
  check_done("call [mem]");
  check("return address", trap.cpu.eax, (u32)code_call_m + 2);
  check("esp", trap.cpu.esp, border - 4);
  set_pages(false, true);
  cpu = cpu_at(code_enter_64, border + 2);
  run_cpu(&cpu);
  check_done("enter");
  check("ebp", trap.cpu.ebp, border - 2);
  check("esp", trap.cpu.esp, border - 2 - 64);
  set_hook(v_page, NULL);
}

SNIPPET(push_many, "mov ecx, 6\n1: push ecx\nloop 1b\n" DONE);
SNIPPET(pop_many, "pop eax\npop ebx\npop ecx\npop edx\n" DONE);
SNIPPET(calls, "call 1f\nmov edx, esp\n" DONE "1: mov ecx, esp\nret\n");

static void across(void) {
  set_pages(true, true);
  for (u32 shift = 1; shift < 4; shift++) {
    struct Cpu cpu = cpu_at(push_many, border + 8 + shift);
    run_cpu(&cpu);
    check_done("push");
    u32 esp = trap.cpu.esp;
    check("esp", esp, border + 8 + shift - 24);
    cpu = cpu_at(pop_many, esp);
    run_cpu(&cpu);
    check("first", trap.cpu.eax, 1);
    check("second", trap.cpu.ebx, 2);
    check("third", trap.cpu.ecx, 3);
    check("fourth", trap.cpu.edx, 4);
    cpu = cpu_at(calls, border + shift);
    run_cpu(&cpu);
    check_done("call and ret across");
    check("esp inside", trap.cpu.ecx, border + shift - 4);
    check("esp after", trap.cpu.edx, border + shift);
    // With the lower page absent, an access that straddles faults at its own address.
    set_pages(false, true);
    cpu = cpu_at(code_push_r, border + shift);
    run_cpu(&cpu);
    check_page_fault("straddling push", 6, border + shift - 4, code_push_r);
    set_pages(true, false);
    cpu = cpu_at(code_pop_r, border - 4 + shift);
    run_cpu(&cpu);
    check_page_fault("straddling pop", 4, border, code_pop_r);
    set_pages(true, true);
  }
}

SNIPPET(f_push_esp, "push esp\npop eax\n" DONE);
SNIPPET(f_pop_esp, "push 0x40001100\npop esp\nmov eax, esp\n" DONE);
SNIPPET(f_pop_at_esp, "push 0x11\npush 0x22\npop dword ptr [esp]\nmov eax, [esp]\nmov ebx, esp\n" DONE);
SNIPPET(f_pop_at_esp4, "push 0x11\npush 0x22\npush 0x33\npop dword ptr [esp + 4]\nmov eax, [esp]\nmov ebx, [esp + 4]\n" DONE);
SNIPPET(f_push_at_esp, "push 0x11\npush 0x22\npush dword ptr [esp + 4]\npop eax\npush dword ptr [esp]\npop ebx\n" DONE);
SNIPPET(f_call_esp, "push offset 1f\ncall [esp]\nud2\n1: pop eax\npop ebx\n" DONE);
SNIPPET(f_jmp_esp, "push offset 1f\njmp [esp]\nud2\n1: pop eax\n" DONE);
SNIPPET(f_xchg_esp, "mov eax, 0x40001200\nxchg eax, esp\npush 7\nmov ebx, esp\nxchg eax, esp\nmov ecx, [ebx]\n" DONE);
SNIPPET(f_lea_esp, "lea esp, [esp + eax * 4 + 8]\nmov ebx, esp\nmov ecx, [esp + eax]\nmov edx, [esp - 4]\n" DONE);
SNIPPET(f_pop16_esp, "push 0x12345678\npop sp\nmov eax, esp\nmov esp, ebp\n" DONE);
SNIPPET(f_popa_skips_esp, "pushad\nmov dword ptr [esp + 12], 0xDEAD\npopad\nmov eax, esp\n" DONE);
SNIPPET(f_leave, "push ebp\nmov ebp, esp\nsub esp, 0x40\npush 5\nleave\nmov eax, esp\n" DONE);
SNIPPET(f_ret_n, "push 1\npush 2\npush 3\ncall 1f\nmov eax, esp\n" DONE "1: ret 12\n");
SNIPPET(f_cmov_esp, "mov ecx, esp\nmov eax, 0x40001300\ncmp eax, 1\ncmovz esp, eax\npush 11\npop edx\ncmovnz esp, eax\npush 12\nmov ebx, esp\n"
                    "mov esi, [ebx]\nmov esp, ecx\n" DONE);
SNIPPET(f_cmpxchg_esp, "mov ecx, 0x40001300\ncmpxchg esp, ecx\npush 11\npop edx\ncmpxchg esp, ecx\npush 12\nmov ebx, esp\nmov esi, [ebx]\n" DONE);
SNIPPET(f_shift_esp, "xor ecx, ecx\nshl esp, cl\npush 11\npop edx\nshr esp, 1\nshl esp, 1\npush 12\nmov ebx, esp\nmov esi, [ebx]\n" DONE);
SNIPPET(f_scaled_esp, "mov ecx, 3\nmov dword ptr [esp + ecx * 8 - 0x20], 5\nmov edx, [esp - 8]\nmov [esp + ecx * 4], edx\nmov esi, [esp + 12]\n" DONE);
SNIPPET(f_and_esp, "or esp, 3\nand esp, -16\nmov eax, esp\ninc esp\nmov ebx, esp\ndec esp\n" DONE);

static void awkward(void) {
  const u32 top = border + 0x400;
  set_pages(true, true);
#define RUN(name)            \
  do {                       \
    cpu = cpu_at(name, top); \
    cpu.eax = 1;             \
    run_cpu(&cpu);           \
    check_done(#name);       \
  } while (0)
  struct Cpu cpu;
  RUN(f_push_esp);
  check("push esp stores the old value", trap.cpu.eax, top);
  RUN(f_pop_esp);
  check("pop esp", trap.cpu.eax, 0x40001100);
  RUN(f_pop_at_esp);
  check("pop [esp]: address after the increment", trap.cpu.eax, 0x22);
  check("esp", trap.cpu.ebx, top - 4);
  RUN(f_pop_at_esp4);
  check("pop [esp + 4]", trap.cpu.eax, 0x22);
  check("written", trap.cpu.ebx, 0x33);
  RUN(f_push_at_esp);
  check("push [esp + 4]: address before the decrement", trap.cpu.eax, 0x11);
  check("push [esp]", trap.cpu.ebx, 0x22);
  RUN(f_call_esp);
  check("call [esp]: target read before the push", trap.cpu.eax, (u32)f_call_esp + 5 + 3);
  RUN(f_jmp_esp);
  check_true("jmp [esp]", trap.cpu.eax != 0);
  RUN(f_xchg_esp);
  check("xchg esp", trap.cpu.ebx, 0x400011FC);
  check("pushed", trap.cpu.ecx, 7);
  RUN(f_lea_esp);
  check("lea esp", trap.cpu.ebx, top + 12);
  RUN(f_pop16_esp);
  check("pop sp", trap.cpu.eax, ((top - 4) & 0xFFFF0000) | 0x5678);
  RUN(f_popa_skips_esp);
  check("popa skips esp", trap.cpu.eax, top);
  RUN(f_leave);
  check("leave", trap.cpu.eax, top);
  check("ebp", trap.cpu.ebp, border + 0x800);
  RUN(f_ret_n);
  check("ret n", trap.cpu.eax, top);
  RUN(f_cmov_esp);
  check("cmov esp, not taken", trap.cpu.edx, 11);
  check("cmov esp, taken", trap.cpu.ebx, 0x400012FC);
  check("pushed", trap.cpu.esi, 12);
  RUN(f_cmpxchg_esp);
  check("cmpxchg esp, different", trap.cpu.eax, top);
  check("pushed", trap.cpu.edx, 11);
  check("cmpxchg esp, equal", trap.cpu.ebx, 0x400012FC);
  check("pushed", trap.cpu.esi, 12);
  RUN(f_shift_esp);
  check("shl esp by 0", trap.cpu.edx, 11);
  check("shl esp", trap.cpu.ebx, top - 4);
  check("pushed", trap.cpu.esi, 12);
  RUN(f_scaled_esp);
  check("[esp + 8 * ecx]", trap.cpu.edx, 5);
  check("[esp + 4 * ecx]", trap.cpu.esi, 5);
  RUN(f_and_esp);
  check("and esp", trap.cpu.eax, top);
  check("inc esp", trap.cpu.ebx, top + 1);
}

SNIPPET(enter_levels,
        "enter 12, 3\nmov eax, ebp\nmov ebx, esp\nmov ecx, [ebp - 4]\nmov edx, [ebp - 8]\nmov esi, [ebp - 12]\nmov edi, [ebp]\n" DONE);
SNIPPET(enter_level_1, "enter 4, 1\nmov eax, ebp\nmov ebx, esp\nmov ecx, [ebp - 4]\n" DONE);
SNIPPET(enter_level_31, "enter 0, 0x3F\nmov eax, ebp\nmov ebx, esp\n" DONE);

static void nested_frames(void) {
  const u32 top = border + 0x400;
  set_pages(true, true);
  struct Cpu cpu = cpu_at(enter_levels, top);
  cpu.ebp = border + 0x800;
  write32(cpu.ebp - 4, 0x1111);
  write32(cpu.ebp - 8, 0x2222);
  run_cpu(&cpu);
  check_done("three levels");
  check("frame", trap.cpu.eax, top - 4);
  check("esp", trap.cpu.ebx, top - 4 - 12 - 12);
  check("first display", trap.cpu.ecx, 0x1111);
  check("second display", trap.cpu.edx, 0x2222);
  check("own frame", trap.cpu.esi, top - 4);
  check("old ebp", trap.cpu.edi, border + 0x800);
  cpu = cpu_at(enter_level_1, top);
  run_cpu(&cpu);
  check("one level", trap.cpu.eax, top - 4);
  check("esp", trap.cpu.ebx, top - 4 - 4 - 4);
  check("own frame", trap.cpu.ecx, top - 4);
  cpu = cpu_at(enter_level_31, top);  // the level is taken modulo 32
  run_cpu(&cpu);
  check("31 levels", trap.cpu.eax, top - 4);
  check("esp", trap.cpu.ebx, top - 4 - 31 * 4);
}

SNIPPET(pop_to_absent, "pop dword ptr [eax]\n" DONE);
SNIPPET(pop_relative, "pop dword ptr [esp + eax]\n" DONE);
SNIPPET(push_from_absent, "push dword ptr [eax]\n" DONE);
SNIPPET(call_from_absent, "call [eax]\n" DONE);
SNIPPET(jump_from_absent, "jmp [eax]\n" DONE);
SNIPPET(call_to_absent, "call eax\n" DONE);
SNIPPET(ret_to_absent, "push eax\nret\n" DONE);

static void operand_faults(void) {
  set_pages(true, true);
  const u32 absent = 0x60000010, top = border + 0x400;
  static const struct {
    const char* what;
    const u8* code;
    u32 error;
  } rows[] = {{"pop [absent]", pop_to_absent, 6},
              {"pop [esp + absent]", pop_relative, 6},
              {"push [absent]", push_from_absent, 4},
              {"call [absent]", call_from_absent, 4},
              {"jmp [absent]", jump_from_absent, 4}};
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    struct Cpu cpu = cpu_at(rows[i].code, top);
    cpu.eax = rows[i].code == pop_relative ? absent - top - 4 : absent;
    run_cpu(&cpu);
    check_page_fault(rows[i].what, rows[i].error, absent, rows[i].code);
    check("esp kept", trap.cpu.esp, top);
  }
  // The transfer itself succeeds; the fetch faults at the target.
  struct Cpu cpu = cpu_at(call_to_absent, top);
  cpu.eax = absent;
  run_cpu(&cpu);
  check_page_fault("call to an absent page", 4, absent, (const u8*)absent);
  check("pushed", trap.cpu.esp, top - 4);
  check("return address", read32(top - 4), (u32)call_to_absent + 2);
  cpu = cpu_at(ret_to_absent, top);
  cpu.eax = absent;
  run_cpu(&cpu);
  check_page_fault("ret to an absent page", 4, absent, (const u8*)absent);
  check("popped", trap.cpu.esp, top);
}

SNIPPET(over_zero, "push ebx\nmov ecx, [esp]\npop edx\nmov esi, esp\nleave\npush 7\nmov edi, [esp]\nmov eax, esp\n" DONE);

static void around_zero(void) {
  // ESP wraps at 4 GiB: a push at 0 goes to FFFFFFFCh, a pop at FFFFFFFCh ends at 0.
  u32 page = new_page();
  map(&space, 0xFFFFF000, page | open_page);
  use_space(&space);
  struct Cpu cpu = cpu_at(code_push_r, 0);
  run_cpu(&cpu);
  check_done("push at 0");
  check("esp", trap.cpu.esp, 0xFFFFFFFC);
  check("written", read32(page + 0xFFC), 0xA0A0A0A0);
  write32(page + 0xFFC, 99);
  cpu = cpu_at(code_pop_r, 0xFFFFFFFC);
  run_cpu(&cpu);
  check_done("pop at the end");
  check("value", trap.cpu.eax, 99);
  check("esp", trap.cpu.esp, 0);
  for (u32 again = 0; again < 5; again++) {  // the engine may have other code each time
    cpu = cpu_at(over_zero, 0);
    cpu.ebp = 0xFFFFFFFC;
    run_cpu(&cpu);
    check_done("over 4 GiB and back");
    check("at the top", trap.cpu.ecx, 0xB0B0B0B0);
    check("popped", trap.cpu.edx, 0xB0B0B0B0);
    check("esp after it", trap.cpu.esi, 0);
    check("pushed behind leave", trap.cpu.edi, 7);
    check("esp", trap.cpu.eax, 0xFFFFFFFC);
  }
}

void guest_main(void) {
  descriptors_init();
  low_page = new_page();
  (void)new_page();
  high_page = new_page();
  space = new_space(false);
  group("absent below");
  absent_below();
  group("absent above");
  absent_above();
  group("mended");
  mended_runs();
  group("across the border");
  across();
  group("awkward forms");
  awkward();
  group("nested frames");
  nested_frames();
  group("operand faults");
  operand_faults();
  group("stack over 0 and 4 GiB");
  around_zero();
}
