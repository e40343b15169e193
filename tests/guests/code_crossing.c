// Code across page borders: an instruction whose second half is absent faults at the second page, with EIP at its start, and goes on
// after the page was brought in; blocks that run over a border; code reached at the last byte of a page (SDM vol. 3, 4.7 on CR2).
//
// expect:
//   second half absent: ok
//   second half not executable: ok
//   next instruction absent: ok
//   mended and continued: ok
//   jumps at the border: ok
//   instruction lengths: ok
//   not accessed before it executes: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, border = window + 0x1000, open_page = p_present | p_write | p_user };
static struct Space space;
static u32 first_page, second_page;

// mov eax, 0x44332211 (with prefixes up to 10 bytes); inc ebx; int 0x80
static const u8 text[] = {0x2E, 0x3E, 0x36, 0x26, 0x64, 0xB8, 0x11, 0x22, 0x33, 0x44, 0x43, 0xCD, 0x80};
enum { long_length = 10 };

// The text, so that its first instruction begins `before` bytes ahead of the border.
static void place(u32 before) {
  for (u32 i = 0; i < sizeof(text); i++) {
    u32 at = page_bytes - before + i;
    ((u8*)(at < page_bytes ? first_page : second_page - page_bytes))[at] = text[i];
  }
}

static void set_second(u64 flags) {
  map(&space, border, flags ? second_page | flags : 0);
  use_space(&space);
}

static void halves(bool pae) {
  for (u32 before = 1; before < long_length; before++) {
    for (u32 ring0 = 0; ring0 < 2; ring0++) {
      place(before);
      set_second(0);
      struct Cpu cpu = ring0 ? kernel_cpu((u8*)(border - before)) : user_cpu((u8*)(border - before));
      cpu.eax = 0x99;
      u32 user = ring0 ? 0 : 4, fetch = pae ? 16 : 0;
      run_cpu(&cpu);
      check_page_fault("absent", user | fetch, border, (u8*)(border - before));
      check("eax kept", trap.cpu.eax, 0x99);
      if (pae) {
        set_second(open_page | P_NX);
        run_cpu(&cpu);
        check_page_fault("not executable", 1 | user | fetch, border, (u8*)(border - before));
      }
      if (!ring0) {
        set_second(p_present);
        run_cpu(&cpu);
        check_page_fault("supervisor page", 5 | fetch, border, (u8*)(border - before));
      }
      set_second(open_page);
      run_cpu(&cpu);
      check_done("present");
      check("eax", trap.cpu.eax, 0x44332211);
      check("ebx", trap.cpu.ebx, 1);
      set_second(p_present | p_user);
      run_cpu(&cpu);
      check_done("read-only is enough");
    }
  }
}

static void next_absent(void) {
  for (u32 extra = 0; extra < 2; extra++) {
    place(long_length + extra);
    set_second(0);
    struct Cpu cpu = user_cpu((u8*)(border - long_length - extra));
    run_cpu(&cpu);
    check_page_fault("next page", 4, border, (u8*)border);
    check("the instruction was done", trap.cpu.eax, 0x44332211);
    check("and the one after", trap.cpu.ebx, extra);
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

static void continued(void) {
  set_hook(v_page, mend);
  for (u32 before = 0; before <= long_length; before++) {
    place(before);
    map(&space, border, second_page | p_write | p_user);
    map(&space, window, first_page | p_write | p_user);
    use_space(&space);
    mended = 0;
    struct Cpu cpu = user_cpu((u8*)(border - before));
    run_cpu(&cpu);
    check_done("continued");
    check("eax", trap.cpu.eax, 0x44332211);
    check("faults", mended, before ? 2 : 1);
  }
  set_hook(v_page, NULL);
}

// A ring of one-page hops: each page jumps to the next, whose code counts; jumps lie across the border at every offset.
static void jumps(void) {
  set_second(open_page);
  for (u32 before = 0; before <= 5; before++) {
    for (u32 form = 0; form < 3; form++) {
      static const u8 forms[3][6] = {{0xE9, 0, 0, 0, 0}, {0x0F, 0x85, 0, 0, 0, 0}, {0xE8, 0, 0, 0, 0}};
      static const u8 lengths[3] = {5, 6, 5};
      u32 start = border - before, after = start + lengths[form];
      u32 back = window + 0x100;
      u8* to = (u8*)start;
      memcpy(to, forms[form], lengths[form]);
      i32 distance = (i32)(back - after);
      memcpy(to + lengths[form] - 4, &distance, 4);
      to[lengths[form]] = 0xCD;
      to[lengths[form] + 1] = 0x80;
      // At 100h: inc ebx; dec ecx; then for the jump: jmp start (or int 0x80 at the end); for the call: ret.
      u8* landing = (u8*)back;
      u32 n = 0;
      landing[n++] = 0x43;  // inc ebx
      landing[n++] = 0x49;  // dec ecx
      if (form == 2) {
        landing[n++] = 0xC3;
      } else {
        landing[n++] = 0x74;  // jz over the jump
        landing[n++] = 5;
        landing[n++] = 0xE9;
        i32 forth = (i32)(start - (back + n + 4));
        memcpy(landing + n, &forth, 4);
        n += 4;
        landing[n++] = 0xCD;
        landing[n++] = 0x80;
      }
      struct Cpu cpu = user_cpu((u8*)start);
      cpu.ecx = 50;
      run_cpu(&cpu);
      check_done("jump across the border");
      check("turns", trap.cpu.ebx, form == 2 ? 1 : 50);
    }
  }
}

// 15 bytes are the longest instruction; 16 are #GP(0), or a page fault if the bytes after the 15th cannot be... they are never fetched.
static void lengths(void) {
  set_second(open_page);
  u8* code = (u8*)(border - 16);
  memset(code, 0x2E, 14);
  code[14] = 0x40;  // inc eax, 15 bytes
  code[15] = 0xCD;
  ((u8*)border)[0] = 0x80;
  struct Cpu cpu = user_cpu(code);
  run_cpu(&cpu);
  check_done("15 bytes");
  check("eax", trap.cpu.eax, 1);
  memset(code, 0x2E, 15);
  code[15] = 0x40;
  run_cpu(&cpu);
  check_trap("16 bytes", v_protection, 0, code);
  // 15 prefixes up to the border: the sixteenth byte lies on an absent page, but the limit is passed first.
  code = (u8*)(border - 15);
  memset(code, 0x2E, 15);
  set_second(0);
  cpu = user_cpu(code);
  run_cpu(&cpu);
  check("15 prefixes at the border: fault", trap.vector == v_protection || trap.vector == v_page, 1);
  check("at the instruction", trap.cpu.eip, (u32)code);
  // 15 bytes that end at the border are whole.
  memset(code, 0x2E, 14);
  code[14] = 0x40;
  run_cpu(&cpu);
  check_page_fault("15 bytes, then the absent page", 4, border, (u8*)border);
  check("eax", trap.cpu.eax, 1);
}

// mov eax, [0], which faults; then an instruction that reaches into the second page. The second page's code was not used.
static void not_accessed(void) {
  static const u8 faulting[] = {0xA1, 0, 0, 0, 0x60};
  for (u32 before = 1; before < long_length; before++) {
    place(before);
    memcpy((void*)(first_page + page_bytes - before - sizeof(faulting)), faulting, sizeof(faulting));
    set_second(second_page | open_page);
    struct Cpu cpu = user_cpu((const void*)(border - before - sizeof(faulting)));
    run_cpu(&cpu);
    check_page_fault("data", 4, 0x60000000, (const void*)(border - before - sizeof(faulting)));
    check("pte", (u32)get_pte(&space, border) & p_accessed, 0);
    cpu.eip = border - before;
    run_cpu(&cpu);
    check_done("behind it");
    check("pte", (u32)get_pte(&space, border) & p_accessed, p_accessed);
  }
  // An undefined opcode is one from its own bytes alone.
  static const u8 undefined[] = {0xFE, 0xF8};
  for (u32 before = 2; before < 15; before++) {
    place(before);
    for (u32 i = 0; i < sizeof(undefined); i++) *(u8*)(first_page + page_bytes - before + i) = undefined[i];
    set_second(open_page);
    struct Cpu cpu = user_cpu((u8*)(border - before));
    run_cpu(&cpu);
    check_trap("undefined", v_opcode, 0, (u8*)(border - before));
    check("pte", (u32)get_pte(&space, border) & p_accessed, 0);
  }
}

void guest_main(void) {
  descriptors_init();
  first_page = new_page();
  (void)new_page();
  second_page = new_page();
  space = new_space(false);
  map(&space, window, first_page | open_page);
  group("second half absent");
  halves(false);
  group("second half not executable");
  struct Space two_level = space;
  space = new_space(true);
  map(&space, window, first_page | open_page);
  write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
  halves(true);
  space = two_level;
  group("next instruction absent");
  next_absent();
  group("mended and continued");
  continued();
  map(&space, window, first_page | open_page);
  group("jumps at the border");
  jumps();
  group("instruction lengths");
  lengths();
  group("not accessed before it executes");
  not_accessed();
}
