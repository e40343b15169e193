// What may happen between a CALL and its RET, and to the code behind the CALL: an engine that predicts returns must still go where the
// stack and the page tables say (SDM vol. 2, CALL, RET; vol. 3, 8.1.3 and 8.3).
//
// expect:
//   page exchanged between CALL and RET: ok
//   code behind the CALL changed: ok
//   the CALL itself changed: ok
//   several ways to one CALL: ok
//   a CALL inside a CALL: ok
//   CALL at the end of a page: ok
//   one function at two addresses: ok
//   jump to an instruction in two pages: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, alias = 0x50000000, open = p_present | p_write | p_user };
static struct Space space;

static u32 entry_address(u32 linear) {
  const u32 table = (u32)get_pde(&space, linear) & 0xFFFFF000u;
  return table + (linear >> 12 & 1023) * 4;
}

static void put(u32 at, const u8* code, const u8* end) { memcpy((void*)at, code, (size_t)(end - code)); }
#define PUT(at, name) put(at, name, name##_end)

// The caller lies in the page that the function exchanges. EBX counts what each frame adds.
SNIPPET(caller, "1: call ebp\n .byte 0x81, 0xC3, 1, 0, 0, 0\n dec ecx\n jnz 1b\n int 0x80\n");
SNIPPET(exchange_invlpg, "mov [edi], eax\n invlpg [edx]\n xor eax, esi\n ret\n");
SNIPPET(exchange_cr3, "mov [edi], eax\n mov eax, cr3\n mov cr3, eax\n mov eax, [edi]\n xor eax, esi\n ret\n");

static void page_exchanged(void) {
  static const u8* const ways[] = {exchange_invlpg, exchange_cr3};
  u32 frames[2] = {new_page(), new_page()};
  for (u32 i = 0; i < 2; i++) {
    PUT(frames[i] + 0x100, caller);
    *(u32*)(frames[i] + 0x104) = i ? 1000 : 1;
  }
  for (u32 round = 0; round < 6; round++) {
    const u32 from = round & 1;
    map(&space, window, frames[from] | open);
    write_cr3(space.root);
    struct Cpu cpu = kernel_cpu((void*)(window + 0x100));
    cpu.ebp = (u32)ways[round / 2 % 2];
    cpu.edi = entry_address(window);
    cpu.edx = window;
    cpu.esi = (frames[0] | open) ^ (frames[1] | open);
    cpu.eax = frames[!from] | open;
    cpu.ecx = 200;
    run_cpu(&cpu);
    check_done("exchanged");
    check("exchanged", trap.cpu.ebx, 100 * 1001);
  }
  // The same, with a page that may not be executed through any more: absent. The RET then faults at its target.
  map(&space, window, frames[0] | open);
  invlpg(window);
  struct Cpu cpu = kernel_cpu((void*)(window + 0x100));
  cpu.ebp = (u32)exchange_invlpg;
  cpu.edi = entry_address(window);
  cpu.edx = window;
  cpu.esi = frames[0] | open;
  cpu.eax = frames[0] | open;
  cpu.ecx = 3;
  run_cpu(&cpu);
  check_page_fault("absent behind the CALL", 0, window + 0x102, (void*)(window + 0x102));
  check("turns before", trap.cpu.ecx, 2);
  check("esp behind the RET", trap.cpu.esp, cpu.esp);
}

SNIPPET(change_behind, "mov [edi], ecx\n ret\n");

static void code_behind(void) {
  u32 frame = new_page();
  map(&space, window, frame | open);
  map(&space, alias, frame | open);
  write_cr3(space.root);
  for (u32 round = 0; round < 8; round++) {
    PUT(frame + 0x40, caller);
    struct Cpu cpu = ring_cpu(round & 1 ? 3 : 0, (void*)(window + 0x40));
    cpu.ebp = (u32)change_behind;
    cpu.edi = (round & 2 ? alias : window) + 0x44;
    cpu.ecx = round & 4 ? 1000 : 20;
    run_cpu(&cpu);
    check_done("changed behind");
    check("changed behind", trap.cpu.ebx, cpu.ecx * (cpu.ecx + 1) / 2);
  }
}

// Each function sends the CALL to the other one.

SNIPPET(alternate, "1: call 2f\n dec ecx\n jnz 1b\n int 0x80\n"
                   "2: inc eax\n add dword ptr [edi], 8\n ret\n nop\n nop\n nop\n"
                   "inc ebx\n sub dword ptr [edi], 8\n ret\n");

static void call_changed(void) {
  u32 frame = new_page();
  map(&space, window, frame | open);
  write_cr3(space.root);
  for (u32 round = 0; round < 6; round++) {
    PUT(frame + 0x200, alternate);
    struct Cpu cpu = ring_cpu(round & 1 ? 3 : 0, (void*)(window + 0x200));
    cpu.edi = window + 0x201;
    cpu.ecx = 10 + round * 100;
    run_cpu(&cpu);
    check_done("alternating");
    check("one", trap.cpu.eax, cpu.ecx / 2);
    check("other", trap.cpu.ebx, cpu.ecx / 2);
  }
}

// Blocks from each of the first bytes on contain the CALL. A write to one of those bytes takes some of the blocks away.
SNIPPET(ways_direct, "nop\n nop\n nop\n nop\n 1: inc eax\n call 2f\n inc ebx\n dec ecx\n jnz 1b\n int 0x80\n 2: inc edx\n ret\n");
SNIPPET(ways_indirect, "nop\n nop\n nop\n nop\n 1: inc eax\n call ebp\n inc ebx\n dec ecx\n jnz 1b\n int 0x80\n");
SNIPPET(callee, "inc edx\n ret\n");

static void several_ways(void) {
  u32 frame = new_page(), state = 1;
  map(&space, window, frame | open);
  write_cr3(space.root);
  for (u32 round = 0; round < 600; round++) {
    if (round % 200 == 0) {
      memset((void*)frame, 0x90, page_bytes);
      if (round / 200 == 1)
        PUT(frame + 0x80, ways_indirect);
      else
        PUT(frame + 0x80, ways_direct);
    }
    const u32 random = next_random(&state);
    const u32 entry = random & 3;
    struct Cpu cpu = ring_cpu(random & 4 ? 3 : 0, (void*)(window + 0x80 + entry));
    cpu.ebp = (u32)callee;
    cpu.ecx = 1 + (random >> 8 & 7);
    run_cpu(&cpu);
    check_done("ways");
    check("before the CALL", trap.cpu.eax, cpu.ecx);
    check("in the function", trap.cpu.edx, cpu.ecx);
    check("behind", trap.cpu.ebx, cpu.ecx);
    if ((random >> 16 & 3) == 0) *(volatile u8*)(window + 0x80 + (random >> 18 & 3)) = 0x90;
  }
}

// E8 cd xx FF D0: the last two bytes are CALL EAX, and both return to the same place.
static void call_in_call(void) {
  enum { at = window + 0x300, displacement = 0xD0FF0000u, target = at + 5 + displacement };
  u32 frame = new_page(), other = new_page();
  map(&space, window, frame | open);
  map(&space, target & ~(page_bytes - 1), other | open);
  write_cr3(space.root);
  static const u8 code[] = {0xE8, 0x00, 0x00, 0xFF, 0xD0, 0xCD, 0x80};
  static const u8 function[] = {0x83, 0xC3, 0x05, 0xC3};  // add ebx, 5; ret
  memcpy((void*)(frame + 0x300), code, sizeof(code));
  memcpy((void*)(other + (target & (page_bytes - 1))), function, sizeof(function));
  for (u32 round = 0; round < 40; round++) {
    const u32 inner = round >> 1 & 1;
    struct Cpu cpu = ring_cpu(round & 4 ? 3 : 0, (void*)(at + (inner ? 3 : 0)));
    cpu.eax = (u32)callee;
    run_cpu(&cpu);
    check_done("call in call");
    check("outer", trap.cpu.ebx, inner ? 0 : 5);
    check("inner", trap.cpu.edx, inner ? 1 : 0);
  }
}

// The return address is the first or second byte of another page, which the function exchanges.
SNIPPET(end_of_page, ".byte 0x81, 0xC3, 1, 0, 0, 0\n dec ecx\n jz 1f\n push dword ptr [esp + 4]\n ret\n 1: int 0x80\n");
SNIPPET(end_exchange, "mov edx, [esp + 4]\n mov [edi], eax\n invlpg [edx]\n xor eax, esi\n ret\n");

static void page_end(void) {
  u32 first = new_page(), second[2] = {new_page(), new_page()};
  for (u32 across = 0; across < 2; across++) {
    const u32 at = window + page_bytes - 2 + across;
    for (u32 i = 0; i < 2; i++) {
      memset((void*)second[i], 0x90, page_bytes);
      *(u8*)(second[i]) = 0xD5;
      PUT(second[i] + across, end_of_page);
      *(u32*)(second[i] + across + 2) = i ? 1000 : 1;
    }
    *(u8*)(first + page_bytes - 2 + across) = 0xFF;
    if (!across) *(u8*)(first + page_bytes - 1) = 0xD5;  // call ebp
    for (u32 round = 0; round < 6; round++) {
      const u32 from = round & 1;
      map(&space, window, first | open);
      map(&space, window + page_bytes, second[from] | open);
      write_cr3(space.root);
      struct Cpu cpu = kernel_cpu((void*)at);
      cpu.ebp = (u32)end_exchange;
      cpu.edi = entry_address(window + page_bytes);
      cpu.esi = (second[0] | open) ^ (second[1] | open);
      cpu.eax = second[!from] | open;
      cpu.ecx = 100;
      cpu.esp -= 8;
      ((u32*)cpu.esp)[0] = window + page_bytes;  // for INVLPG
      ((u32*)cpu.esp)[1] = at;                   // where each turn goes
      run_cpu(&cpu);
      check_done("page end");
      check("page end", trap.cpu.ebx, 50 * 1001);
      check("esp", trap.cpu.esp, cpu.esp);
    }
  }
}

SNIPPET(recursive, "1: inc ebx\n dec ecx\n jz 2f\n call 1b\n inc edx\n 2: ret\n");
SNIPPET(call_recursive, "call ebp\n int 0x80\n");

static void two_addresses(void) {
  u32 frame = new_page();
  map(&space, window, frame | open);
  map(&space, alias, frame | open);
  write_cr3(space.root);
  PUT(frame + 0x500, recursive);
  for (u32 round = 0; round < 40; round++) {
    struct Cpu cpu = ring_cpu(round & 2 ? 3 : 0, call_recursive);
    cpu.ebp = (round & 1 ? alias : window) + 0x500;
    cpu.ecx = 1 + round * 7;
    run_cpu(&cpu);
    check_done("recursive");
    check("calls", trap.cpu.ebx, cpu.ecx);
    check("returns", trap.cpu.edx, cpu.ecx - 1);
  }
}

// A loop in one page whose jump leads to an instruction that reaches into the next page, which each turn exchanges.
SNIPPET(crossing_loop, "1: dec ecx\n js 2f\n mov [edi], eax\n invlpg [edx]\n xor eax, esi\n jmp 1b + 0x7FD\n 2: int 0x80\n");

static void jump_across(void) {
  u32 first = new_page(), second[2] = {new_page(), new_page()};
  memset((void*)first, 0x90, page_bytes);
  PUT(first + 0x800, crossing_loop);
  static const u8 head[] = {0xBB, 0x00, 0x00};  // mov ebx, imm32, from page_bytes - 3 on
  memcpy((void*)(first + page_bytes - 3), head, 3);
  for (u32 i = 0; i < 2; i++) {
    u8 tail[] = {(u8)(1 + i), 0, 0x01, 0xDD, 0xE9, 0, 0, 0, 0};  // the rest of it; add ebp, ebx; jmp to the loop
    *(u32*)(tail + 5) = 0x800u - (page_bytes + 9);
    memcpy((void*)second[i], tail, sizeof(tail));
  }
  for (u32 round = 0; round < 4; round++) {
    map(&space, window, first | open);
    map(&space, window + page_bytes, second[round & 1] | open);
    write_cr3(space.root);
    struct Cpu cpu = kernel_cpu((void*)(window + 0x800));
    cpu.edi = entry_address(window + page_bytes);
    cpu.edx = window + page_bytes;
    cpu.esi = (second[0] | open) ^ (second[1] | open);
    cpu.eax = second[!(round & 1)] | open;
    cpu.ecx = 100;
    run_cpu(&cpu);
    check_done("across");
    check("across", trap.cpu.ebp, 50 * 0x10000 + 50 * 0x20000);
  }
}

void guest_main(void) {
  descriptors_init();
  space = new_space(false);
  use_space(&space);
  group("page exchanged between CALL and RET");
  page_exchanged();
  group("code behind the CALL changed");
  code_behind();
  group("the CALL itself changed");
  call_changed();
  group("several ways to one CALL");
  several_ways();
  group("a CALL inside a CALL");
  call_in_call();
  group("CALL at the end of a page");
  page_end();
  group("one function at two addresses");
  two_addresses();
  group("jump to an instruction in two pages");
  jump_across();
  finish();
}
