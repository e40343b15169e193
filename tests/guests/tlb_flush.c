// What must make a changed page-table entry visible (SDM vol. 3, 4.10.4.1): MOV CR3, INVLPG, changes of CR4.PGE and CR4.PAE,
// CR0.PG; and what needs no flush at all (4.10.4.3): an entry that was not present. A processor may drop entries at any time, so no
// check here depends on an entry staying in the TLB.
//
// expect:
//   32-bit: each flush: ok
//   32-bit: large pages: ok
//   32-bit: no flush needed: ok
//   32-bit: switching spaces: ok
//   PAE: each flush: ok
//   PAE: large pages: ok
//   PAE: no flush needed: ok
//   PAE: switching spaces: ok
//   between the formats: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000 };
static struct Space space;

// User reads and writes go through the user view of the address space, so each change is looked at from both rings.
SNIPPET(user_read, "mov eax, [esi]\n" DONE);
SNIPPET(user_write, "mov [esi], eax\n" DONE);
SNIPPET(user_jump, "jmp esi\n");

static u32 read_as_user(u32 address) {
  struct Cpu cpu = user_cpu(user_read);
  cpu.esi = address;
  run_cpu(&cpu);
  check_done("user read");
  return trap.cpu.eax;
}

static void write_as_user(u32 address, u32 value) {
  struct Cpu cpu = user_cpu(user_write);
  cpu.esi = address;
  cpu.eax = value;
  run_cpu(&cpu);
  check_done("user write");
}

// Runs `mov eax, imm32; int 0x80` in the page: code fetches have their own translations.
static u32 call_as_user(u32 address) {
  struct Cpu cpu = user_cpu(user_jump);
  cpu.esi = address;
  run_cpu(&cpu);
  check_done("user fetch");
  return trap.cpu.eax;
}

// A page that says its number as data and, 16 bytes on, as code.
static u32 numbered_page(u32 number) {
  u32 page = new_page();
  write32(page, number);
  u8* code = (u8*)page + 16;
  code[0] = 0xB8;
  memcpy(code + 1, &number, 4);
  code[5] = 0xCD;
  code[6] = 0x80;
  return page;
}

enum Flush { by_cr3, by_invlpg, by_pge, by_pg, flush_count };
static const char* const flush_names[] = {"MOV CR3", "INVLPG", "CR4.PGE", "CR0.PG"};

static void flush(enum Flush how, u32 address) {
  switch (how) {
    case by_cr3: write_cr3(read_cr3()); break;
    case by_invlpg: invlpg(address + 0x123); break;
    case by_pge:
      write_cr4(read_cr4() ^ cr4_pge);
      write_cr4(read_cr4() ^ cr4_pge);
      break;
    default: write_cr0(read_cr0() & ~(u32)cr0_pg); write_cr0(read_cr0() | (u32)cr0_pg);
  }
}

static void check_sees(const char* how, u32 address, u32 number) {
  check(how, read32(address), number);
  check(how, read_as_user(address), number);
  check(how, call_as_user(address + 16), number);
}

static void each_flush(void) {
  const u32 flags = p_present | p_write | p_user;
  u32 a = numbered_page(1), b = numbered_page(2);
  for (u32 how = 0; how < flush_count; how++) {
    for (u32 global = 0; global < 2; global++) {
      if (global && how == by_cr3) continue;  // MOV CR3 may leave global entries
      write_cr4(global ? read_cr4() | cr4_pge : read_cr4() & ~(u32)cr4_pge);
      map(&space, window, a | flags | (global ? p_global : 0));
      flush(by_pge, window);
      write_cr3(read_cr3());
      check_sees(flush_names[how], window, 1);
      write_as_user(window + 8, 0xA);
      set_pte(&space, window, b | flags | (global ? p_global : 0));
      flush(how, window);
      check_sees(flush_names[how], window, 2);
      write_as_user(window + 8, 0xB);
      write32(window + 12, 0xC);
      check("write went to the new page", read32(b + 8), 0xB);
      check("write went to the new page", read32(b + 12), 0xC);
      check("old page kept", read32(a + 8), 0xA);

      // Taken away altogether, and from user only.
      set_pte(&space, window, 0);
      flush(how, window);
      struct Cpu cpu = user_cpu(user_read);
      cpu.esi = window;
      run_cpu(&cpu);
      check_page_fault(flush_names[how], 4, window, user_read);
      cpu = kernel_cpu(user_write);
      cpu.esi = window;
      run_cpu(&cpu);
      check_page_fault(flush_names[how], 2, window, user_write);
      set_pte(&space, window, a | p_present | p_write);
      check("supervisor sees it again", read32(window), 1);
      cpu = user_cpu(user_jump);
      cpu.esi = window + 16;
      run_cpu(&cpu);
      check_page_fault("user does not", 5, window + 16, (const u8*)(window + 16));

      // Made read-only.
      set_pte(&space, window, a | flags);
      flush(how, window);
      write_as_user(window + 8, 1);
      set_pte(&space, window, a | p_present | p_user);
      flush(how, window);
      cpu = user_cpu(user_write);
      cpu.esi = window + 8;
      cpu.eax = 99;
      run_cpu(&cpu);
      check_page_fault("read-only", 7, window + 8, user_write);
      check("not written", read32(a + 8), 1);
      set_pte(&space, window, 0);
      flush(how, window);
      write32(a + 8, 0);
      write32(b + 8, 0);
      write32(b + 12, 0);
    }
  }
  write_cr4(read_cr4() & ~(u32)cr4_pge);
}

static void large_pages(void) {
  u32 size = large_bytes(&space);
  u32 a = new_aligned(size, 4 << 20), b = new_aligned(size, 4 << 20);
  for (u32 offset = 0; offset < size; offset += page_bytes) {
    write32(a + offset, offset + 1);
    write32(b + offset, offset + 2);
  }
  u32 linear = window + (8 << 20);
  u32 middle = size / 2 + 0x5000, last = size - page_bytes;
  for (u32 how = 0; how < flush_count; how++) {
    map_large(&space, linear, a | p_present | p_write | p_user);
    write_cr3(read_cr3());
    for (u32 offset = 0; offset < size; offset += size / 8) check("first page", read_as_user(linear + offset), offset + 1);
    map_large(&space, linear, b | p_present | p_write | p_user);
    flush(how, linear + middle);  // INVLPG of any address drops all of the large page
    check(flush_names[how], read32(linear), 2);
    check(flush_names[how], read_as_user(linear), 2);
    check(flush_names[how], read_as_user(linear + middle), middle + 2);
    check(flush_names[how], read_as_user(linear + last), last + 2);
    // From large to small pages and back.
    u32 table = new_page();
    set_pde(&space, linear, table | p_present | p_write | p_user);
    set_pte(&space, linear + last, (a + page_bytes) | p_present | p_write | p_user);
    flush(how, linear + last);
    check("small page", read_as_user(linear + last), page_bytes + 1);
    map_large(&space, linear, a | p_present | p_write | p_user);
    flush(how, linear + last);
    check("large page again", read_as_user(linear + last), last + 1);
  }
}

static bool mend(struct Frame* frame) {
  (void)frame;
  set_pte(&space, window, get_pte(&space, window) | p_present | p_write | p_user);
  return true;
}

// Not-present entries are never cached, so no flush is due after making one present; a fault invalidates what it was raised from, so
// that the handler may just widen rights and return (SDM vol. 3, 4.10.4.1: "page faults").
static void no_flush(void) {
  u32 a = numbered_page(3);
  map(&space, window, 0);
  write_cr3(read_cr3());
  for (u32 round = 0; round < 3; round++) {
    struct Cpu cpu = user_cpu(user_read);
    cpu.esi = window;
    run_cpu(&cpu);
    check_page_fault("absent", 4, window, user_read);
    set_pte(&space, window, a | p_present | p_user);
    check("present without flush", read_as_user(window), 3);
    set_pte(&space, window, 0);
    invlpg(window);
  }
  set_hook(v_page, mend);
  set_pte(&space, window, a);
  check("mended read", read_as_user(window), 3);
  set_pte(&space, window, a | p_present);
  invlpg(window);
  check("supervisor read", read32(window), 3);
  check("mended user right", read_as_user(window), 3);
  set_pte(&space, window, a | p_present | p_user);
  invlpg(window);
  check("read-only read", read_as_user(window), 3);
  write_as_user(window + 4, 44);
  check("mended write", read32(a + 4), 44);
  set_pte(&space, window, a);
  invlpg(window);
  check("mended fetch", call_as_user(window + 16), 3);
  set_hook(v_page, NULL);
}

static void switching(void) {
  struct Space other = new_space(space.pae);
  u32 a = numbered_page(5), b = numbered_page(6);
  const u32 flags = p_present | p_write | p_user;
  map(&space, window, a | flags);
  map(&other, window, b | flags);
  write_cr3(read_cr3());
  for (u32 round = 0; round < 20; round++) {
    write_cr3(space.root);
    check_sees("first space", window, 5);
    write_as_user(window + 4, round);
    write_cr3(other.root);
    check_sees("second space", window, 6);
    write_as_user(window + 4, ~round);
    check("each wrote its own", read32(a + 4), round);
    check("each wrote its own", read32(b + 4), ~round);
    // A change made to a space while another is loaded is there when it comes back.
    map(&space, window + page_bytes, (round & 1 ? a : b) | flags);
    write_cr3(space.root);
    check_sees("changed while away", window + page_bytes, round & 1 ? 5 : 6);
  }
}

void guest_main(void) {
  descriptors_init();
  struct Space spaces[2];
  for (u32 pae = 0; pae < 2; pae++) {
    space = spaces[pae] = new_space(pae);
    use_space(&space);
    group(pae ? "PAE: each flush" : "32-bit: each flush");
    each_flush();
    group(pae ? "PAE: large pages" : "32-bit: large pages");
    large_pages();
    group(pae ? "PAE: no flush needed" : "32-bit: no flush needed");
    no_flush();
    group(pae ? "PAE: switching spaces" : "32-bit: switching spaces");
    switching();
  }
  group("between the formats");
  for (u32 round = 0; round < 6; round++) {
    u32 page = numbered_page(round);
    space = spaces[round & 1];
    map(&space, window, page | p_present | p_write | p_user);
    use_space(&space);
    check_sees("after a change of format", window, round);
  }
  finish();
}
