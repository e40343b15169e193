// Data breakpoints (SDM vol. 3, 17.2.4, 17.2.5 and 17.3.1.2): write and read-or-write, the lengths with their alignment mask, every kind of
// instruction that accesses memory; the trap comes after the instruction, or after the iteration of a repeated string instruction, with RF
// as 17.3.1.1 says.
//
// qemu: deviates in "lengths and alignment" (an access is reported if it lies near the watched bytes)
// qemu: deviates in "instructions" (none for FRSTOR and FXRSTOR)
// qemu: deviates in "strings" (RF is never pushed, the last element counts as one in the middle)
// qemu: deviates in "two breakpoints" (one at a time)
// qemu: deviates in "no breakpoint" (a trap although the instruction faults)
// qemu: deviates in "MOV SS" (it holds nothing back)
//
// expect:
//   lengths and alignment: ok
//   instructions: ok
//   system instructions: ok
//   strings: ok
//   two breakpoints: ok
//   no breakpoint: ok
//   switched on and off: ok
//   MOV SS: ok
// end
#include "lib/debug.h"

enum { data_bytes = 4096 };
static u8 data[2 * data_bytes] __attribute__((aligned(4096)));
static u32 round_number;

// Runs `code` in ring 3 (or ring 0) with esi = data + 64, edi = data + 128, ebx = 0, one breakpoint at data + `at`.
static struct Cpu run_with(const u8* code, bool ring0, u32 at, u32 on, u32 length) {
  struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
  cpu.esi = (u32)data + 64;
  cpu.edi = (u32)data + 128;
  cpu.eax = 0x11223344;
  cpu.ecx = 3;
  cpu.edx = (u32)data;
  start_log();
  no_breakpoints();
  breakpoint(round_number & 3, (u32)data + at, on, length);
  run_cpu(&cpu);
  no_breakpoints();
  return cpu;
}

// One access with the breakpoint once a write and once an access breakpoint; `reads` and `writes` say what the instruction does to the
// watched bytes.
static void expect_access(const char* what, const u8* code, const u8* after, bool ring0, u32 at, u32 length, bool reads, bool writes) {
  for (u32 on = on_write; on <= on_access; on += on_access - on_write) {
    bool hit = writes || (reads && on == on_access);
    run_with(code, ring0, at, on, length);
    check_done(what);
    check_events(what, hit);
    if (hit) check_event(what, 0, after, 1u << (round_number & 3), 0);
    round_number++;
  }
}

SNIPPET(store8, "mov [edx], al\n" LABEL(store8_after) "nop\n" DONE);
SNIPPET(store16, "mov [edx], ax\n" LABEL(store16_after) "nop\n" DONE);
SNIPPET(store32, "mov [edx], eax\n" LABEL(store32_after) "nop\n" DONE);
SNIPPET(load8, "mov cl, [edx]\n" LABEL(load8_after) "nop\n" DONE);
SNIPPET(load16, "mov cx, [edx]\n" LABEL(load16_after) "nop\n" DONE);
SNIPPET(load32, "mov ecx, [edx]\n" LABEL(load32_after) "nop\n" DONE);
extern const u8 store8_after[], store16_after[], store32_after[], load8_after[], load16_after[], load32_after[];

static void lengths(void) {
  static const struct {
    const u8 *store, *store_after, *load, *load_after;
    u32 size;
  } sizes[] = {{store8, store8_after, load8, load8_after, 1},
               {store16, store16_after, load16, load16_after, 2},
               {store32, store32_after, load32, load32_after, 4}};
  static const struct {
    u32 code, bytes;
  } kinds[] = {{length_1, 1}, {length_2, 2}, {length_4, 4}};
  for (u32 k = 0; k < ARRAY_SIZE(kinds); k++)
    for (u32 offset = 0; offset < 4; offset++)  // the breakpoint's address need not be aligned: low bits are ignored
      for (u32 s = 0; s < ARRAY_SIZE(sizes); s++)
        for (i32 from = -5; from <= 8; from++) {
          u32 at = 512 + offset;
          i32 first = (i32)(offset & ~(kinds[k].bytes - 1)), last = first + (i32)kinds[k].bytes;
          bool overlaps = from < last && from + (i32)sizes[s].size > first;
          for (u32 kind = 0; kind < 4; kind++) {
            bool writes = kind & 1;
            u32 condition = kind & 2 ? on_access : on_write;
            const u8* code = writes ? sizes[s].store : sizes[s].load;
            struct Cpu cpu = user_cpu(code);
            cpu.edx = (u32)data + 512 + (u32)from;
            start_log();
            no_breakpoints();
            u32 n = round_number++ & 3;
            breakpoint(n, (u32)data + at, condition, kinds[k].code);
            run_cpu(&cpu);
            no_breakpoints();
            bool hit = overlaps && (writes || condition == on_access);
            check_done("access");
            check("hits", event_count, hit);
            if (hit) check_event("trap", 0, writes ? sizes[s].store_after : sizes[s].load_after, 1u << n, 0);
          }
        }
  // Across a page border, with the breakpoint on either side.
  for (u32 side = 0; side < 2; side++) {
    struct Cpu cpu = user_cpu(store32);
    cpu.edx = (u32)data + data_bytes - 2;
    start_log();
    breakpoint(0, (u32)data + data_bytes - 1 + side, on_write, length_1);
    run_cpu(&cpu);
    no_breakpoints();
    check_events("across pages", 1);
    check_event("across pages", 0, store32_after, 1, 0);
  }
}

// name, offset of the breakpoint from data, its length, reads, writes, instruction. esi = data + 64, edi = data + 128.
#define CASES(X)                                                                                              \
  X(add_m, 64, length_4, 1, 1, "add [esi], eax")                                                              \
  X(add_r, 64, length_4, 1, 0, "add eax, [esi]")                                                              \
  X(cmp_m, 64, length_1, 1, 0, "cmp [esi], eax")                                                              \
  X(test_m, 67, length_1, 1, 0, "test [esi], eax")                                                            \
  X(inc_m, 66, length_2, 1, 1, "inc dword ptr [esi]")                                                         \
  X(not_m, 64, length_1, 1, 1, "not byte ptr [esi]")                                                          \
  X(shl_m, 64, length_4, 1, 1, "shl dword ptr [esi], 3")                                                      \
  X(shld_m, 64, length_4, 1, 1, "shld [esi], eax, 3")                                                         \
  X(xchg_m, 64, length_4, 1, 1, "xchg [esi], eax")                                                            \
  X(xadd_m, 64, length_4, 1, 1, "lock xadd [esi], eax")                                                       \
  X(cmpxchg_m, 64, length_4, 1, 1, "lock cmpxchg [esi], ecx")                                                 \
  X(cmpxchg8b_m, 68, length_4, 1, 1, "cmpxchg8b [esi]")                                                       \
  X(bts_m, 64, length_4, 1, 1, "bts dword ptr [esi], 5")                                                      \
  X(bt_far, 72, length_4, 1, 0, "mov ecx, 64\nbt [esi], ecx")                                                 \
  X(btr_far, 60, length_4, 1, 1, "mov ecx, -32\nbtr [esi], ecx")                                              \
  X(setz_m, 64, length_1, 0, 1, "setz byte ptr [esi]")                                                        \
  X(cmov_m, 64, length_4, 1, 0, "cmovz eax, [esi]")                                                           \
  X(movzx_m, 64, length_1, 1, 0, "movzx eax, byte ptr [esi]")                                                 \
  X(movsx_m, 65, length_1, 1, 0, "movsx eax, word ptr [esi]")                                                 \
  X(mov_imm, 64, length_1, 0, 1, "mov dword ptr [esi], 7")                                                    \
  X(mov_moffs_r, 96, length_4, 1, 0, "mov eax, ds:[data + 96]")                                               \
  X(mov_moffs_w, 96, length_4, 0, 1, "mov ds:[data + 96], eax")                                               \
  X(mov_sreg_m, 64, length_2, 0, 1, "mov [esi], ds")                                                          \
  X(mul_m, 64, length_4, 1, 0, "mul dword ptr [esi]")                                                         \
  X(imul_m, 64, length_4, 1, 0, "imul eax, [esi], 5")                                                         \
  X(push_r, 60, length_4, 0, 1, "mov esp, esi\npush eax")                                                     \
  X(push_m, 64, length_4, 1, 0, "push dword ptr [esi]")                                                       \
  X(push_16, 62, length_2, 0, 1, "mov esp, esi\npush ax")                                                     \
  X(push_sreg, 60, length_1, 0, 1, "mov esp, esi\npush ds")                                                   \
  X(pop_r, 64, length_4, 1, 0, "mov esp, esi\npop eax")                                                       \
  X(pop_m_from, 64, length_4, 1, 0, "mov esp, esi\npop dword ptr [edi]")                                      \
  X(pop_m_to, 128, length_4, 0, 1, "mov esp, esi\npop dword ptr [edi]")                                       \
  X(pusha_, 36, length_4, 0, 1, "mov esp, esi\npushad")                                                       \
  X(popa_, 92, length_4, 1, 0, "mov eax, edx\nmov esp, esi\npopad\n")                                         \
  X(pushf_, 60, length_4, 0, 1, "mov esp, esi\npushfd")                                                       \
  X(popf_, 64, length_4, 1, 0, "mov dword ptr [esi], 2\nmov esp, esi\npopfd")                                 \
  X(enter_, 60, length_4, 0, 1, "mov esp, esi\nenter 8, 0")                                                   \
  X(enter_nested, 124, length_4, 1, 0, "mov esp, esi\nmov ebp, edi\nenter 8, 2")                              \
  X(leave_, 64, length_4, 1, 0, "mov ebp, esi\nleave")                                                        \
  X(call_, 60, length_4, 0, 1, "mov esp, esi\ncall 1f\n1:")                                                   \
  X(call_m, 64, length_4, 1, 0, "mov dword ptr [esi], offset 1f\ncall [esi]\n1:")                             \
  X(jmp_m, 64, length_4, 1, 0, "mov dword ptr [esi], offset 1f\njmp [esi]\n1:")                               \
  X(ret_, 64, length_4, 1, 0, "mov dword ptr [esi], offset 1f\nmov esp, esi\nret\n1:")                        \
  X(xlat_, 64, length_1, 1, 0, "mov ebx, esi\nmov al, 0\nxlat")                                               \
  X(bound_low, 64, length_4, 1, 0, "mov dword ptr [esi], 0\nmov dword ptr [esi + 4], -2\nmov ecx, 0\n"        \
                                   "neg dword ptr [esi + 4]\nbound ecx, [esi]")                               \
  X(bound_high, 68, length_4, 1, 0, "mov dword ptr [esi], 0\nmov dword ptr [esi + 4], 2\nmov ecx, 0\n"        \
                                    "bound ecx, [esi]")                                                       \
  X(les_, 68, length_2, 1, 0, "mov dword ptr [esi], 1\nmov word ptr [esi + 4], 0x23\nles eax, [esi]")         \
  X(sgdt_, 66, length_4, 0, 1, "sgdt [esi]")                                                                  \
  X(str_m, 64, length_2, 0, 1, "str [esi]")                                                                   \
  X(smsw_m, 64, length_2, 0, 1, "smsw [esi]")                                                                 \
  X(verr_m, 64, length_2, 1, 0, "verr word ptr [esi]")                                                        \
  X(movs_from, 64, length_4, 1, 0, "movsd")                                                                   \
  X(movs_to, 128, length_4, 0, 1, "movsd")                                                                    \
  X(stos_, 128, length_1, 0, 1, "stosb")                                                                      \
  X(lods_, 64, length_2, 1, 0, "lodsw")                                                                       \
  X(scas_, 128, length_4, 1, 0, "scasd")                                                                      \
  X(cmps_left, 64, length_4, 1, 0, "cmpsd")                                                                   \
  X(cmps_right, 128, length_4, 1, 0, "cmpsd")                                                                 \
  X(fld_m64, 68, length_4, 1, 0, "fninit\nfld qword ptr [esi]")                                               \
  X(fstp_m80, 72, length_2, 0, 1, "fninit\nfldpi\nfstp tbyte ptr [esi]")                                      \
  X(fist_m, 64, length_4, 0, 1, "fninit\nfld1\nfistp dword ptr [esi]")                                        \
  X(fstcw_m, 64, length_2, 0, 1, "fnstcw [esi]")                                                              \
  X(fldcw_m, 64, length_2, 1, 0, "fnstcw [esi]\nfldcw [esi]")                                                 \
  X(fstenv_m, 88, length_4, 0, 1, "fnstenv [esi]")                                                            \
  X(fsave_m, 168, length_4, 0, 1, "fnsave [esi]")                                                             \
  X(frstor_m, 80, length_4, 1, 0, "frstor [edx + 1024]\nfrstor [esi]")                                        \
  X(fxsave_m, 128, length_4, 0, 1, "fxsave [esi]")                                                            \
  X(fxrstor_m, 1100, length_4, 1, 0, "fxrstor [edx + 1024]")                                                  \
  X(movq_w, 68, length_4, 0, 1, "movq [esi], mm0\nemms\nnop")                                                 \
  X(movups_w, 76, length_4, 0, 1, "movups [esi], xmm0")                                                       \
  X(movaps_r, 76, length_1, 1, 0, "movaps xmm0, [esi]")                                                       \
  X(addps_r, 64, length_4, 1, 0, "addps xmm1, [esi]")                                                         \
  X(movnti_w, 64, length_4, 0, 1, "movnti [esi], eax")                                                        \
  X(stmxcsr_w, 64, length_4, 0, 1, "stmxcsr [esi]")                                                           \
  X(maskmov_w, 130, length_1, 0, 1, "pcmpeqb xmm0, xmm0\nmaskmovdqu xmm1, xmm0")
#define X(name, at, length, reads, writes, text) SNIPPET(i_##name, text "\n" LABEL(i_##name##_after) "nop\nnop\n" DONE);
CASES(X)
#undef X
#define X(name, at, length, reads, writes, text) extern const u8 i_##name##_after[];
CASES(X)
#undef X
static const struct Case {
  const char* what;
  const u8 *code, *after;
  u32 at, length;
  bool reads, writes;
} cases[] = {
#define X(name, at, length, reads, writes, text) {#name, i_##name, i_##name##_after, at, length, reads, writes},
    CASES(X)
#undef X
};

// "mov esp, esi" or "mov esp, edi", or LEAVE's "mov ebp, esi", among its first instructions.
static bool moves_stack(const u8* code) {
  for (const u8* p = code; p < code + 32 && p[0] != 0xCD; p++)
    if (p[0] == 0x89 && (p[1] == 0xF4 || p[1] == 0xFC || p[1] == 0xF5)) return true;
  return false;
}

// The set-up code of some cases touches the watched bytes too: the last trap is the one that counts.
static void instructions(void) {
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
    const struct Case* c = &cases[i];
    for (u32 ring0 = 0; ring0 < 2; ring0++) {
      // In ring 0 the trap's own frame would lie on the watched stack.
      if (ring0 && moves_stack(c->code)) continue;
      memset(data, 0, sizeof(data));
      // Images that FRSTOR and FXRSTOR accept.
      __asm__ volatile("fninit\nfnsave (%0)" ::"r"(data + 64));
      __asm__ volatile("fxsave (%0)" ::"r"(data + 1024));
      if (c->code == i_frstor_m) __asm__ volatile("fnsave (%0)" ::"r"(data + 1024));
      for (u32 on = on_write; on <= on_access; on += on_access - on_write) {
        u32 n = round_number & 3;
        run_with(c->code, ring0, c->at, on, c->length);
        round_number++;
        check_done(c->what);
        bool hit = c->writes || (c->reads && on == on_access);
        bool any = event_count > 0 && events[event_count - 1].eip == (u32)c->after;
        if (c->code == i_movq_w) any = event_count > 0 && events[event_count - 1].eip == (u32)i_movq_w + 3;
        if (!check(c->what, any, hit) && showing_failures())
          printf("       %s, %s\n", on == on_write ? "write" : "access", ring0 ? "ring 0" : "ring 3");
        if (!any) continue;
        check("one breakpoint", events[event_count - 1].dr6, 1u << n);
        check("RF", events[event_count - 1].eflags & f_rf, 0);
      }
    }
  }
}

SNIPPET(do_lgdt, "lgdt [esi]\n" LABEL(do_lgdt_after) "nop\n" DONE);
SNIPPET(do_lidt, "lidt [esi]\n" LABEL(do_lidt_after) "nop\n" DONE);
SNIPPET(do_lmsw, "lmsw [esi]\n" LABEL(do_lmsw_after) "nop\n" DONE);
SNIPPET(do_iret, "mov esp, esi\niretd\n" LABEL(do_iret_after) "nop\n" DONE);
SNIPPET(do_lret, "mov esp, esi\nretf\n" LABEL(do_lret_after) "nop\n" DONE);
SNIPPET(do_lcall, "mov esp, edi\ncall fword ptr [esi]\n" LABEL(do_lcall_after) "nop\n" DONE);
extern const u8 do_lgdt_after[], do_lidt_after[], do_lmsw_after[], do_iret_after[], do_lret_after[], do_lcall_after[];

static void system_instructions(void) {
  memset(data, 0, sizeof(data));
  struct TableRegister table = {sizeof(gdt) - 1, (u32)gdt};
  memcpy(data + 64, &table, sizeof(table));
  expect_access("lgdt limit", do_lgdt, do_lgdt_after, true, 64, length_2, true, false);
  expect_access("lgdt base", do_lgdt, do_lgdt_after, true, 68, length_2, true, false);
  table = (struct TableRegister){sizeof(idt) - 1, (u32)idt};
  memcpy(data + 64, &table, sizeof(table));
  expect_access("lidt", do_lidt, do_lidt_after, true, 66, length_2, true, false);
  u32 msw = read_cr0();
  memcpy(data + 64, &msw, 4);
  expect_access("lmsw", do_lmsw, do_lmsw_after, true, 64, length_2, true, false);
  u32 frame[] = {(u32)do_iret_after, user_code, f_fixed};
  memcpy(data + 64, frame, sizeof(frame));
  for (u32 i = 0; i < 3; i++) expect_access("iret", do_iret, do_iret_after, false, 64 + 4 * i, length_4, true, false);
  frame[0] = (u32)do_lret_after;
  memcpy(data + 64, frame, sizeof(frame));
  for (u32 i = 0; i < 2; i++) expect_access("far ret", do_lret, do_lret_after, false, 64 + 4 * i, length_4, true, false);
  frame[0] = (u32)do_lcall_after;
  memcpy(data + 64, frame, sizeof(frame));
  expect_access("far call, its operand", do_lcall, do_lcall_after, false, 68, length_2, true, false);
  expect_access("far call, its stack", do_lcall, do_lcall_after, false, 120, length_4, false, true);
}

// A repeated instruction: the elements (counted from 0) that meet the breakpoint; the trap comes after each, with ECX counted down, EIP on
// the instruction and RF set, except after the last element.
SNIPPET(rep_stosb, "rep stosb\n" LABEL(rep_stosb_after) "nop\n" DONE);
SNIPPET(rep_stosd, "rep stosd\n" LABEL(rep_stosd_after) "nop\n" DONE);
SNIPPET(rep_movsb, "rep movsb\n" LABEL(rep_movsb_after) "nop\n" DONE);
SNIPPET(rep_movsd, "rep movsd\n" LABEL(rep_movsd_after) "nop\n" DONE);
SNIPPET(rep_lodsb, "rep lodsb\n" LABEL(rep_lodsb_after) "nop\n" DONE);
SNIPPET(repne_scasb, "repne scasb\n" LABEL(repne_scasb_after) "nop\n" DONE);
SNIPPET(repe_cmpsb, "repe cmpsb\n" LABEL(repe_cmpsb_after) "nop\n" DONE);
extern const u8 rep_stosb_after[], rep_stosd_after[], rep_movsb_after[], rep_movsd_after[], rep_lodsb_after[], repne_scasb_after[],
    repe_cmpsb_after[];

static void expect_repeat(const char* what, const u8* code, const u8* after, u32 count, u32 at, u32 length, u32 on, u32 first, u32 hits,
                          bool backward) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = ring0 ? kernel_cpu(code) : user_cpu(code);
    cpu.esi = (u32)data + 64;
    cpu.edi = (u32)data + 1024;
    cpu.ecx = count;
    cpu.eax = 0x5A;
    if (backward) cpu.eflags |= f_df;
    start_log();
    u32 n = round_number++ & 3;
    breakpoint(n, (u32)data + at, on, length);
    run_cpu(&cpu);
    no_breakpoints();
    check_done(what);
    check("ecx at the end", trap.cpu.ecx, 0);
    check_events(what, hits);
    for (u32 i = 0; i < hits; i++) {
      bool last = first + i == count - 1;
      check_event(what, i, last ? after : code, 1u << n, last ? 0 : f_rf);
      check("ecx", events[i].ecx, count - first - i - 1);
    }
  }
}

static void strings(void) {
  memset(data, 0, sizeof(data));
  expect_repeat("stosb", rep_stosb, rep_stosb_after, 100, 1024 + 50, length_1, on_write, 50, 1, false);
  expect_repeat("stosb, two bytes", rep_stosb, rep_stosb_after, 100, 1024 + 50, length_2, on_write, 50, 2, false);
  expect_repeat("stosb, first", rep_stosb, rep_stosb_after, 100, 1024, length_1, on_access, 0, 1, false);
  expect_repeat("stosb, last", rep_stosb, rep_stosb_after, 100, 1024 + 99, length_1, on_access, 99, 1, false);
  expect_repeat("stosb, beyond", rep_stosb, rep_stosb_after, 100, 1024 + 100, length_1, on_access, 0, 0, false);
  expect_repeat("stosb, four at the end", rep_stosb, rep_stosb_after, 100, 1024 + 96, length_4, on_write, 96, 4, false);
  expect_repeat("stosd", rep_stosd, rep_stosd_after, 100, 1024 + 203, length_1, on_write, 50, 1, false);
  expect_repeat("stosb, backward", rep_stosb, rep_stosb_after, 100, 1024 - 50, length_1, on_write, 50, 1, true);
  expect_repeat("movsb, source", rep_movsb, rep_movsb_after, 100, 64 + 7, length_1, on_access, 7, 1, false);
  expect_repeat("movsb, source not written", rep_movsb, rep_movsb_after, 100, 64 + 7, length_1, on_write, 7, 0, false);
  expect_repeat("movsb, destination", rep_movsb, rep_movsb_after, 100, 1024 + 8, length_4, on_write, 8, 4, false);
  expect_repeat("movsd, both pages", rep_movsd, rep_movsd_after, 1000, data_bytes, length_4, on_write, 768, 1, false);
  expect_repeat("lodsb", rep_lodsb, rep_lodsb_after, 20, 64 + 10, length_1, on_access, 10, 1, false);
  memset(data, 0, sizeof(data));
  expect_repeat("scasb", repne_scasb, repne_scasb_after, 20, 1024 + 10, length_1, on_access, 10, 1, false);
  expect_repeat("cmpsb", repe_cmpsb, repe_cmpsb_after, 20, 64 + 10, length_1, on_access, 10, 1, false);
  expect_repeat("cmpsb, last", repe_cmpsb, repe_cmpsb_after, 20, 1024 + 19, length_1, on_access, 19, 1, false);
  for (u32 i = 0; i < 100; i++) data[64 + i] = (u8)i;
  expect_repeat("copied all the same", rep_movsb, rep_movsb_after, 100, 1024 + 8, length_4, on_write, 8, 4, false);
  for (u32 i = 0; i < 100; i++) check("copy", data[1024 + i], i);
}

static void two_breakpoints(void) {
  start_log();
  breakpoint(1, (u32)data + 64, on_access, length_4);
  breakpoint(3, (u32)data + 128, on_write, length_4);
  struct Cpu cpu = user_cpu(i_movs_from);
  cpu.esi = (u32)data + 64;
  cpu.edi = (u32)data + 128;
  run_cpu(&cpu);
  check_events("one trap for both", 1);
  check_event("both bits", 0, i_movs_from_after, 1 << 1 | 1 << 3, 0);
  // The same bytes, four times.
  for (u32 n = 0; n < 4; n++) breakpoint(n, (u32)data + 64 + n, n & 1 ? on_write : on_access, length_1);
  start_log();
  cpu = user_cpu(i_add_m);
  cpu.esi = (u32)data + 64;
  run_cpu(&cpu);
  check_event("all four", 0, i_add_m_after, 0xF, 0);
  start_log();
  cpu.eip = (u32)i_add_r;
  run_cpu(&cpu);
  check_event("the two that watch reads", 0, i_add_r_after, 5, 0);
  check_events("once", 1);
  no_breakpoints();
  // With a single step on the same instruction.
  breakpoint(2, (u32)data + 64, on_access, length_4);
  start_log();
  hook_clears = f_tf;
  cpu.eflags |= f_tf;
  run_cpu(&cpu);
  hook_clears = 0;
  check_events("one trap with the single step", 1);
  check_event("BS and B2", 0, i_add_r_after, dr6_bs | 4, 0);
  no_breakpoints();
}

SNIPPET(fetched, "nop\nnop\nnop\n" DONE);
SNIPPET(lea_only, "lea eax, [esi]\nprefetcht0 [esi]\nnop dword ptr [esi]\n" DONE);
SNIPPET(faults_on_write, "movsd\n" DONE);
SNIPPET(zero_count, "xor ecx, ecx\nrep movsd\n" DONE);

static void no_breakpoint(void) {
  struct Cpu cpu = user_cpu(fetched);
  start_log();
  breakpoint(0, (u32)fetched + 1, on_access, length_1);
  run_cpu(&cpu);
  check_done("fetched");
  check_events("fetching code is no access", 0);
  no_breakpoints();
  run_with(lea_only, false, 64, on_access, length_4);
  check_done("lea");
  check_events("addresses are no accesses", 0);
  run_with(zero_count, false, 64, on_access, length_4);
  check_events("no element, no access", 0);
  // Enabled by neither L nor G.
  set_breakpoint_address(0, (u32)data + 64);
  write_dr7(dr7_fixed | 0x000F0000 | 0x300);
  start_log();
  cpu = user_cpu(i_add_m);
  cpu.esi = (u32)data + 64;
  run_cpu(&cpu);
  check_events("neither L0 nor G0", 0);
  // An instruction that faults is not finished: #PF, and no trap.
  struct Space space = new_space(false);
  use_space(&space);
  map(&space, 0x40000000, (u32)data | p_present | p_user);
  cpu = user_cpu(faults_on_write);
  cpu.esi = (u32)data + 64;
  cpu.edi = 0x40000080;
  start_log();
  breakpoint(0, (u32)data + 64, on_access, length_4);
  run_cpu(&cpu);
  check_page_fault("the fault", 7, 0x40000080, faults_on_write);
  check_events("no trap", 0);
  // Linear addresses count: another address of the same memory is another thing.
  map(&space, 0x40000000, (u32)data | p_present | p_write | p_user);
  invlpg(0x40000000);
  start_log();
  cpu = user_cpu(i_add_m);
  cpu.esi = 0x40000000 + 64;
  run_cpu(&cpu);
  check_done("through an alias");
  check_events("an alias", 0);
  breakpoint(1, 0x40000000 + 64, on_write, length_1);
  run_cpu(&cpu);
  check_events("the alias itself", 1);
  check_event("the alias itself", 0, i_add_m_after, 2, 0);
  no_breakpoints();
  paging_off();
}

SNIPPET(hot, "1: add [esi], eax\nadd dword ptr [edi], 1\ndec ecx\njnz 1b\n" "nop\n" DONE);

// Code that has run often meets a breakpoint that is set later, and is rid of it when it is taken back.
static void on_and_off(void) {
  for (u32 round = 0; round < 6; round++) {
    bool armed = round & 1;
    struct Cpu cpu = round & 2 ? kernel_cpu(hot) : user_cpu(hot);
    cpu.esi = (u32)data + 64;
    cpu.edi = (u32)data + 128;
    cpu.ecx = armed ? 10 : 500;
    start_log();
    if (armed) breakpoint(round & 3, (u32)data + 128, on_write, length_4);
    run_cpu(&cpu);
    no_breakpoints();
    check_done("loop");
    check_events("hits", armed ? 10 : 0);
    for (u32 i = 0; armed && i < 10; i++) {
      check_event("each", i, hot + 5, 1u << (round & 3), 0);
      check("ecx", events[i].ecx, 10 - i);
    }
    // Moved while it is on.
    if (!armed) continue;
    start_log();
    breakpoint(0, (u32)data + 128, on_write, length_4);
    write_dr0((u32)data + 64);
    cpu.ecx = 3;
    run_cpu(&cpu);
    no_breakpoints();
    check_events("moved", 3);
    check_event("moved", 0, hot + 2, 1, 0);
  }
}

SNIPPET(mov_ss, "mov ss, [esi]\n" LABEL(mov_ss_next) "nop\n" LABEL(mov_ss_after) "nop\n" DONE);
SNIPPET(pop_ss, "mov ecx, esp\nmov esp, esi\npop ss\nmov esp, ecx\n" LABEL(pop_ss_after) "nop\n" DONE);
SNIPPET(mov_ds, "mov ds, [esi]\n" LABEL(mov_ds_after) "nop\n" DONE);
extern const u8 mov_ss_next[], mov_ss_after[], pop_ss_after[], mov_ds_after[];

// A load of SS holds its data breakpoint back until the next instruction is done (SDM vol. 3, 6.8.3).
static void load_ss(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    *(u32*)(data + 64) = ring0 ? kernel_data : user_data;
    run_with(mov_ss, ring0, 64, on_access, length_1);
    check_events("mov ss", 1);
    check_event("mov ss", 0, mov_ss_after, 1u << (round_number & 3), 0);
    round_number++;
    run_with(pop_ss, ring0, 64, on_access, length_1);
    check_events("pop ss", 1);
    check_event("pop ss", 0, pop_ss_after, 1u << (round_number & 3), 0);
    run_with(mov_ds, ring0, 64, on_access, length_1);
    check_events("mov ds", 1);
    check_event("mov ds holds nothing back", 0, mov_ds_after, 1u << (round_number & 3), 0);
  }
}

void guest_main(void) {
  descriptors_init();
  set_hook(v_debug, log_debug);
  write_cr0(read_cr0() & ~(u32)(cr0_em | cr0_ts));
  write_cr4(read_cr4() | cr4_osfxsr);
  group("lengths and alignment");
  lengths();
  group("instructions");
  instructions();
  group("system instructions");
  system_instructions();
  group("strings");
  strings();
  group("two breakpoints");
  two_breakpoints();
  group("no breakpoint");
  no_breakpoint();
  group("switched on and off");
  on_and_off();
  group("MOV SS");
  load_ss();
}
