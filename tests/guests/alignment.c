// Alignment checks at CPL 3 (SDM vol. 3, 6.15, interrupt 17 and table 6-7): on only with CR0.AM and EFLAGS.AC, also at a place whose code ran
// misaligned before while they were off; the alignment of every data type; stack accesses; what is not checked: accesses of the CPU's own,
// privilege levels below 3. Where the manual leaves a choice (FXSAVE, MOVUPS), a current CPU's answers are among those accepted.
//
// qemu: deviates in "on and off" (its TCG checks no alignment)
// qemu: deviates in "data types" (as above)
// qemu: deviates in "strings" (as above)
// qemu: deviates in "order" (as above)
//
// expect:
//   on and off: ok
//   data types: ok
//   strings: ok
//   order: ok
//   not checked: ok
// end
#include "lib/guest.h"

enum { v_alignment = 17, cr0_am = 1 << 18, at = 64 };
static u8 data[8192] __attribute__((aligned(4096)));

SNIPPET(load, "mov eax, [esi]\n" DONE);

static struct Cpu cpu_for(const u8* code, u32 address) {
  struct Cpu cpu = user_cpu(code);
  cpu.eflags |= f_ac;
  cpu.esi = address;
  cpu.edi = address;
  cpu.ebx = (u32)data + 4096;  // aligned to all
  cpu.edx = (u32)data + 2048;
  cpu.eax = 1;
  return cpu;
}

static void go(const char* what, u32 flags, u32 want) {
  struct Cpu cpu = cpu_for(load, (u32)data + 1);
  cpu.eflags = f_fixed | flags;
  run_cpu(&cpu);
  if (want == v_alignment) {
    check_trap(what, v_alignment, 0, load);
  } else {
    check_done(what);
  }
}

static void on_and_off(void) {
  u32 cr0 = read_cr0() & ~(u32)cr0_am;
  write_cr0(cr0);
  for (int i = 0; i < 3; i++) go("AC without AM", f_ac, 0);
  write_cr0(cr0 | cr0_am);
  for (int i = 0; i < 3; i++) go("AC on", f_ac, v_alignment);
  for (int i = 0; i < 3; i++) go("AC off", 0, 0);
  for (int i = 0; i < 3; i++) go("AC on again", f_ac, v_alignment);
  write_cr0(cr0);
  for (int i = 0; i < 3; i++) go("AM off", f_ac, 0);
  write_cr0(cr0 | cr0_am);
  // The inner rings are never checked.
  for (u32 ring = 0; ring < 2; ring++) {
    struct Cpu cpu = ring ? user_cpu(load) : kernel_cpu(load);
    if (ring) cpu.cs = ring1_code, cpu.ss = ring1_data;
    cpu.esi = (u32)data + 1;
    cpu.eflags |= f_ac;
    run_cpu(&cpu);
    check_done("inner rings");
  }
}

// name, alignment, text. The operand is at esi and edi; ebx is aligned.
#define CASES(X)                                                             \
  X(load8, 1, "mov al, [esi]")                                               \
  X(load16, 2, "mov ax, [esi]")                                              \
  X(load32, 4, "mov eax, [esi]")                                             \
  X(store16, 2, "mov [esi], ax")                                             \
  X(store32, 4, "mov [esi], eax")                                            \
  X(rmw16, 2, "inc word ptr [esi]")                                          \
  X(rmw32, 4, "add [esi], eax")                                              \
  X(lock_rmw, 4, "lock add [esi], eax")                                      \
  X(xchg_m, 4, "xchg [esi], eax")                                            \
  X(cmpxchg_m, 4, "cmpxchg [esi], ebx")                                      \
  X(cmpxchg8b_m, 8, "cmpxchg8b [esi]")                                       \
  X(movzx_m, 2, "movzx eax, word ptr [esi]")                                 \
  X(imul_m, 4, "imul eax, [esi]")                                            \
  X(shld_m, 4, "shld [esi], eax, 1")                                         \
  X(bt_m32, 4, "bt dword ptr [esi], 1")                                      \
  X(bts_m16, 2, "bts word ptr [esi], 1")                                     \
  X(bt_r, 4, "bt [esi], eax")                                                \
  X(movbe_m, 4, "movbe eax, [esi]")                                          \
  X(xlat_m, 1, "mov ebx, esi\nxlat")                                         \
  X(bound32, 4, "mov eax, 0\nbound eax, [esi]")                              \
  X(bound16, 2, "mov eax, 0\nbound ax, [esi]")                               \
  X(lfs32, 4, "lfs eax, [esi]")                                              \
  X(lfs16, 2, "lfs ax, [esi]")                                               \
  X(mov_sreg, 2, "mov fs, [esi]")                                            \
  X(store_sreg, 2, "mov [esi], ds")                                          \
  X(sgdt_m, 4, "sgdt [esi]")                                                 \
  X(sidt_m, 4, "sidt [esi]")                                                 \
  X(sldt_m, 2, "sldt [esi]")                                                 \
  X(smsw_m, 2, "smsw [esi]")                                                 \
  X(verr_m, 2, "verr word ptr [esi]")                                        \
  X(arpl_m, 2, "arpl [esi], ax")                                             \
  X(push_m, 4, "push dword ptr [esi]")                                       \
  X(pop_m, 4, "push 5\npop dword ptr [esi]")                                 \
  X(push_on, 4, "mov esp, esi\nadd esp, 16\npush eax\nmov esp, ebx")         \
  X(push_on16, 2, "mov esp, esi\nadd esp, 16\npush ax\nmov esp, ebx")        \
  X(pop_from, 4, "mov esp, esi\npop eax\nmov esp, ebx")                      \
  X(pusha_on, 4, "mov esp, esi\nadd esp, 64\npushad\nmov esp, ebx")          \
  X(popa_from, 4, "mov esp, esi\npopad\nmov esp, offset data + 4096")         \
  X(pushf_on, 4, "mov esp, esi\nadd esp, 16\npushfd\nmov esp, ebx")          \
  X(call_on, 4, "mov esp, esi\nadd esp, 16\ncall 1f\n1: mov esp, ebx")       \
  X(ret_from, 4, "mov esp, esi\nret\n" LABEL(ret_to) "mov esp, ebx")         \
  X(enter_on, 4, "mov esp, esi\nadd esp, 64\nenter 8, 0\nmov esp, ebx")      \
  X(leave_from, 4, "mov ebp, esi\nleave\nmov esp, ebx")                      \
  X(fld32, 4, "fninit\nfld dword ptr [esi]")                                 \
  X(fld64, 8, "fninit\nfld qword ptr [esi]")                                 \
  X(fld80, 8, "fninit\nfld tbyte ptr [esi]")                                 \
  X(fstp32, 4, "fninit\nfldz\nfstp dword ptr [esi]")                         \
  X(fstp64, 8, "fninit\nfldz\nfstp qword ptr [esi]")                         \
  X(fstp80, 8, "fninit\nfldz\nfstp tbyte ptr [esi]")                         \
  X(fbstp80, 8, "fninit\nfldz\nfbstp tbyte ptr [esi]")                       \
  X(fild16, 2, "fninit\nfild word ptr [esi]")                                \
  X(fild64, 8, "fninit\nfild qword ptr [esi]")                               \
  X(fadd64, 8, "fninit\nfldz\nfadd qword ptr [esi]")                         \
  X(fstcw, 2, "fnstcw [esi]")                                                \
  X(fldcw, 2, "fldcw [esi]")                                                 \
  X(fstsw, 2, "fnstsw [esi]")                                                \
  X(fstenv32, 4, "fnstenv [esi]")                                            \
  X(fstenv16, 2, "data16 fnstenv [esi]")                                     \
  X(fldenv32, 4, "fldenv [esi]")                                             \
  X(fldenv16, 2, "data16 fldenv [esi]")                                      \
  X(fsave32, 4, "fnsave [esi]")                                              \
  X(fsave16, 2, "data16 fnsave [esi]")                                       \
  X(frstor32, 4, "frstor [esi]")                                             \
  X(frstor16, 2, "data16 frstor [esi]")                                      \
  X(movd_m, 4, "movd mm0, [esi]\nemms")                                      \
  X(movq_mm, 8, "movq mm0, [esi]\nemms")                                     \
  X(paddb_mm, 8, "paddb mm0, [esi]\nemms")                                   \
  X(movq_xmm, 8, "movq xmm0, [esi]")                                         \
  X(movss_m, 4, "movss xmm0, [esi]")                                         \
  X(movsd_m, 8, "movsd xmm0, [esi]")                                         \
  X(movhps_m, 8, "movhps [esi], xmm0")                                       \
  X(cvtps2pd_m, 8, "cvtps2pd xmm0, [esi]")                                   \
  X(pmovsxbd_m, 4, "pmovsxbd xmm0, [esi]")                                   \
  X(pmovsxbq_m, 2, "pmovsxbq xmm0, [esi]")                                   \
  X(pinsrw_m, 2, "pinsrw xmm0, [esi], 1")                                    \
  X(movnti_m, 4, "movnti [esi], eax")                                        \
  X(maskmovq_m, 8, "pxor mm1, mm1\nmaskmovq mm0, mm1\nemms")                 \
  X(ldmxcsr_m, 4, "ldmxcsr [esi]")                                           \
  X(stmxcsr_m, 4, "stmxcsr [esi]")                                           \
  X(movups_r, 1, "movups xmm0, [esi]")                                       \
  X(movups_w, 1, "movups [esi], xmm0")                                       \
  X(movdqu_r, 1, "movdqu xmm0, [esi]")                                       \
  X(lddqu_r, 1, "lddqu xmm0, [esi]")                                         \
  X(pcmpistri_m, 1, "pcmpistri xmm0, [esi], 0")                              \
  X(clflush_m, 1, "clflush [esi]")                                           \
  X(prefetch_m, 1, "prefetcht0 [esi]")                                       \
  X(lea_m, 1, "lea eax, [esi]")                                              \
  X(movaps_r, 16, "movaps xmm0, [esi]")                                      \
  X(movaps_w, 16, "movaps [esi], xmm0")                                      \
  X(addps_r, 16, "addps xmm0, [esi]")                                        \
  X(paddb_r, 16, "paddb xmm0, [esi]")                                        \
  X(movntps_w, 16, "movntps [esi], xmm0")
#define X(name, alignment, text) SNIPPET(i_##name, text "\n" DONE);
CASES(X)
#undef X
extern const u8 ret_to[];
static const struct Case {
  const char* what;
  const u8* code;
  u32 alignment;
} cases[] = {
#define X(name, alignment, text) {#name, i_##name, alignment},
    CASES(X)
#undef X
};

SNIPPET(do_fxsave, "fxsave [esi]\n" DONE);
SNIPPET(do_fxrstor, "fxrstor [esi]\n" DONE);

// What the instruction wants to find: images, a selector, bounds.
static void fill(const struct Case* c, u32 address) {
  memset(data + at, 0, 160);
  __asm__ volatile("fninit");
  u8* p = (u8*)address;
  if (c->code == i_ret_from) *(u32*)p = (u32)ret_to;
  if (c->code == i_mov_sreg) p[0] = user_data;
  if (c->code == i_lfs32) p[4] = user_data;
  if (c->code == i_lfs16) p[2] = user_data;
  if (c->code == i_fldcw) p[0] = 0x7F, p[1] = 3;
  if (c->code == i_fldenv32 || c->code == i_frstor32) p[0] = 0x7F, p[1] = 3, p[8] = p[9] = 0xFF;
  if (c->code == i_fldenv16 || c->code == i_frstor16) p[0] = 0x7F, p[1] = 3, p[4] = p[5] = 0xFF;
  if (c->code == i_ldmxcsr_m) p[0] = 0x80, p[1] = 0x1F;
}

static void data_types(void) {
  for (u32 i = 0; i < ARRAY_SIZE(cases); i++)
    for (u32 offset = 0; offset < 16; offset++)
      for (u32 round = 0; round < 2; round++) {  // the second time the place is known to be misaligned
        u32 address = (u32)data + at + offset;
        fill(&cases[i], address);
        struct Cpu cpu = cpu_for(cases[i].code, address);
        run_cpu(&cpu);
        bool aligned = (offset & (cases[i].alignment - 1)) == 0;
        u32 want = aligned ? vector_done : cases[i].alignment == 16 ? v_protection : v_alignment;
        if (!check(cases[i].what, trap.vector, want) && showing_failures()) printf("       offset %u eip %x\n", offset, trap.cpu.eip);
        if (want != vector_done) check("error code", trap.error, 0);
        // Without AC only the sixteen-byte ones fault.
        fill(&cases[i], address);
        cpu.eflags &= ~(u32)f_ac;
        run_cpu(&cpu);
        want = aligned || cases[i].alignment < 16 ? vector_done : v_protection;
        if (!check(cases[i].what, trap.vector, want) && showing_failures()) printf("       without AC, offset %u eip %x\n", offset, trap.cpu.eip);
      }
  // FXSAVE and FXRSTOR: #GP below 16, or #AC if that is on.
  for (u32 offset = 0; offset < 16; offset++)
    for (u32 kind = 0; kind < 4; kind++) {
      u32 address = (u32)data + at + offset;
      memset(data + at, 0, 600);
      struct Cpu cpu = cpu_for(kind & 1 ? do_fxrstor : do_fxsave, address);
      if (!(kind & 2)) cpu.eflags &= ~(u32)f_ac;
      run_cpu(&cpu);
      if (offset == 0) {
        check_done("fxsave");
      } else {
        check_true("fxsave misaligned", trap.vector == v_protection || ((kind & 2) && trap.vector == v_alignment));
        check("error code", trap.error, 0);
      }
    }
}

SNIPPET(rep_movsd, "rep movsd\n" DONE);
SNIPPET(rep_stosw, "rep stosw\n" DONE);
SNIPPET(one_lodsd, "lodsd\n" DONE);
SNIPPET(one_cmpsw, "cmpsw\n" DONE);
SNIPPET(one_scasd, "scasd\n" DONE);
SNIPPET(rep_movsb, "rep movsb\n" DONE);

static void strings(void) {
  static const struct {
    const u8* code;
    u32 size;
    bool source, destination;
  } kinds[] = {{rep_movsd, 4, true, true},  {rep_stosw, 2, false, true},  {one_lodsd, 4, true, false},
               {one_cmpsw, 2, true, true},  {one_scasd, 4, false, true}, {rep_movsb, 1, true, true}};
  for (u32 i = 0; i < ARRAY_SIZE(kinds); i++)
    for (u32 from = 0; from < 4; from++)
      for (u32 to = 0; to < 4; to++) {
        struct Cpu cpu = cpu_for(kinds[i].code, 0);
        cpu.esi = (u32)data + 64 + from;
        cpu.edi = (u32)data + 512 + to;
        cpu.ecx = 100;
        run_cpu(&cpu);
        u32 mask = kinds[i].size - 1;
        bool bad = (kinds[i].source && (from & mask)) || (kinds[i].destination && (to & mask));
        if (!bad) {
          check_done("string");
          continue;
        }
        check_trap("string", v_alignment, 0, kinds[i].code);
        check("ecx", trap.cpu.ecx, 100);
        check("esi", trap.cpu.esi, cpu.esi);
        check("edi", trap.cpu.edi, cpu.edi);
      }
}

SNIPPET(in_limit, "mov eax, gs:[esi]\n" DONE);

// Segment first, then alignment, then paging (as current CPUs do; table 6-2 leaves the order within an instruction to them).
static void order(void) {
  enum { selector = first_free };
  gdt[selector / 8] = descriptor((u32)data, 15, 0xF2, 4);
  struct Cpu cpu = cpu_for(in_limit, 13);
  cpu.gs = selector | 3;
  run_cpu(&cpu);
  check_trap("beyond the limit", v_protection, 0, in_limit);
  cpu.esi = 11;
  run_cpu(&cpu);
  check_trap("within it", v_alignment, 0, in_limit);
  // The linear address counts.
  gdt[selector / 8] = descriptor((u32)data + 1, 15, 0xF2, 4);
  cpu.esi = 3;
  run_cpu(&cpu);
  check_done("base and offset together");
  cpu.esi = 4;
  run_cpu(&cpu);
  check_trap("offset alone", v_alignment, 0, in_limit);
  struct Space space = new_space(false);
  use_space(&space);
  map(&space, 0x40000000, 0);
  cpu = cpu_for(load, 0x40000001);
  run_cpu(&cpu);
  check_trap("absent page", v_alignment, 0, load);
  cpu.esi = 0x40000000;
  run_cpu(&cpu);
  check_page_fault("absent page, aligned", 4, 0x40000000, load);
  paging_off();
}

SNIPPET(load_fs, "mov fs, eax\n" DONE);

// The CPU's own accesses: a descriptor at an odd address, a TSS and an inner stack likewise.
static void not_checked(void) {
  static u8 odd_gdt[sizeof(gdt) + 1] __attribute__((aligned(16)));
  memcpy(odd_gdt + 1, gdt, sizeof(gdt));
  struct TableRegister table = {sizeof(gdt) - 1, (u32)odd_gdt + 1};
  __asm__ volatile("lgdt %0" ::"m"(table));
  u32 esp0 = tss.esp0;
  tss.esp0 = esp0 - 3;
  struct Cpu cpu = cpu_for(load_fs, 0);
  cpu.eax = user_data;
  run_cpu(&cpu);
  check_done("descriptor and inner stack");
  tss.esp0 = esp0;
  table.base = (u32)gdt;
  __asm__ volatile("lgdt %0" ::"m"(table));
}

void guest_main(void) {
  descriptors_init();
  write_cr0(read_cr0() & ~(u32)(cr0_em | cr0_ts));
  write_cr4(read_cr4() | cr4_osfxsr);
  group("on and off");
  on_and_off();
  group("data types");
  data_types();
  group("strings");
  strings();
  group("order");
  order();
  group("not checked");
  not_checked();
}
