// Who gets the FPU: CR0.TS, EM, MP and CR4.OSFXSR decide between #NM, #UD and execution (SDM vol. 3, 2.5 table 2-2 and 13.1); lazy
// switching between two ring-3 contexts with x87, MMX and SSE state, preempted by the timer; FSAVE, FXSAVE and their counterparts.
//
// qemu: deviates in "who faults" (EMMS never faults, and #NM comes before #UD)
// qemu: deviates in "MMX over x87" (exponents stay)
// qemu: deviates in "x87 exceptions" (raised only by FWAIT)
// qemu: deviates in "SIMD exceptions" (never raised)
//
// expect:
//   who faults: ok
//   saved images: ok
//   MMX over x87: ok
//   lazy switching: ok
//   state survives the kernel's way: ok
//   x87 exceptions: ok
//   SIMD exceptions: ok
// end
#include "lib/guest.h"

static u8 image[512] __attribute__((aligned(64)));
static u8 image_b[512] __attribute__((aligned(64)));
static u8 scratch[64] __attribute__((aligned(64)));

enum Kind { k_x87, k_wait, k_mmx, k_sse, k_fxsave, k_free };
struct Row {
  const char* what;
  enum Kind kind;
  const u8* code;
};
#define CASES(X)                               \
  X(fld1, k_x87, "fld1\nfstp st(0)")           \
  X(fnstsw, k_x87, "fnstsw ax")                \
  X(fnclex, k_x87, "fnclex")                   \
  X(fninit, k_x87, "fninit")                   \
  X(fldcw, k_x87, "fnstcw [esi]\nfldcw [esi]") \
  X(fwait, k_wait, "fwait")                    \
  X(emms, k_mmx, "emms")                       \
  X(movd, k_mmx, "movd mm0, eax\nemms")        \
  X(movups, k_sse, "movups xmm0, [esi]")       \
  X(addps, k_sse, "addps xmm0, xmm0")          \
  X(addsd, k_sse, "addsd xmm1, xmm0")          \
  X(pxor, k_sse, "pxor xmm0, xmm0")            \
  X(stmxcsr, k_sse, "stmxcsr [esi]")           \
  X(fxsave, k_fxsave, "fxsave [esi + 0]")      \
  X(prefetch, k_free, "prefetcht0 [esi]")      \
  X(sfence, k_free, "sfence")                  \
  X(movnti, k_free, "movnti [esi], eax")
#define X(name, kind, text) SNIPPET(code_##name, text "\n" DONE);
CASES(X)
#undef X
static const struct Row rows[] = {
#define X(name, kind, text) {#name, kind, code_##name},
    CASES(X)
#undef X
};

static u32 expected_vector(enum Kind kind, bool em, bool mp, bool ts, bool osfxsr) {
  switch (kind) {
    case k_x87: return em || ts ? v_no_fpu : vector_done;
    case k_wait: return mp && ts ? v_no_fpu : vector_done;
    case k_mmx: return em ? v_opcode : ts ? v_no_fpu : vector_done;
    case k_sse: return em || !osfxsr ? v_opcode : ts ? v_no_fpu : vector_done;
    case k_fxsave: return em || ts ? v_no_fpu : vector_done;
    default: return vector_done;
  }
}

// TS set between two FPU instructions that may well be one block.
SNIPPET(set_ts_between, "fninit\nfld1\nmov ebx, cr0\nor ebx, 8\nmov cr0, ebx\n" LABEL(set_ts_then) "fld1\n" DONE);
SNIPPET(set_ts_lmsw, "fninit\nfld1\nsmsw bx\nor ebx, 8\nlmsw bx\n" LABEL(set_ts_lmsw_then) "fxch\n" DONE);
SNIPPET(clear_ts_between, "fld1\nfninit\nclts\n" LABEL(clear_ts_then) "fld1\nfistp dword ptr [esi]\n" DONE);
extern const u8 set_ts_then[], set_ts_lmsw_then[];

static void task_switched_inside(void) {
  for (u32 i = 0; i < 200; i++) {
    struct Cpu cpu = kernel_cpu(i & 1 ? set_ts_between : set_ts_lmsw);
    run_cpu(&cpu);
    check_trap("TS set inside", v_no_fpu, 0, i & 1 ? set_ts_then : set_ts_lmsw_then);
    cpu = kernel_cpu(clear_ts_between);
    cpu.esi = (u32)scratch;
    run_cpu(&cpu);
    check_trap("still set", v_no_fpu, 0, clear_ts_between);
    cpu.eip += 4;  // at CLTS
    run_cpu(&cpu);
    check_done("TS cleared inside");
    __asm__ volatile("fninit");
  }
}

static void who_faults(void) {
  u32 cr0 = read_cr0() & ~(u32)(cr0_em | cr0_mp | cr0_ts), cr4 = read_cr4() & ~(u32)cr4_osfxsr;
  for (u32 mode = 0; mode < 16; mode++) {
    bool em = mode & 1, mp = mode & 2, ts = mode & 4, osfxsr = mode & 8;
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
      for (u32 ring0 = 0; ring0 < 2; ring0++) {
        struct Cpu cpu = ring0 ? kernel_cpu(rows[i].code) : user_cpu(rows[i].code);
        cpu.esi = (u32)image;
        write_cr4(cr4 | (osfxsr ? cr4_osfxsr : 0));
        write_cr0(cr0 | (em ? cr0_em : 0) | (mp ? cr0_mp : 0) | (ts ? cr0_ts : 0));
        run_cpu(&cpu);
        write_cr0(cr0);
        u32 want = expected_vector(rows[i].kind, em, mp, ts, osfxsr);
        bool good = want == vector_done ? check_done(rows[i].what) : check_trap(rows[i].what, want, 0, rows[i].code);
        if (!good && showing_failures()) printf("       em %d mp %d ts %d osfxsr %d\n", em, mp, ts, osfxsr);
      }
    }
  }
  write_cr4(cr4 | cr4_osfxsr);
  write_cr0(cr0 | cr0_mp | cr0_ne);
  task_switched_inside();
  // CLTS, LMSW and SMSW see and change TS; FNSAVE and FXRSTOR obey it.
  write_cr0(read_cr0() | cr0_ts);
  __asm__ volatile("clts");
  check("clts", read_cr0() & cr0_ts, 0);
  u32 word = (read_cr0() & 0xF) | cr0_ts;
  __asm__ volatile("lmsw %w0" ::"r"(word));
  check("lmsw sets TS", read_cr0() & cr0_ts, cr0_ts);
  __asm__ volatile("lmsw %w0" ::"r"(cr0_mp));
  check("lmsw clears TS, never PE", read_cr0() & 0xF, cr0_mp | cr0_pe);
}

SNIPPET(
    images,
    "fninit\nfld1\nfldpi\nmov dword ptr [esi], 0x1F9F\nldmxcsr [esi]\nmovd xmm3, eax\nfxsave [edi]\nfnsave [ebx]\nfnstsw ax\nmov ecx, eax\n"
    "fxrstor [edi]\nfnstsw ax\nfaddp\nfistp dword ptr [esi]\nmov edx, [esi]\nmovd eax, xmm3\n" DONE);

static void saved_images(void) {
  struct Cpu cpu = user_cpu(images);
  cpu.esi = (u32)scratch;
  cpu.edi = (u32)image;
  cpu.ebx = (u32)image_b;
  cpu.eax = 0xABCD1234;
  run_cpu(&cpu);
  check_done("images");
  check("fxsave fcw", *(u16*)image, 0x37F);
  check("fxsave fsw", *(u16*)(image + 2), 6 << 11);
  check("fxsave tags: two in use, by register", image[4], 0xC0);
  check("fxsave mxcsr", *(u32*)(image + 24), 0x1F9F);
  check("fxsave st0 low", *(u32*)(image + 32), 0x2168C235);
  check("fxsave st0 high", *(u32*)(image + 36), 0xC90FDAA2);
  check("fxsave st0 exponent", *(u16*)(image + 40), 0x4000);
  check("fxsave st1 high", *(u32*)(image + 52), 0x80000000);
  check("fxsave xmm3", *(u32*)(image + 160 + 48), 0xABCD1234);
  check("fnsave fcw", *(u16*)image_b, 0x37F);
  check("fnsave fsw", *(u16*)(image_b + 4), 6 << 11);
  check("fnsave tags", *(u16*)(image_b + 8), 0x0FFF);
  check("fnsave st0", *(u32*)(image_b + 32), 0xC90FDAA2);
  check("fnsave initialises", trap.cpu.ecx & 0xFFFF, 0);
  check("pi + 1", trap.cpu.edx, 4);
  check("xmm3", trap.cpu.eax, 0xABCD1234);
}

SNIPPET(mmx_code, "fninit\nfld1\nmov eax, 0x11223344\nmovd mm5, eax\nfxsave [edi]\nmovd ebx, mm5\nemms\nfnstenv [esi]\nfninit\n" DONE);

static void mmx(void) {
  struct Cpu cpu = user_cpu(mmx_code);
  cpu.esi = (u32)scratch;
  cpu.edi = (u32)image;
  run_cpu(&cpu);
  check_done("mmx");
  check("value", trap.cpu.ebx, 0x11223344);
  check("all tags in use", image[4], 0xFF);
  check("top is 0", *(u16*)(image + 2) & 0x3800, 0);
  check("in the register file", *(u32*)(image + 32 + 5 * 16), 0x11223344);
  check("exponent ones", *(u16*)(image + 32 + 5 * 16 + 8), 0xFFFF);
  check("emms empties", *(u16*)(scratch + 8), 0xFFFF);
}

// Two ring-3 loops, each summing in x87, MMX-free SSE and integer registers; the kernel switches by the timer with TS set and saves
// and restores in #NM. Each must come out with its own sums.
SNIPPET(
    worker,
    "fninit\nfldz\nxorps xmm6, xmm6\nxor edx, edx\n"
    "1: mov [esi], ecx\nfild dword ptr [esi]\nfaddp\nmovd xmm1, ecx\npaddd xmm6, xmm1\nmovaps xmm7, xmm6\nadd edx, ecx\ndec ecx\njnz 1b\n"
    "fistp dword ptr [esi]\nmov eax, [esi]\nmovd ebx, xmm7\n" DONE);

struct Task {
  struct Cpu cpu;
  u8* fpu;
  bool used_fpu;
  bool ended;
};
static struct Task tasks[2];
static u32 current, fpu_owner = 2, switches, lazy_loads;

static void fxsave(u8* to) { __asm__ volatile("fxsave (%0)" ::"r"(to) : "memory"); }
static void fxrstor(const u8* from) { __asm__ volatile("fxrstor (%0)" ::"r"(from) : "memory"); }

static bool on_no_fpu(struct Frame* frame) {
  (void)frame;
  __asm__ volatile("clts");
  lazy_loads++;
  if (fpu_owner == current) return true;
  if (fpu_owner < 2) fxsave(tasks[fpu_owner].fpu);
  if (tasks[current].used_fpu)
    fxrstor(tasks[current].fpu);
  else
    __asm__ volatile("fninit");
  tasks[current].used_fpu = true;
  fpu_owner = current;
  return true;
}

static bool on_timer_end_run(struct Frame* frame) {
  (void)frame;
  pic_eoi(0);
  return false;
}

static void lazy_switching(void) {
  static u8 images_of_tasks[2][512] __attribute__((aligned(64)));
  static u32 slots[2][4];
  pic_init();
  pic_unmask(0);
  set_hook(v_no_fpu, on_no_fpu);
  set_hook(irq_base, on_timer_end_run);
  // A fast machine may be through before the timer comes: again until it came often enough.
  for (u32 round = 0; (lazy_loads < 20 || switches <= 20) && round < 10000; round++) {
    fpu_owner = 2;
    current = 0;
    for (u32 i = 0; i < 2; i++) {
      tasks[i] = (struct Task){user_cpu(worker), images_of_tasks[i], false, false};
      tasks[i].cpu.eflags |= f_if;
      tasks[i].cpu.ecx = i ? 60000 : 50000;
      tasks[i].cpu.esi = (u32)slots[i];
      tasks[i].cpu.esp -= i * 0x1000;
    }
    pit_periodic(700);
    while (!tasks[0].ended || !tasks[1].ended) {
      write_cr0(read_cr0() | cr0_ts);
      run_cpu(&tasks[current].cpu);
      if (trap.vector == vector_done) {
        tasks[current].ended = true;
      } else if (trap.vector != irq_base) {
        check_trap("worker", vector_done, 0, NULL);
        break;
      }
      tasks[current].cpu = trap.cpu;
      switches++;
      if (!tasks[1 - current].ended) current = 1 - current;
    }
    __asm__ volatile("clts");
    pit_oneshot(0);
    u32 sums[2] = {50000u * 50001 / 2, 60000u * 60001 / 2};
    for (u32 i = 0; i < 2; i++) {
      check("integer sum", tasks[i].cpu.edx, sums[i]);
      check("x87 sum", tasks[i].cpu.eax, sums[i]);
      check("SSE sum", tasks[i].cpu.ebx, sums[i]);
    }
  }
  check_true("there were switches", switches > 20);
  check_true("and lazy loads", lazy_loads >= 20);
  set_hook(v_no_fpu, NULL);
}

// Values stay in the registers across traps, interrupts, CR0 and CR3 writes, port accesses and CPUID, which the kernel handles.
SNIPPET(put_values, "fninit\nfldpi\nfld1\nmov eax, 0x31415926\nmovd xmm0, eax\nmovd xmm7, ecx\n" DONE);
SNIPPET(get_values, "fistp dword ptr [esi]\nfistp dword ptr [esi + 4]\nmovd eax, xmm0\nmovd ecx, xmm7\n" DONE);

static void survives(void) {
  struct Space space = new_space(false);
  use_space(&space);
  for (u32 i = 0; i < 50; i++) {
    struct Cpu cpu = i & 1 ? user_cpu(put_values) : kernel_cpu(put_values);
    cpu.ecx = i * 77;
    run_cpu(&cpu);
    write_cr3(read_cr3());
    (void)cpuid(1);
    (void)pit_read();
    write_cr0(read_cr0() | cr0_ts);
    __asm__ volatile("clts");
    write_cr4(read_cr4() ^ cr4_pge);
    invlpg(0x1000);
    cpu = i & 2 ? user_cpu(get_values) : kernel_cpu(get_values);
    cpu.esi = (u32)scratch;
    run_cpu(&cpu);
    check_done("get");
    check("st0", read32((u32)scratch), 1);
    check("st1", read32((u32)scratch + 4), 3);
    check("xmm0", trap.cpu.eax, 0x31415926);
    check("xmm7", trap.cpu.ecx, i * 77);
  }
  paging_off();
}

SNIPPET(x87_divide, "fninit\nmov word ptr [esi], 0x37B\nfldcw [esi]\nfld1\nfldz\nfdivp\nnop\n" LABEL(x87_wait) "fld1\nfninit\n" DONE);
SNIPPET(x87_no_wait, "fninit\nmov word ptr [esi], 0x37B\nfldcw [esi]\nfld1\nfldz\nfdivp\nfnstsw ax\nfnclex\nfld1\nfninit\n" DONE);
SNIPPET(x87_fwait, "fninit\nmov word ptr [esi], 0x37B\nfldcw [esi]\nfld1\nfldz\nfdivp\n" LABEL(x87_fwait_at) "fwait\n" DONE);
extern const u8 x87_wait[], x87_fwait_at[];

static void x87_exceptions(void) {
  // An unmasked exception waits for the next waiting FPU instruction (SDM vol. 1, 8.6), whose address the handler gets.
  struct Cpu cpu = user_cpu(x87_divide);
  cpu.esi = (u32)scratch;
  run_cpu(&cpu);
  check_trap("divide by zero, at the next instruction", v_x87, 0, x87_wait);
  __asm__ volatile("fnclex");
  cpu.eip = (u32)x87_fwait;
  run_cpu(&cpu);
  check_trap("at FWAIT", v_x87, 0, x87_fwait_at);
  __asm__ volatile("fnclex");
  cpu.eip = (u32)x87_no_wait;
  run_cpu(&cpu);
  check_done("FNSTSW and FNCLEX do not wait");
  check("ZE, ES and B", trap.cpu.eax & 0x8084, 0x8084);
  __asm__ volatile("fninit");
}

SNIPPET(sse_divide, "mov dword ptr [esi], 0x1D80\nldmxcsr [esi]\nmov eax, 0x3F800000\nmovd xmm0, eax\nxorps xmm1, xmm1\n" LABEL(
                        sse_divide_at) "divss xmm0, xmm1\n" DONE);
SNIPPET(sse_values, "stmxcsr [esi]\nmovd eax, xmm0\nmov dword ptr [esi + 4], 0x1F80\nldmxcsr [esi + 4]\n" DONE);
SNIPPET(bad_mxcsr, "mov dword ptr [esi], 0x80000000\n" LABEL(bad_mxcsr_at) "ldmxcsr [esi]\n" DONE);
extern const u8 sse_divide_at[], bad_mxcsr_at[];

static void simd_exceptions(void) {
  struct Cpu cpu = user_cpu(sse_divide);
  cpu.esi = (u32)scratch;
  write_cr4(read_cr4() | cr4_osxmmexcpt);
  run_cpu(&cpu);
  check_trap("divide by zero", v_simd, 0, sse_divide_at);
  struct Cpu look = user_cpu(sse_values);
  look.esi = (u32)scratch;
  run_cpu(&look);
  check("flag set", read32((u32)scratch) & 0x3F, 4);
  check("destination kept", trap.cpu.eax, 0x3F800000);
  // Without OSXMMEXCPT it is an undefined opcode (SDM vol. 3, 2.5).
  write_cr4(read_cr4() & ~(u32)cr4_osxmmexcpt);
  run_cpu(&cpu);
  check_trap("without OSXMMEXCPT", v_opcode, 0, sse_divide_at);
  run_cpu(&look);
  write_cr4(read_cr4() | cr4_osxmmexcpt);
  cpu.eip = (u32)bad_mxcsr;
  run_cpu(&cpu);
  check_trap("reserved bit of MXCSR", v_protection, 0, bad_mxcsr_at);
}

void guest_main(void) {
  descriptors_init();
  write_cr0((read_cr0() | cr0_ne) & ~(u32)(cr0_em | cr0_ts));
  __asm__ volatile("fninit");  // a reset leaves every register in use and exceptions unmasked
  group("who faults");
  who_faults();
  group("saved images");
  saved_images();
  group("MMX over x87");
  mmx();
  group("lazy switching");
  lazy_switching();
  group("state survives the kernel's way");
  survives();
  group("x87 exceptions");
  x87_exceptions();
  group("SIMD exceptions");
  simd_exceptions();
}
