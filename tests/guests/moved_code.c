// The same physical pages of code at one linear address after the other, as programs with address-space randomization have them: in one
// address space and in others, with the old place gone and with it still there, with kernel and user code. What depends on the address
// must be right at each: return addresses, jumps into the next page, the EIP of faults, the x87 instruction pointer. Code that is written
// at one place has changed at all others.
//
// moved: 1000
// qemu: deviates in "in a segment with a limit" (it checks no limit of CS)
//
// expect:
//   the old place is gone: ok
//   old and new place in use: ok
//   other address spaces: ok
//   written after it moved: ok
//   near the ends of linear space: ok
//   in a segment with a limit: ok
//   PAE: the old place is gone: ok
//   PAE: old and new place in use: ok
//   PAE: other address spaces: ok
//   PAE: written after it moved: ok
//   PAE: near the ends of linear space: ok
//   PAE: in a segment with a limit: ok
// end
#include "lib/guest.h"

enum { open = p_present | p_write | p_user };
static struct Space space;
static u32 first_frame, second_frame;
static u8 environment[28];

// At offset 0 of the first page; a function in the second page is called through its own address, 1000h further on.
SNIPPET(code,
        "fninit\nxor eax, eax\nmov ecx, 20\n"
        "1: call 2f\ndec ecx\njnz 1b\n"
        "call 3f\n" LABEL(code_return) "3: pop edx\n"
        "fld1\n" LABEL(code_fp) "fstp st(0)\nfnstenv [edi]\n"
        LABEL(code_over) "call 4f + 0x1000 - (4f - 5f)\n"
        "call 6f\n" LABEL(code_second) "6: pop esi\njmp 7f\n"
        "2: inc eax\ncmp eax, 7\njne 8f\nadd eax, 100\n8: ret\n"
        "7: .rept 3\nnop\n.endr\nint 0x80\n"
        "5: 4:\n");
extern const u8 code_return[], code_fp[], code_second[], code_over[];
// At the end of the first page's code there is nothing: its `call` lands at code_end + 1000h.
SNIPPET(second_code, "mov ebx, 0x77\ncall 1f\n1: pop ebp\nret\n");
SNIPPET(fault_codes, "mov eax, [esi]\nud2\ndiv ecx\ncli\n");

static void put_code(void) {
  memcpy((void*)first_frame, code, (u32)(code_end - code));
  memcpy((void*)(second_frame + (u32)(code_end - code)), second_code, (u32)(second_code_end - second_code));
  memcpy((void*)(first_frame + 0x800), fault_codes, (u32)(fault_codes_end - fault_codes));
}

static void show(const struct Space* in, u32 at) {
  map(in, at, first_frame | open);
  map(in, at + 4096, second_frame | open);
  invlpg(at);
  invlpg(at + 4096);
}
static void hide(const struct Space* in, u32 at) {
  set_pte(in, at, 0);
  set_pte(in, at + 4096, 0);
  invlpg(at);
  invlpg(at + 4096);
}

static void run_one(u32 ring, u32 at) {
  struct Cpu cpu = ring_cpu(ring, (void*)at);
  cpu.edi = (u32)environment;
  run_cpu(&cpu);
  check_done("runs");
  check("eip", trap.cpu.eip, at + (u32)(code_end - code));
  check("eax", trap.cpu.eax, 120);
  check("return address", trap.cpu.edx, at + (u32)(code_return - code));
  check("behind the call to the next page", trap.cpu.esi, at + (u32)(code_second - code));
  check("from the next page", trap.cpu.ebx, 0x77);
  check("return address there", trap.cpu.ebp, at + 4096 + (u32)(code_end - code) + 10);
  check("esp", trap.cpu.esp, cpu.esp);
  check("FIP", read32((u32)environment + 12), at + (u32)(code_fp - code));

  static const struct { u32 offset, vector; } faults[] = {{0, v_page}, {2, v_opcode}, {4, v_divide}, {6, v_protection}};
  for (u32 i = 0; i < ARRAY_SIZE(faults); i++) {
    if (ring == 0 && faults[i].vector == v_protection) continue;  // CLI is allowed
    cpu = ring_cpu(ring, (void*)(at + 0x800 + faults[i].offset));
    cpu.esi = 0x30000000;
    run_cpu(&cpu);
    const u32 error = faults[i].vector == v_page && ring == 3 ? 4 : 0;
    check_trap("a fault", faults[i].vector, error, (void*)(at + 0x800 + faults[i].offset));
  }
}

static u32 place(u32 n) { return 0x40000000 + n * 0x00357000; }

static void gone(void) {
  for (u32 n = 0; n < 24; n++) {
    show(&space, place(n));
    run_one(n & 1 ? 3 : 0, place(n));
    run_one(n & 1 ? 0 : 3, place(n));
    run_one(3, place(n));
    hide(&space, place(n));
    struct Cpu cpu = ring_cpu(3, (void*)place(n));
    run_cpu(&cpu);
    check_page_fault("nothing is left at the old place", 4, place(n), (void*)place(n));
  }
}

static void both(void) {
  for (u32 n = 0; n < 12; n++) {
    show(&space, place(n));
    run_one(3, place(n));
    if (n >= 3) {
      run_one(3, place(n - 1));
      run_one(0, place(n - 2));
      run_one(3, place(n));
      if (n % 2 == 0)
        hide(&space, place(n - 3));
      else
        run_one(3, place(n - 3));
    }
  }
  for (u32 n = 0; n < 12; n++) hide(&space, place(n));
}

static void others(void) {
  struct Space spaces[4];
  for (u32 i = 0; i < ARRAY_SIZE(spaces); i++) {
    spaces[i] = new_space(space.pae);
    show(&spaces[i], place(30 + i));
  }
  for (u32 round = 0; round < 6; round++) {
    for (u32 i = 0; i < ARRAY_SIZE(spaces); i++) {
      u32 at = place(30 + i + 4 * round);
      use_space(&spaces[i]);
      run_one(3, at);
      if (round % 2 == 0) {
        hide(&spaces[i], at);
        show(&spaces[i], at + 4 * 0x00357000);
        run_one(3, at + 4 * 0x00357000);
      } else {
        show(&spaces[i], at + 4 * 0x00357000);
        run_one(0, at);
      }
    }
  }
  use_space(&space);
}

static void written(void) {
  const u32 constant = (u32)(code_end - code) + 1;  // of `mov ebx, 0x77`
  for (u32 n = 0; n < 12; n++) {
    show(&space, place(60 + n));
    run_one(3, place(60 + n));
    // Through the frame's own address.
    ((u8*)second_frame)[constant] = (u8)(0x10 + n);
    struct Cpu cpu = ring_cpu(3, (void*)place(60 + n));
    cpu.edi = (u32)environment;
    run_cpu(&cpu);
    check_done("runs");
    check("new code", trap.cpu.ebx, 0x10 + n);
    if (n & 1) {
      hide(&space, place(60 + n));
      show(&space, place(90 + n));
      cpu = ring_cpu(3, (void*)place(90 + n));
      cpu.edi = (u32)environment;
      run_cpu(&cpu);
      check("new code elsewhere", trap.cpu.ebx, 0x10 + n);
      hide(&space, place(90 + n));
    }
    ((u8*)second_frame)[constant] = 0x77;
    hide(&space, place(60 + n));
  }
}

static void ends(void) {
  static const u32 places[] = {0x0FFFE000, 0x40000000, 0x0F000000, 0xEFFFE000, 0xF0000000, 0x70000000, 0xFFF00000, 0x10000000, 0x80000000};
  for (u32 n = 0; n < 2 * ARRAY_SIZE(places); n++) {
    u32 at = places[n % ARRAY_SIZE(places)];
    show(&space, at);
    run_one(3, at);
    run_one(0, at);
    hide(&space, at);
  }
}

// A code segment that ends behind the first page at the second place: there the call to the next page is over the limit.
static void limited(void) {
  enum { slot = 0x80 };
  for (u32 n = 0; n < 6; n++) {
    const u32 inside = place(2 * n), border = place(2 * n + 1);
    gdt[slot / 8] = descriptor(0, border >> 12, 0x9B, 0xC);
    for (u32 i = 0; i < 2; i++) {
      const u32 at = i == 0 ? inside : border;
      show(&space, at);
      struct Cpu cpu = ring_cpu(0, (void*)at);
      cpu.cs = slot;
      cpu.edi = (u32)environment;
      run_cpu(&cpu);
      if (i == 0)
        check("from the next page", trap.cpu.ebx, 0x77);
      else
        check_trap("over the limit", v_protection, 0, (void*)(at + (u32)(code_over - code)));
      hide(&space, at);
    }
  }
}

static void all(bool pae) {
  space = new_space(pae);
  first_frame = new_page();
  second_frame = new_page();
  put_code();
  use_space(&space);
  group(pae ? "PAE: the old place is gone" : "the old place is gone");
  gone();
  group(pae ? "PAE: old and new place in use" : "old and new place in use");
  both();
  group(pae ? "PAE: other address spaces" : "other address spaces");
  others();
  group(pae ? "PAE: written after it moved" : "written after it moved");
  written();
  group(pae ? "PAE: near the ends of linear space" : "near the ends of linear space");
  ends();
  group(pae ? "PAE: in a segment with a limit" : "in a segment with a limit");
  limited();
}

void guest_main(void) {
  descriptors_init();
  all(false);
  all(true);
}
