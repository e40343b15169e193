// Every kind of store over the very next instruction. Since the P6 a store through the linear address that is executed is seen by the next
// instruction, without a jump (SDM vol. 3, 8.1.3 and 11.6). Stores of all sizes and units, pushes, calls, images, exception frames, and the
// accessed bit that loading a segment register sets in a descriptor that is code as well.
//
// expect:
//   stores: ok
//   stores across a page border: ok
//   images: ok
//   pushes: ok
//   exception frames: ok
//   string I/O: ok
//   accessed bits: ok
//   repeated strings: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, slot = 0x80 };
#define value 0x42434445u
#define old 0x11111111u
static struct Space space;
static u32 pages;

// The instruction that is overwritten: `mov ebx, 11111111h; int 80h`, seven bytes at the snippet's end, then two NOPs.
#define TARGET ".byte 0xBB, 0x11, 0x11, 0x11, 0x11, 0xCD, 0x80, 0x90, 0x90\n"
enum { target_bytes = 9 };
#define STORE(name, text) SNIPPET(s_##name, text "\n" TARGET)

// In: EDI the four bytes that EBX gets; EAX 42434445h; ESI these bytes, CD 80 90 90, ... ; EBP 0.
#define STORES(X)                                                                                                       \
  X(mov32, "mov [edi], eax", value)                                                                                     \
  X(mov16, "mov [edi], ax", (old & 0xFFFF0000) | 0x4445)                                                                \
  X(mov8, "mov [edi], al", (old & 0xFFFFFF00) | 0x45)                                                                   \
  X(mov8_high, "mov [edi + 3], ah", (old & 0x00FFFFFF) | 0x44000000)                                                    \
  X(mov_imm, "mov dword ptr [edi], 0x42434445", value)                                                                  \
  X(unaligned, "mov [edi - 1], eax\n mov byte ptr [edi - 1], 0xBB\n mov [edi], eax", value)                             \
  X(xchg, "xchg [edi], eax", value)                                                                                     \
  X(xadd, "xadd [edi], eax", value + old)                                                                               \
  X(lock_xadd, "lock xadd [edi], eax", value + old)                                                                     \
  X(cmpxchg, "mov edx, eax\n mov eax, 0x11111111\n cmpxchg [edi], edx", value)                                          \
  X(lock_cmpxchg, "mov edx, eax\n mov eax, 0x11111111\n lock cmpxchg [edi], edx", value)                                \
  X(cmpxchg_fails, "mov edx, eax\n xor eax, eax\n cmpxchg [edi], edx", old)                                             \
  X(cmpxchg8b, "mov ebx, eax\n mov eax, 0x11111111\n mov edx, 0x909080CD\n mov ecx, edx\n lock cmpxchg8b [edi]", value) \
  X(add, "add [edi], eax", value + old)                                                                                 \
  X(lock_add, "lock add [edi], eax", value + old)                                                                       \
  X(or, "or [edi], eax", value | old)                                                                                   \
  X(adc, "stc\n adc [edi], eax", value + old + 1)                                                                       \
  X(sub, "sub byte ptr [edi + 1], 1", old - 0x100)                                                                      \
  X(inc, "inc dword ptr [edi]", old + 1)                                                                                \
  X(lock_dec, "lock dec dword ptr [edi]", old - 1)                                                                      \
  X(neg, "neg dword ptr [edi]", 0u - old)                                                                               \
  X(not, "lock not dword ptr [edi]", ~(u32)old)                                                                         \
  X(shl, "shl dword ptr [edi], 1", old << 1)                                                                            \
  X(ror, "ror byte ptr [edi], 1", (old & 0xFFFFFF00) | 0x88)                                                            \
  X(shld, "shld dword ptr [edi], eax, 8", (old << 8) | (value >> 24))                                                   \
  X(shrd_cl, "mov cl, 16\n shrd dword ptr [edi], eax, cl", (old >> 16) | ((u32)value << 16))                            \
  X(bts, "mov ecx, 9\n bts dword ptr [edi], ecx", old | 0x200)                                                          \
  X(lock_btr, "lock btr dword ptr [edi], 4", old & ~0x10)                                                               \
  X(btc_far, "sub edi, 8\n mov ecx, 64 + 1\n btc dword ptr [edi], ecx", old ^ 2)                                        \
  X(setc, "stc\n setc [edi + 2]", (old & 0xFF00FFFF) | 0x010000)                                                        \
  X(pop_m, "push eax\n pop dword ptr [edi]", value)                                                                     \
  X(stosd, "stosd", value)                                                                                              \
  X(stosb, "inc edi\n stosb", (old & 0xFFFF00FF) | 0x4500)                                                              \
  X(movsd, "movsd", value)                                                                                              \
  X(movsw, "movsw", (old & 0xFFFF0000) | 0x4445)                                                                        \
  X(rep_movsb, "mov ecx, 4\n rep movsb", value)                                                                         \
  X(rep_movsd, "mov ecx, 2\n rep movsd", value)                                                                         \
  X(rep_stosw, "mov ecx, 2\n rep stosw", 0x44454445)                                                                    \
  X(rep_stosd_down, "std\n mov ecx, 1\n rep stosd\n cld", value)                                                        \
  X(mov_sreg, "mov [edi], ds", (old & 0xFFFF0000) | DATA)                                                               \
  X(sldt, "sldt word ptr [edi]", old & 0xFFFF0000)                                                                      \
  X(str, "str word ptr [edi]", (old & 0xFFFF0000) | tss_selector)                                                       \
  X(arpl, "mov word ptr [edi], 0\n mov dx, 2\n arpl [edi], dx", (old & 0xFFFF0000) | 2)                                 \
  X(fst32, "fld dword ptr [esi]\n fstp dword ptr [edi]", value)                                                         \
  X(fst64, "fld qword ptr [esi]\n fstp qword ptr [edi]", value)                                                         \
  X(fst80, "fld tbyte ptr [esi - 1]\n fstp tbyte ptr [edi - 1]", value)                                                 \
  X(fist16, "fild word ptr [esi]\n fistp word ptr [edi]", (old & 0xFFFF0000) | 0x4445)                                  \
  X(fist32, "fild dword ptr [esi]\n fistp dword ptr [edi]", value)                                                      \
  X(fist64, "fild qword ptr [esi]\n fistp qword ptr [edi]", value)                                                      \
  X(fnstcw, "fnstcw word ptr [edi]", (old & 0xFFFF0000) | 0x37F)                                                        \
  X(fnstsw, "fnstsw word ptr [edi]", old & 0xFFFF0000)                                                                  \
  X(stmxcsr, "stmxcsr dword ptr [edi]", 0x1F80)                                                                         \
  X(movd, "movd xmm0, eax\n movd dword ptr [edi], xmm0", value)                                                         \
  X(movd_mmx, "movd mm0, eax\n movd dword ptr [edi], mm0\n emms", value)                                                \
  X(movq_mmx, "movq mm0, [esi]\n movq [edi], mm0\n emms", value)                                                        \
  X(movq, "movq xmm0, [esi]\n movq qword ptr [edi], xmm0", value)                                                       \
  X(movss, "movss xmm0, [esi]\n movss dword ptr [edi], xmm0", value)                                                    \
  X(movsd_sse, "movsd xmm0, qword ptr [esi]\n movsd qword ptr [edi], xmm0", value)                                      \
  X(movlps, "movlps xmm0, [esi]\n movlps [edi], xmm0", value)                                                           \
  X(movhps, "movhps xmm0, [esi]\n movhps [edi], xmm0", value)                                                           \
  X(movups, "movups xmm0, [esi]\n movups [edi], xmm0", value)                                                           \
  X(movdqu, "movdqu xmm0, [esi]\n movdqu [edi], xmm0", value)                                                           \
  X(movnti, "movnti [edi], eax\n sfence", value)                                                                        \
  X(maskmovdqu, "movdqu xmm0, [esi]\n pcmpeqb xmm1, xmm1\n maskmovdqu xmm0, xmm1\n sfence", value)

#define DATA 0  // of the ring: set below
#define X(name, text, want) STORE(name, text);
STORES(X)
#undef X
#undef DATA

struct Row {
  const char* what;
  const u8 *code, *end;
};
static const struct Row rows[] = {
#define X(name, text, want) {#name, s_##name, s_##name##_end},
    STORES(X)
#undef X
};

static u32 wanted(u32 row, u32 ring) {
  const u32 DATA = ring == 0 ? (u32)kernel_data : (u32)user_data;
  const u32 wants[] = {
#define X(name, text, want) (u32)(want),
      STORES(X)
#undef X
  };
  return wants[row];
}

// The bytes that stores take from memory, and what follows the target.
static u8 source[32] __attribute__((aligned(16))) = {0,    0,    0,    0xBB, 0x45, 0x44, 0x43, 0x42, 0xCD, 0x80,
                                                     0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90};

// Copies the code so that its target starts at `target`, and runs it.
static struct Cpu place(const u8* code, const u8* end, u32 target, u32 ring) {
  const u32 size = (u32)(end - code) - target_bytes;
  memcpy((void*)(target - size), code, size + target_bytes);
  struct Cpu cpu = ring_cpu(ring, (void*)(target - size));
  cpu.edi = target + 1;
  cpu.eax = value;
  cpu.esi = (u32)source + 4;
  return cpu;
}

static void every_store(bool across) {
  for (u32 row = 0; row < ARRAY_SIZE(rows); row++) {
    for (u32 ring = 0; ring < 4; ring += 3) {
      for (u32 round = 0; round < 3; round++) {
        // Across: the page ends in the overwritten bytes, or before the target.
        u32 target = across ? window + page_bytes - 4 + round : window + 0x200 + round * 5;
        __asm__ volatile("fninit");
        struct Cpu cpu = place(rows[row].code, rows[row].end, target, ring);
        run_cpu(&cpu);
        bool good = check_done(rows[row].what);
        good &= check(rows[row].what, trap.cpu.ebx, wanted(row, ring));
        if (!good && showing_failures()) printf("       ring %u round %u\n", ring, round);
      }
    }
  }
}

// Images hold the new code where a register was saved; they overwrite more, so that a jump leads to the target.
SNIPPET(image_fnsave,
        "fld tbyte ptr [esi - 1]\n sub edi, 29\n fnsave [edi]\n jmp 1f\n .fill 200, 1, 0xCC\n 1:" TARGET ".fill 120, 1, 0xCC\n");
SNIPPET(image_fxsave, "movdqu xmm0, [esi - 1]\n sub edi, 161\n fxsave [edi]\n jmp 1f\n .fill 300, 1, 0xCC\n .balign 16\n 1:" TARGET
                      ".fill 360, 1, 0xCC\n");
SNIPPET(image_movaps,
        "movdqu xmm0, [esi - 1]\n movaps [edi - 1], xmm0\n jmp 1f\n .fill 40, 1, 0xCC\n .balign 16\n 1:" TARGET ".fill 10, 1, 0xCC\n");
SNIPPET(image_movdqa,
        "movdqu xmm0, [esi - 1]\n movdqa [edi - 1], xmm0\n jmp 1f\n .fill 40, 1, 0xCC\n .balign 16\n 1:" TARGET ".fill 10, 1, 0xCC\n");
SNIPPET(image_movntps, "movdqu xmm0, [esi - 1]\n movntps [edi - 1], xmm0\n sfence\n jmp 1f\n .fill 40, 1, 0xCC\n .balign 16\n 1:" TARGET
                       ".fill 10, 1, 0xCC\n");
SNIPPET(image_movntdq, "movdqu xmm0, [esi - 1]\n movntdq [edi - 1], xmm0\n sfence\n jmp 1f\n .fill 40, 1, 0xCC\n .balign 16\n 1:" TARGET
                       ".fill 10, 1, 0xCC\n");

static void images(void) {
  static const struct {
    struct Row row;
    u32 behind;  // bytes after the target's nine
  } table[] = {
      {{"fnsave", image_fnsave, image_fnsave_end}, 120},   {{"fxsave", image_fxsave, image_fxsave_end}, 360},
      {{"movaps", image_movaps, image_movaps_end}, 10},    {{"movdqa", image_movdqa, image_movdqa_end}, 10},
      {{"movntps", image_movntps, image_movntps_end}, 10}, {{"movntdq", image_movntdq, image_movntdq_end}, 10},
  };
  for (u32 i = 0; i < ARRAY_SIZE(table); i++) {
    for (u32 ring = 0; ring < 4; ring += 3) {
      for (u32 round = 0; round < 3; round++) {
        const u32 size = (u32)(table[i].row.end - table[i].row.code), at = window + 0x100 + round * 0x400;
        memcpy((void*)at, table[i].row.code, size);
        __asm__ volatile("fninit");
        struct Cpu cpu = ring_cpu(ring, (void*)at);
        cpu.edi = at + size - table[i].behind - target_bytes + 1;
        cpu.esi = (u32)source + 4;
        run_cpu(&cpu);
        check_done(table[i].row.what);
        check(table[i].row.what, trap.cpu.ebx, value);
      }
    }
  }
}

// The stack lies on the code: what is pushed is executed next.
STORE(push32, "lea esp, [edi + 4]\n push eax");
STORE(push_imm, "lea esp, [edi + 4]\n push 0x42434445");
STORE(push_m, "lea esp, [edi + 4]\n push dword ptr [esi]");
STORE(push16, "lea esp, [edi + 2]\n push ax");
STORE(pushfd, "lea esp, [edi + 4]\n pushfd");
STORE(push_ds, "lea esp, [edi + 4]\n push ds");
STORE(call_next, "lea esp, [edi + 4]\n call 1f\n 1:");
STORE(call_reg, "lea esp, [edi + 4]\n lea edx, [edi - 1]\n call edx");
STORE(enter0, "lea esp, [edi + 4]\n mov ebp, eax\n enter 0, 0");
STORE(pusha, "lea esp, [edi + 4]\n mov ecx, 0xBB000000\n pushad");
SNIPPET(s_call_back, "jmp 2f\n 1: ret\n 2: lea esp, [edi + 4]\n call 1b\n" TARGET);

static void pushes(void) {
  static const struct Row table[] = {
#define R(name) {#name, s_##name, s_##name##_end}
      R(push32), R(push_imm), R(push_m), R(push16), R(pushfd), R(push_ds), R(call_next), R(call_reg), R(enter0), R(pusha), R(call_back)};
  for (u32 i = 0; i < ARRAY_SIZE(table); i++) {
    for (u32 round = 0; round < 4; round++) {
      // The closing INT pushes, too, in ring 0: there the stack must have room, and the trap frame may overwrite what has been executed.
      const u32 ring = round & 1 ? 3 : 0, target = window + 0x600 + round * 5;
      struct Cpu cpu = place(table[i].code, table[i].end, target, ring);
      run_cpu(&cpu);
      const u32 here = target;
      const u32 want[] = {value, value, value, (old & 0xFFFF0000) | 0x4445, f_fixed, ring ? (u32)user_data : (u32)kernel_data, here, here,
                          value, value, here};
      check_done(table[i].what);
      u32 got = trap.cpu.ebx;
      if (i == 5) got &= 0xFFFF;  // the upper half of a pushed selector may stay as it was
      check(table[i].what, got, want[i]);
    }
  }
}

// INT 30h leads to an IRET. In ring 0 the frame (EIP, CS, EFLAGS) lies on the code, and its EIP is the immediate; CS and EFLAGS are
// executed as `or [eax], al`, `add [eax], al`, `inc edx` (42h: ZF is set)... In ring 3 the stack of the TSS does: SS is the immediate, and the byte before it, the
// opcode, the top of ESP.
SNIPPET(only_iret, "iretd\n");
SNIPPET(int_here, "mov esp, ecx\n int 0x30\n .byte 0xBB, 0x11, 0x11, 0x11, 0x11\n .fill 8, 1, 0x90\n .byte 0\n int 0x80\n");

static void exception_frames(void) {
  static u32 scratch;
  idt[0x30] = gate(kernel_code, (u32)only_iret, 0xEE);
  for (u32 round = 0; round < 4; round++) {
    const u32 at = window + 0x800 + round * 0x40, target = at + 4;
    memcpy((void*)at, int_here, (size_t)(int_here_end - int_here));
    struct Cpu cpu = kernel_cpu((void*)at);
    cpu.eax = (u32)&scratch;
    cpu.ecx = target + 1 + 12;
    cpu.eflags |= f_zf;
    run_cpu(&cpu);
    check_done("ring 0");
    check("ring 0", trap.cpu.ebx, target);

    memcpy((void*)at, int_here, (size_t)(int_here_end - int_here));
    const u32 stack = tss.esp0;
    cpu = user_cpu((void*)at);
    cpu.ecx = 0xBB000000;
    tss.esp0 = target + 5;
    // The closing INT 80h needs the real stack again: the code puts it back into the TSS.
    u8* closing = (u8*)(target + 5);
    closing[0] = 0xA3;  // mov [moffs32], eax
    *(u32*)(closing + 1) = (u32)&tss.esp0;
    closing[5] = 0xCD;
    closing[6] = 0x80;
    cpu.eax = stack;
    run_cpu(&cpu);
    check_done("ring 3");
    check("ring 3", trap.cpu.ebx, user_data);
    tss.esp0 = stack;
  }
}

STORE(insb, "mov edx, 0x21\n insb");
STORE(rep_insb, "mov edx, 0x21\n mov ecx, 4\n rep insb");

static void string_io(void) {
  outb(0x21, 0xDB);  // the mask register of the first 8259 reads back
  static const struct Row table[] = {R(insb), R(rep_insb)};
  for (u32 i = 0; i < 2; i++) {
    for (u32 round = 0; round < 4; round++) {
      struct Cpu cpu = place(table[i].code, table[i].end, window + 0x900 + round, round & 1 ? 3 : 0);
      cpu.eflags |= f_iopl;
      run_cpu(&cpu);
      check_done(table[i].what);
      check(table[i].what, trap.cpu.ebx, i == 0 ? (old & 0xFFFFFF00) | 0xDB : 0xDBDBDBDB);
    }
  }
  outb(0x21, 0xFF);
}

// The code from the third NOP on is a descriptor of the LDT: limit 9090h, base ..BB90h; its upper half is the immediate.
SNIPPET(load_fs_here, "mov fs, eax\n nop\n nop\n nop\n .byte 0xBB, 0x00, 0xF2, 0x40, 0x00\n int 0x80\n");
SNIPPET(load_ldt_far, "mov fs, eax\n jmp edi\n");

static void accessed_bits(void) {
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 round = 0; round < 4; round++) {
      const u32 at = window + 0xA00 + round * 0x20, head = (u32)(load_fs_here_end - load_fs_here) - 10;
      memcpy((void*)at, load_fs_here, (size_t)(load_fs_here_end - load_fs_here));
      gdt[slot / 8] = descriptor(at + head, 7, 0x82, 0);
      load_ldt(slot);
      struct Cpu cpu = ring_cpu(ring, round & 1 ? (void*)load_ldt_far : (void*)at);
      cpu.eax = 4 | ring;
      cpu.edi = at + head;
      if (round & 1) {
        // Once before, so that it is known code.
        struct Cpu first = ring_cpu(ring, (void*)(at + head));
        run_cpu(&first);
        check("before", trap.cpu.ebx, 0x0040F200);
      }
      run_cpu(&cpu);
      check_done("accessed bit");
      check("accessed bit", trap.cpu.ebx, 0x0040F300);
    }
  }
  load_ldt(0);
}

// A repeated string instruction that overwrites itself, and what stands behind it, with what is there already up to the target: whenever
// the processor takes notice, the result is the same.
SNIPPET(movs_over_itself, "1: rep movsb\n" TARGET);
SNIPPET(stos_up_to_itself, "rep stosb\n .fill 4, 1, 0x90\n" TARGET);

static void repeated_strings(void) {
  static u8 image[64];
  for (u32 round = 0; round < 8; round++) {
    const u32 at = window + (round & 2 ? page_bytes - 4 : 0xB00), size = (u32)(movs_over_itself_end - movs_over_itself);
    memcpy((void*)at, movs_over_itself, size);
    memcpy(image, movs_over_itself, size);
    *(u32*)(image + 3) = value + round;
    struct Cpu cpu = ring_cpu(round & 1 ? 3 : 0, (void*)at);
    cpu.esi = (u32)image;
    cpu.edi = at;
    cpu.ecx = size;
    run_cpu(&cpu);
    check_done("rep movs");
    check("rep movs", trap.cpu.ebx, value + round);
    check("all of it", trap.cpu.ecx, 0);
    check("edi", trap.cpu.edi, at + size);

    // Backwards, down to itself.
    const u32 stos = window + 0xC00;
    memcpy((void*)stos, stos_up_to_itself, (size_t)(stos_up_to_itself_end - stos_up_to_itself));
    cpu = ring_cpu(round & 1 ? 3 : 0, (void*)stos);
    cpu.eax = 0x40 + (round & 1);  // inc eax, inc ecx
    cpu.edi = stos + 5;
    cpu.ecx = 4;
    cpu.eflags |= f_df;
    run_cpu(&cpu);
    check_done("rep stos");
    check("rep stos", (round & 1 ? trap.cpu.ecx : trap.cpu.eax - 0x40), 4);
  }
}

void guest_main(void) {
  descriptors_init();
  pages = new_pages(4);
  space = new_space(false);
  for (u32 i = 0; i < 4; i++) map(&space, window + i * page_bytes, (pages + i * page_bytes) | p_present | p_write | p_user);
  use_space(&space);
  write_cr4(read_cr4() | cr4_osfxsr);
  group("stores");
  every_store(false);
  group("stores across a page border");
  every_store(true);
  group("images");
  images();
  group("pushes");
  pushes();
  group("exception frames");
  exception_frames();
  group("string I/O");
  string_io();
  group("accessed bits");
  accessed_bits();
  group("repeated strings");
  repeated_strings();
  finish();
}
