// Self-modifying code: a store must be seen by the very next instruction of the same processor after a jump, and on every processor
// since the Pentium also without one (SDM vol. 3, 8.1.3 asks for a jump or a serializing instruction only in cross-modifying code and
// recommends one here; P6 and later snoop the pipeline by linear address and, for aliases, by physical address: vol. 3, 11.6).
// Kinds: next instruction, same block, other block, alias mapping, data on a code page; and by rep movs into itself.
//
// expect:
//   next instruction: ok
//   same block: ok
//   loop that patches itself: ok
//   other block: ok
//   alias mapping: ok
//   data on a code page: ok
//   repeated strings: ok
//   every kind of store: ok
//   page borders: ok
//   from ring 3 and ring 0: ok
//   remapped: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, alias = 0x50000000 };
static struct Space space;
static u32 pages;  // four physical pages, mapped at `window` and again at `alias`

// Copies a snippet to `address` and runs it from there.
static void run_at(u32 address, const u8* code, const u8* end, struct Cpu cpu) {
  memcpy((void*)address, code, (size_t)(end - code));
  cpu.eip = address;
  run_cpu(&cpu);
}
#define RUN_AT(address, snippet, cpu) run_at(address, snippet, snippet##_end, cpu)

static struct Cpu either(u32 ring0) { return ring0 ? kernel_cpu(NULL) : user_cpu(NULL); }

// `mov byte ptr [next + 1], 42` where next is `mov al, 1`.
SNIPPET(patch_next, "call 1f\n1: pop ebx\nxor eax, eax\nmov byte ptr [ebx + (2f - 1b) + 1], 42\n2: mov al, 1\n" DONE);
SNIPPET(patch_next_opcode, "call 1f\n1: pop ebx\nxor eax, eax\nmov byte ptr [ebx + (2f - 1b)], 0x90\n2: inc eax\n" DONE);

static void next_instruction(void) {
  for (u32 i = 0; i < 6; i++) {
    RUN_AT(window, patch_next, either(i & 1));
    check_done("immediate");
    check("immediate", trap.cpu.eax, 42);
    RUN_AT(window, patch_next_opcode, either(i & 1));
    check("opcode", trap.cpu.eax, 0);
  }
}

SNIPPET(patch_same,
        "call 1f\n1: pop ebx\nxor eax, eax\nmov byte ptr [ebx + (2f - 1b) + 1], 42\nadd ecx, 1\nadd edx, ecx\nlea esi, [ecx + 5]\n"
        "2: mov al, 1\n" DONE);
SNIPPET(patch_behind,
        "call 1f\n1: pop ebx\nxor ecx, ecx\n2: mov al, 1\nmov byte ptr [ebx + (2b - 1b) + 1], 42\ninc ecx\ncmp ecx, 2\njb 2b\n" DONE);

static void same_block(void) {
  for (u32 i = 0; i < 6; i++) {
    RUN_AT(window, patch_same, either(i & 1));
    check("later in the block", trap.cpu.eax, 42);
    check("between", trap.cpu.esi, 6);
    RUN_AT(window, patch_behind, either(i & 1));
    check("earlier in the block", trap.cpu.eax & 0xFF, 42);
  }
}

// Each turn adds the immediate and then increments it in place: the sum of 0..999.
SNIPPET(patch_loop,
        "call 1f\n1: pop ebx\nmov ecx, 1000\nxor eax, eax\n2: .byte 0x05, 0, 0, 0, 0\ninc dword ptr [ebx + (2b - 1b) + 1]\ndec ecx\njnz "
        "2b\n" DONE);
// The same with the modified instruction ahead of the store.
SNIPPET(patch_loop_ahead,
        "call 1f\n1: pop ebx\nmov ecx, 1000\nxor eax, eax\n2: inc dword ptr [ebx + (3f - 1b) + 1]\n3: .byte 0x05, 0, 0, 0, 0\ndec ecx\njnz "
        "2b\n" DONE);
// Flips between `inc eax` and `dec eax`.
SNIPPET(patch_flip,
        "call 1f\n1: pop ebx\nmov ecx, 1001\nmov eax, 50\n2: xor byte ptr [ebx + (3f - 1b)], 8\n3: inc eax\ndec ecx\njnz 2b\n" DONE);

static void patch_loops(void) {
  for (u32 i = 0; i < 2; i++) {
    RUN_AT(window, patch_loop, either(i));
    check("sum behind", trap.cpu.eax, 499500);
    RUN_AT(window, patch_loop_ahead, either(i));
    check("sum ahead", trap.cpu.eax, 500500);
    RUN_AT(window, patch_flip, either(i));
    check("flip", trap.cpu.eax, 49);
  }
}

// `function` at +0x800 is patched by its caller between calls; both lie in the same page, then in different ones.
SNIPPET(call_patched, "xor eax, eax\nmov ecx, 500\n1: call esi\nmov dword ptr [esi + 1], ecx\ndec ecx\njnz 1b\n" DONE);
SNIPPET(function, ".byte 0x05, 0, 0, 0, 0\nret\n");

static void other_block(u32 function_at, const char* what) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    memcpy((void*)function_at, function, (size_t)(function_end - function));
    struct Cpu cpu = either(ring0);
    cpu.esi = function_at;
    RUN_AT(window, call_patched, cpu);
    check_done(what);
    check(what, trap.cpu.eax, 500 * 501 / 2 - 1);
  }
}

SNIPPET(call_alias, "xor eax, eax\nmov ecx, 500\n1: call esi\nmov dword ptr [edi + 1], ecx\ndec ecx\njnz 1b\n" DONE);
SNIPPET(patch_self_alias, "xor eax, eax\nmov byte ptr [edi], 42\n.byte 0xB0, 1\n" DONE);

static void alias_mapping(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 target = window + 0x800; target <= window + 0x1800; target += 0x1000) {
      memcpy((void*)target, function, (size_t)(function_end - function));
      struct Cpu cpu = either(ring0);
      cpu.esi = target;
      cpu.edi = target - window + alias;
      RUN_AT(window, call_alias, cpu);
      check_done("function through an alias");
      check("function through an alias", trap.cpu.eax, 500 * 501 / 2 - 1);
      // And by its physical address, which is identity-mapped.
      cpu.edi = target - window + pages;
      memcpy((void*)target, function, (size_t)(function_end - function));
      RUN_AT(window, call_alias, cpu);
      check("function through its physical address", trap.cpu.eax, 500 * 501 / 2 - 1);
    }
    // The next instruction, through the alias.
    struct Cpu cpu = either(ring0);
    u32 immediate = (u32)(patch_self_alias_end - patch_self_alias) - 3;
    cpu.edi = alias + immediate;
    RUN_AT(window, patch_self_alias, cpu);
    check("next instruction through an alias", trap.cpu.eax, 42);
    // The same code run at both addresses, patched at one.
    for (u32 i = 0; i < 4; i++) {
      memcpy((void*)(window + 0x400), function, (size_t)(function_end - function));
      ((u8*)window)[0x405] = 0xCD;
      ((u8*)window)[0x406] = 0x80;
      write32((i & 1 ? alias : window) + 0x401, i + 7);
      for (u32 at = 0; at < 2; at++) {
        struct Cpu c = either(ring0);
        c.eip = (at ? alias : window) + 0x400;
        run_cpu(&c);
        check("both addresses see it", trap.cpu.eax, i + 7);
      }
    }
  }
}

SNIPPET(counter_on_page,
        "call 1f\n1: pop ebx\nmov ecx, 3000\n2: inc dword ptr [ebx + 0x600]\nadd dword ptr [ebx + 0x604], 3\npush ecx\npop edx\n"
        "mov eax, [ebx + 0x600]\nmov [ebx + 0x608], eax\ndec ecx\njnz 2b\n" DONE);

static void data_on_code_page(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = either(ring0);
    cpu.esp = window + 0xF00;  // the stack too
    write32(window + 0x605, 0);
    write32(window + 0x609, 0);
    write32(window + 0x60D, 0);
    RUN_AT(window, counter_on_page, cpu);
    check_done("counter");
    check("counter", read32(window + 0x605), 3000);
    check("sum", read32(window + 0x609), 9000);
    check("copy", read32(window + 0x60D), 3000);
  }
}

// rep movs copies new code over what follows it; rep stos fills ahead with `inc eax`.
SNIPPET(movs_over, "mov ecx, 5\ncld\nrep movsb\nmov eax, 1\n" DONE);
SNIPPET(stos_ahead, "mov ecx, 16\nmov al, 0x40\ncld\nrep stosb\nmov eax, 0\n.fill 16, 1, 0x90\n" DONE);
// Over itself: the first bytes written replace the REP MOVS. Its remaining turns and what comes after depend on when the processor
// notices; the copied bytes are equal to the old ones up to the closing instructions, so every order gives the same end.
SNIPPET(movs_self, "mov ecx, 32\ncld\n1: rep movsb\nmov eax, 1\n" DONE ".fill 32, 1, 0x90\n");

static void repeated_strings(void) {
  static const u8 replacement[] = {0xB8, 42, 0, 0, 0};
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    struct Cpu cpu = either(ring0);
    cpu.esi = (u32)replacement;
    cpu.edi = window + 8;
    RUN_AT(window, movs_over, cpu);
    check_done("rep movs over the next instruction");
    check("rep movs over the next instruction", trap.cpu.eax, 42);
    check("ecx", trap.cpu.ecx, 0);

    cpu = either(ring0);
    cpu.edi = window + (u32)(stos_ahead_end - stos_ahead) - 2 - 16;
    RUN_AT(window, stos_ahead, cpu);
    check("rep stos ahead", trap.cpu.eax, 16);

    static u8 image[64];
    memcpy(image, movs_self, sizeof(image));
    image[9] = 42;  // mov eax, 42
    cpu = either(ring0);
    cpu.esi = (u32)image + 6;
    cpu.edi = window + 6;
    RUN_AT(window, movs_self, cpu);
    check_done("rep movs over itself");
    check("rep movs over itself", trap.cpu.eax, 42);
  }
}

// Each store writes the dword 0x00000042 (or more of it) over the immediate of `mov eax, imm32` that follows at `edi`.
struct Store {
  const char* what;
  const u8 *code, *end;
};
#define STORE(name, text) SNIPPET(store_##name, text "jmp ebx\n")
STORE(mov, "mov [edi], eax\n");
STORE(bytes, "mov [edi], al\nmov byte ptr [edi + 1], 0\n");
STORE(word, "mov [edi], ax\n");
STORE(add, "add [edi], eax\n");
STORE(xchg, "xchg [edi], eax\n");
STORE(lock_xadd, "lock xadd [edi], eax\n");
STORE(cmpxchg, "mov edx, eax\nxor eax, eax\nlock cmpxchg [edi], edx\n");
STORE(push, "mov ecx, esp\nlea esp, [edi + 4]\npush eax\nmov esp, ecx\n");
STORE(pop, "push eax\npop dword ptr [edi]\n");
STORE(stos, "cld\nstosd\n");
STORE(movs, "push eax\nmov esi, esp\ncld\nmovsd\npop eax\n");
STORE(rep_stos, "cld\nmov ecx, 1\nrep stosd\n");
STORE(set, "or al, al\nmov byte ptr [edi], 0x41\nsetnz dl\nadd [edi], dl\n");
STORE(shl, "mov byte ptr [edi], 0x21\nshl dword ptr [edi], 1\n");
STORE(bts, "bts dword ptr [edi], 6\nbts dword ptr [edi], 1\n");
STORE(not_, "not eax\nmov [edi], eax\nnot dword ptr [edi]\n");
STORE(fist, "push eax\nfild dword ptr [esp]\nfistp dword ptr [edi]\npop eax\n");
STORE(movd, "movd xmm0, eax\nmovd [edi], xmm0\n");
STORE(movss, "push eax\nmovss xmm1, [esp]\nmovss [edi], xmm1\npop eax\n");

static const struct Store stores[] = {
#define ROW(name) \
  { #name, store_##name, store_##name##_end }
    ROW(mov),  ROW(bytes), ROW(word), ROW(add),      ROW(xchg), ROW(lock_xadd), ROW(cmpxchg), ROW(push), ROW(pop),  ROW(stos),
    ROW(movs), ROW(set),   ROW(shl),  ROW(rep_stos), ROW(bts),  ROW(not_),      ROW(fist),    ROW(movd), ROW(movss)};

static void every_store(void) {
  for (u32 i = 0; i < ARRAY_SIZE(stores); i++) {
    for (u32 round = 0; round < 4; round++) {
      // The target was executed before it is patched, so that it is translated; same page or another one.
      u32 target = window + (round & 1 ? 0x1400 : 0x400);
      u8* code = (u8*)target;
      code[0] = 0xB8;
      memset(code + 1, 0, 4);
      code[5] = 0xCD;
      code[6] = 0x80;
      struct Cpu cpu = either(round >> 1);
      cpu.eip = target;
      run_cpu(&cpu);
      check("before", trap.cpu.eax, 0);
      cpu = either(round >> 1);
      cpu.eax = 0x42;
      cpu.edi = target + 1;
      cpu.ebx = target;
      run_at(window, stores[i].code, stores[i].end, cpu);
      check_done(stores[i].what);
      check(stores[i].what, trap.cpu.eax, 0x42);
    }
  }
}

// An instruction that lies across two pages, patched in either half; and a store that crosses from data into code.
static void page_borders(void) {
  for (u32 ring0 = 0; ring0 < 2; ring0++) {
    for (u32 split = 1; split <= 4; split++) {
      u32 at = window + 0x1000 - split;
      u8* code = (u8*)at;
      static const u8 text[] = {0xB8, 0x11, 0x22, 0x33, 0x44, 0xCD, 0x80};
      memcpy(code, text, sizeof(text));
      struct Cpu cpu = either(ring0);
      cpu.eip = at;
      run_cpu(&cpu);
      check("across pages", trap.cpu.eax, 0x44332211);
      code[4] = 0x55;
      run_cpu(&cpu);
      check("second half patched", trap.cpu.eax, 0x55332211);
      if (split > 1) {
        code[1] = 0x77;
        run_cpu(&cpu);
        check("first half patched", trap.cpu.eax, 0x55332277);
      }
      write32(at + 1, 0x01020304);
      run_cpu(&cpu);
      check("all at once", trap.cpu.eax, 0x01020304);
      ((u8*)(alias + 0x1000 - split))[4] = 0x66;
      run_cpu(&cpu);
      check("second half through the alias", trap.cpu.eax, 0x66020304);
      // The second page is exchanged for another one.
      u32 fresh = new_page();
      memcpy((void*)fresh, (void*)(window + 0x1000), 16);
      ((u8*)fresh)[4 - split] = 0x99;
      u64 old = get_pte(&space, window + 0x1000);
      set_pte(&space, window + 0x1000, fresh | p_present | p_write | p_user);
      invlpg(window + 0x1000);
      run_cpu(&cpu);
      check("second page remapped", trap.cpu.eax, 0x99020304);
      set_pte(&space, window + 0x1000, old);
      invlpg(window + 0x1000);
      run_cpu(&cpu);
      check("and back", trap.cpu.eax, 0x66020304);
    }
  }
}

SNIPPET(poke, "mov [edi], eax\n" DONE);

// Ring 3 runs it, ring 0 patches it, and the other way round.
static void both_rings(void) {
  u8* code = (u8*)(window + 0x200);
  code[0] = 0xB8;
  code[5] = 0xCD;
  code[6] = 0x80;
  for (u32 i = 0; i < 200; i++) {
    struct Cpu cpu = either(i & 1);
    cpu.eip = (u32)poke;
    cpu.edi = window + 0x201;
    cpu.eax = i * 0x01010101;
    run_cpu(&cpu);
    cpu = either((i >> 1) & 1);
    cpu.eip = window + 0x200;
    run_cpu(&cpu);
    check("poked", trap.cpu.eax, i * 0x01010101);
  }
}

// The same linear page, other physical pages with other code, many times; old pages come back with changed code.
static void remapped(void) {
  u32 frames[8];
  for (u32 i = 0; i < 8; i++) {
    frames[i] = new_page();
    u8* code = (u8*)frames[i];
    code[0] = 0xB8;
    code[1] = (u8)i;
    code[5] = 0xCD;
    code[6] = 0x80;
  }
  u64 old = get_pte(&space, window);
  for (u32 i = 0; i < 400; i++) {
    u32 n = (i * 5 + i / 8) & 7;
    set_pte(&space, window, frames[n] | p_present | p_write | p_user);
    invlpg(window);
    if (i % 3 == 0) ((u8*)frames[n])[2] = (u8)i;
    if (i % 7 == 0) ((u8*)window)[3] = (u8)i;
    struct Cpu cpu = either(i >> 1 & 1);
    cpu.eip = window;
    run_cpu(&cpu);
    check("remapped", trap.cpu.eax, read32(frames[n] + 1));
  }
  set_pte(&space, window, old);
  invlpg(window);
}

void guest_main(void) {
  descriptors_init();
  space = new_space(false);
  pages = new_pages(4);
  for (u32 i = 0; i < 4 * page_bytes; i += page_bytes) {
    map(&space, window + i, (pages + i) | p_present | p_write | p_user);
    map(&space, alias + i, (pages + i) | p_present | p_write | p_user);
  }
  use_space(&space);
  write_cr4(read_cr4() | cr4_osfxsr);
  __asm__ volatile("fninit");
  group("next instruction");
  next_instruction();
  group("same block");
  same_block();
  group("loop that patches itself");
  patch_loops();
  group("other block");
  other_block(window + 0x800, "same page");
  other_block(window + 0x1800, "other page");
  group("alias mapping");
  alias_mapping();
  group("data on a code page");
  data_on_code_page();
  group("repeated strings");
  repeated_strings();
  group("every kind of store");
  every_store();
  group("page borders");
  page_borders();
  group("from ring 3 and ring 0");
  both_rings();
  group("remapped");
  remapped();
  finish();
}
