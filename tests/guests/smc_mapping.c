// Code that changes by ways other than a store to its own address: the page that is executed is exchanged for another one by the code
// itself (INVLPG and MOV CR3 serialize, SDM vol. 3, 8.3), through aliases with other rights and from other rings, by the processor's own
// writes (accessed and dirty bits in a table that is code, the busy flag of a TSS), in large pages and across pages of which only one
// changes.
//
// qemu: deviates in "large page exchanged" (it goes on in the old page after an INVLPG of another address of it)
//
// expect:
//   page exchanged under the code: ok
//   large page exchanged under the code: ok
//   aliases: ok
//   marks in page tables: ok
//   busy flag: ok
//   code in two pages: ok
//   many pages, random: ok
//   rights change around code: ok
//   code and hot data: ok
//   PAE: page exchanged under the code: ok
//   PAE: large page exchanged under the code: ok
//   PAE: aliases: ok
//   PAE: marks in page tables: ok
//   PAE: busy flag: ok
//   PAE: code in two pages: ok
//   PAE: many pages, random: ok
//   PAE: rights change around code: ok
//   PAE: code and hot data: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, alias = 0x50000000, large_window = 0x60000000, open = p_present | p_write | p_user, slot = 0x80 };
static struct Space space;

// `mov ebx, value; int 80h` at `at`.
static void put_code(u32 at, u32 value) {
  u8* code = (u8*)at;
  code[0] = 0xBB;
  *(u32*)(code + 1) = value;
  code[5] = 0xCD;
  code[6] = 0x80;
}

static void run_at(u32 ring, u32 at, const char* what, u32 value) {
  struct Cpu cpu = ring_cpu(ring, (void*)at);
  run_cpu(&cpu);
  check_done(what);
  check(what, trap.cpu.ebx, value);
}

// Both frames hold this; behind the flush they differ.
SNIPPET(change_and_invlpg, "mov [edi], eax\n invlpg [esi]\n .byte 0xBB, 1, 0, 0, 0\n int 0x80\n");
SNIPPET(change_and_cr3, "mov [edi], eax\n mov cr3, edx\n .byte 0xBB, 1, 0, 0, 0\n int 0x80\n");
// The same with blocks in between, and a loop that changes the page at each turn: EBX counts what each frame adds.
SNIPPET(flip_loop, "1: mov [edi], eax\n invlpg [esi]\n .byte 0x81, 0xC3, 1, 0, 0, 0\n xor eax, ebp\n dec ecx\n jnz 1b\n int 0x80\n");

static void exchanged(bool large) {
  const u32 at = large ? large_window + 0x123000 : window;
  static u32 large_frames[2];
  u32 frames[2];
  for (u32 i = 0; i < 2; i++) {
    if (large && !large_frames[i]) large_frames[i] = new_aligned(4 << 20, 4 << 20);
    frames[i] = large ? large_frames[i] : new_page();
  }
  const u32 inside = at & (large ? large_bytes(&space) - 1 : 0);
  for (u32 round = 0; round < 8; round++) {
    for (u32 how = 0; how < 3; how++) {
      static const u8* const codes[] = {change_and_invlpg, change_and_cr3, flip_loop};
      static const u8* const ends[] = {change_and_invlpg_end, change_and_cr3_end, flip_loop_end};
      const u32 size = (u32)(ends[how] - codes[how]);
      for (u32 i = 0; i < 2; i++) {
        memcpy((void*)(frames[i] + inside), codes[how], size);
        // The constant: of `mov ebx, 1`, or of `add ebx, 1`.
        u32 constant = how == 2 ? 2 + 3 + 2 : size - 2 - 4;
        *(u32*)(frames[i] + inside + constant) = how == 2 ? (i ? 1000 : 1) : 100 + i;
      }
      const u32 from = round & 1, to = how == 2 ? from : !from;
      if (large)
        map_large(&space, at, frames[from] | open);
      else
        map(&space, at, frames[from] | open);
      write_cr3(space.root);
      struct Cpu cpu = kernel_cpu((void*)at);
      const u32 type = large ? p_large : 0;
      cpu.eax = frames[to] | open | type;
      // The entry, at its physical address: its low half is all that changes.
      const u32 directory = space.pae ? (u32)((u64*)space.root)[at >> 30] & 0xFFFFF000u : space.root;
      const u32 directory_entry = directory + (space.pae ? (at >> 21 & 511) * 8 : (at >> 22) * 4);
      const u32 table = (u32)get_pde(&space, at) & 0xFFFFF000u;
      cpu.edi = large ? directory_entry : table + (space.pae ? (at >> 12 & 511) * 8 : (at >> 12 & 1023) * 4);
      cpu.esi = at + (large ? 0x77000 : 0);
      cpu.edx = space.root;
      cpu.ebp = (frames[0] | open | type) ^ (frames[1] | open | type);
      cpu.ecx = 100;
      run_cpu(&cpu);
      check_done("exchanged");
      check("exchanged", trap.cpu.ebx, how == 2 ? 50 * 1001 : 100 + to);
    }
  }
}

static void aliases(void) {
  u32 frames = new_pages(2);
  for (u32 i = 0; i < 2; i++) {
    map(&space, window + i * page_bytes, (frames + i * page_bytes) | p_present | p_user);        // read-only for ring 3
    map(&space, alias + i * page_bytes, (frames + i * page_bytes) | open);                       // writable
    map(&space, alias + (2 + i) * page_bytes, (frames + i * page_bytes) | p_present | p_write);  // the supervisor's
  }
  write_cr3(space.root);
  for (u32 round = 0; round < 60; round++) {
    // Written by this ring, through this mapping; a jump (the return to ring 3) lies between.
    const u32 at = round * 7 % 40 + (round & 4 ? page_bytes - 20 : 0x300);
    const u32 through = round % 3 == 0 ? frames : round % 3 == 1 ? alias : alias + 2 * page_bytes;
    put_code(through + at, round * 0x01010101);
    run_at(round & 1 ? 3 : 0, window + at, "written by ring 0", round * 0x01010101);
    run_at(3, alias + at, "at its other address", round * 0x01010101);
    struct Cpu cpu = user_cpu((void*)window);
    static const u8 poke[] = {0x89, 0x07, 0xCD, 0x80};  // mov [edi], eax
    cpu.eip = (u32)poke;
    cpu.eax = ~round;
    cpu.edi = alias + at + 1;
    run_cpu(&cpu);
    check_done("written by ring 3");
    run_at(round & 2 ? 3 : 0, window + at, "written by ring 3", ~round);
    // Byte by byte in the middle.
    ((volatile u8*)alias)[at + 3] = 0x5A;
    run_at(3, window + at, "one byte", (~round & 0xFF00FFFF) | 0x5A0000);
  }
}

// A table whose bytes are executed: `mov ebx, imm32` with an entry as its immediate. The entry before ends with the opcode, the one behind
// starts with `int 80h`.
static void marks(void) {
  u32 frame = new_page(), table = new_page();
  map(&space, window, table | open);
  for (u32 round = 0; round < 6; round++) {
    const u32 index = 4 + round * 8 + round;  // different places in a group of eight
    u8* code;
    u32 linear;
    memset((void*)table, 0, page_bytes);
    if (space.pae) {
      // The immediate is the low half of an entry; its high half follows: `add [eax], al`, twice.
      u64* entries = (u64*)table;
      entries[index - 1] = 0xBBull << 56;
      entries[index] = frame | open;
      entries[index + 1] = 0x80CD;
      code = (u8*)(window + index * 8 - 1);
      linear = alias + (8u << 21) + index * page_bytes;
    } else {
      u32* entries = (u32*)table;
      entries[index - 1] = 0xBB000000;
      entries[index] = frame | open;
      entries[index + 1] = 0x80CD;
      code = (u8*)(window + index * 4 - 1);
      linear = alias + (8u << 22) + index * page_bytes;
    }
    set_pde(&space, linear, table | open);
    write_cr3(space.root);
    static u32 scratch;
    for (u32 ring = 0; ring < 4; ring += 3) {
      for (u32 step = 0; step < 3; step++) {
        if (step == 0) {  // back to "not marked"
          *(u32*)(code + 1) = frame | open;
          invlpg(linear);
        }
        if (step == 1) (void)read32(linear);
        if (step == 2) write32(linear + 4, round);
        struct Cpu cpu = ring_cpu(ring, code);
        cpu.eax = (u32)&scratch;
        run_cpu(&cpu);
        check_done("entry as code");
        check("entry as code", trap.cpu.ebx, frame | open | (step > 0 ? p_accessed : 0) | (step > 1 ? p_dirty : 0));
      }
    }
    set_pde(&space, linear, 0);
  }
  write_cr3(space.root);
}

// LTR sets the busy flag in a descriptor that is part of an instruction.
static void busy_flag(void) {
  u32 page = new_page();
  map(&space, window, page | open);
  write_cr3(space.root);
  // A GDT of its own in the page, whose last descriptor is the code: its upper half is an immediate. Its base ends in ..BB....
  memcpy((void*)page, gdt, 0x50);
  static u8 area[0x20000];
  struct Tss* task = (struct Tss*)((((u32)area + 0xFFFF) & 0xFFFF0000u) + 0xBB00);
  memcpy(task, &tss, 104);
  u64* entry = (u64*)(page + 0x48);
  u8* code = (u8*)(window + 0x48 + 3);
  for (u32 round = 0; round < 4; round++) {
    *entry = descriptor((u32)task, 103, 0x89, 0);
    *(u16*)(page + 0x50) = 0x80CD;
    run_at(0, (u32)code, "available", (u32)(*entry >> 32));
    load_gdt(window, 0x4F);
    load_task(0x48);
    own_gdt();
    run_at(round & 1 ? 3 : 0, (u32)code, "busy", (u32)(descriptor((u32)task, 103, 0x8B, 0) >> 32));
    gdt[tss_selector / 8] &= ~(2ull << 40);
    load_task(tss_selector);
  }
}

// Calls code that lies across two pages by an indirect call, again and again; in between the second page is exchanged.
SNIPPET(call_across, "1: call esi\n add ebp, ebx\n mov [edi], eax\n invlpg [edx]\n xor eax, [esp]\n dec ecx\n jnz 1b\n int 0x80\n");

// An instruction across two pages, then a block that goes on in the second one: each page is exchanged alone.
static void two_pages(void) {
  u32 first[2], second[2];
  for (u32 i = 0; i < 2; i++) {
    first[i] = new_page();
    second[i] = new_page();
  }
  for (u32 split = 1; split < 6; split++) {
    const u32 at = window + page_bytes - split;
    for (u32 i = 0; i < 2; i++) {
      u8 code[7] = {0xBB, (u8)(1 + i), (u8)(3 + i), (u8)(5 + i), (u8)(7 + i), 0xCD, 0x80};
      memcpy((void*)(first[i] + page_bytes - split), code, split);
      memcpy((void*)second[i], code + split, sizeof(code) - split);
    }
    for (u32 round = 0; round < 16; round++) {
      const u32 a = round & 1, b = round >> 1 & 1;
      map(&space, window, first[a] | open);
      invlpg(window);
      map(&space, window + page_bytes, second[b] | open);
      if (round & 4)
        write_cr3(space.root);
      else
        invlpg(window + page_bytes);
      u32 want = 0;
      for (u32 i = 1; i < 5; i++) want |= (2 * i - 1 + (i < split ? a : b)) << (8 * i - 8);
      run_at(round & 8 ? 3 : 0, at, "across", want);
    }
    // The same from a loop in ring 0; the code ends with RET.
    for (u32 i = 0; i < 2; i++) {
      u8 code[6] = {0xBB, (u8)(1 + i), 0, 0, 0, 0xC3};
      if (split == 1) code[1] = (u8)(1 + i);
      memcpy((void*)(first[0] + page_bytes - split), code, split);
      memcpy((void*)second[i], code + split, sizeof(code) - split);
      if (split > 1) ((u8*)second[i])[4 - split + (split == 5)] = (u8)(split == 5 ? 0xC3 : i);  // the highest byte, if it lies there
    }
    map(&space, window, first[0] | open);
    map(&space, window + page_bytes, second[0] | open);
    write_cr3(space.root);
    struct Cpu cpu = kernel_cpu(call_across);
    cpu.esi = at;
    cpu.edx = window + page_bytes;
    const u32 table = (u32)get_pde(&space, window + page_bytes) & 0xFFFFF000u, page = window + page_bytes;
    cpu.edi = table + (space.pae ? (page >> 12 & 511) * 8 : (page >> 12 & 1023) * 4);
    cpu.eax = second[1] | open;
    cpu.esp -= 4;
    *(u32*)cpu.esp = second[0] ^ second[1];
    cpu.ecx = 40;
    u32 want = 0;
    for (u32 i = 0; i < 40; i++) {
      const u8* tail = (const u8*)second[i & 1];
      u8 value[4];
      for (u32 n = 1; n < 5; n++) value[n - 1] = n < split ? ((const u8*)first[0])[page_bytes - split + n] : tail[n - split];
      want += *(u32*)value;
    }
    run_cpu(&cpu);
    check_done("called across");
    check("called across", trap.cpu.ebp, want);
  }
}

// Sixteen frames of code behind eight linear pages, exchanged and patched at random; a model knows what each frame holds.
static void random_pages(void) {
  enum { frame_count = 16, page_count = 8 };
  u32 frames = new_pages(frame_count), model[frame_count], mapped[page_count], state = 987654321;
  for (u32 i = 0; i < frame_count; i++) put_code(frames + i * page_bytes + 0x10, model[i] = i);
  for (u32 i = 0; i < page_count; i++) map(&space, window + i * page_bytes, (frames + (mapped[i] = i) * page_bytes) | open);
  write_cr3(space.root);
  for (u32 step = 0; step < 1200; step++) {
    const u32 random = next_random(&state), page = random % page_count, frame = (random >> 4) % frame_count;
    switch ((random >> 8) % 5) {
      case 0:
        mapped[page] = frame;
        set_pte(&space, window + page * page_bytes, (frames + frame * page_bytes) | open);
        if (random & 0x10000)
          invlpg(window + page * page_bytes);
        else
          write_cr3(space.root);
        break;
      case 1: write32(frames + frame * page_bytes + 0x11, model[frame] = random); break;
      case 2: write32(window + page * page_bytes + 0x11, model[mapped[page]] = random); break;
      default: run_at(random & 0x20000 ? 3 : 0, window + page * page_bytes + 0x10, "random", model[mapped[page]]); break;
    }
  }
}

// The page loses and regains a right between runs; what was known about its code must not survive where it may not run.
static void rights(void) {
  u32 frame = new_page();
  put_code(frame + 0x40, 11);
  for (u32 round = 0; round < 30; round++) {
    static const u32 flags[] = {open, p_present | p_write, 0, p_present | p_user, p_present};
    const u32 now = flags[round % 5];
    map(&space, window, now ? frame | now : 0);
    invlpg(window);
    put_code(frame + 0x40, round);
    for (u32 ring = 0; ring < 4; ring += 3) {
      struct Cpu cpu = ring_cpu(ring, (void*)(window + 0x40));
      run_cpu(&cpu);
      bool allowed = (now & p_present) && (ring == 0 || (now & p_user));
      if (allowed) {
        check_done("may run");
        check("may run", trap.cpu.ebx, round);
      } else {
        check_page_fault("may not run", (now & p_present ? e_present : 0) | (ring ? e_user : 0), window + 0x40, (void*)(window + 0x40));
      }
    }
  }
}

// Code and hot data in one page, again and again; a bound on the time is kept by the timeout of the test.
SNIPPET(hot,
        "1: inc dword ptr [edi]\n add [edi + 4], ecx\n mov edx, [edi]\n xor [edi + 8], edx\n call 2f\n dec ecx\n jnz 1b\n int 0x80\n 2: "
        "push edx\n pop [edi + 12]\n ret\n");

static void code_and_data(void) {
  u32 frame = new_page();
  map(&space, window, frame | open);
  invlpg(window);
  memcpy((void*)window, hot, (size_t)(hot_end - hot));
  for (u32 ring = 0; ring < 4; ring += 3) {
    memset((void*)(frame + 0x200), 0, 16);
    struct Cpu cpu = ring_cpu(ring, (void*)window);
    cpu.edi = window + 0x200;
    cpu.ecx = 2000;
    if (ring) cpu.esp = window + 0xFF0;  // the stack, too
    run_cpu(&cpu);
    check_done("hot");
    check("count", read32(frame + 0x200), 2000);
    check("sum", read32(frame + 0x204), 2000u * 2001u / 2);
    check("last", read32(frame + 0x20C), 2000);
  }
}

void guest_main(void) {
  descriptors_init();
  for (u32 pae = 0; pae < 2; pae++) {
    if (pae) paging_off();
    space = new_space(pae);
    use_space(&space);
    group(pae ? "PAE: page exchanged under the code" : "page exchanged under the code");
    exchanged(false);
    group(pae ? "PAE: large page exchanged under the code" : "large page exchanged under the code");
    exchanged(true);
    group(pae ? "PAE: aliases" : "aliases");
    aliases();
    group(pae ? "PAE: marks in page tables" : "marks in page tables");
    marks();
    group(pae ? "PAE: busy flag" : "busy flag");
    busy_flag();
    group(pae ? "PAE: code in two pages" : "code in two pages");
    two_pages();
    group(pae ? "PAE: many pages, random" : "many pages, random");
    random_pages();
    group(pae ? "PAE: rights change around code" : "rights change around code");
    rights();
    group(pae ? "PAE: code and hot data" : "code and hot data");
    code_and_data();
  }
  finish();
}
