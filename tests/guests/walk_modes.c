// Paging switched at run time: CR4.PSE, CR4.PGE, CR4.PAE while paging is on, CR0.PG, CR0.WP and EFER.NXE, each with what the manual lets a
// program see afterwards (SDM vol. 3, 4.1.2, 4.3, 4.4.1, 4.10.2.4 and 4.10.4.1); INVLPG of any address inside a large page; global pages.
// No check needs an entry to stay in the TLB.
//
// qemu: deviates in "PAE switched under paging" (directory pointers are read, and marked, in memory at every walk)
// qemu: deviates in "INVLPG operands" (LOCK is taken)
//
// expect:
//   PSE: ok
//   PGE and global pages: ok
//   INVLPG in large pages: ok
//   sizes exchanged: ok
//   WP: ok
//   paging on and off: ok
//   PAE switched under paging: ok
//   INVLPG operands: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, open = p_present | p_write | p_user };
static struct Space space;
static u32 large_a, large_b;  // 4 MiB each, at 4 MiB; page n of each holds `int 0x80`, then n + 1000 or n + 2000

static void fill(u32 frames, u32 tag) {
  for (u32 i = 0; i < 1024; i++) {
    write32(frames + i * page_bytes, probe_word);
    write32(frames + i * page_bytes + 4, tag + i);
  }
}

SNIPPET(read_user, "mov eax, [esi]\n" DONE);

// What rings 0 and 3 find at `linear`, and that code there can be run.
static void check_sees(const char* what, u32 linear, u32 value) {
  struct Cpu cpu = user_cpu(read_user);
  cpu.esi = linear + 4;
  run_cpu(&cpu);
  check_done(what);
  check(what, trap.cpu.eax, value);
  check(what, read32(linear + 4), value);
  probe(probe_fetch, 3, linear);
  check_done(what);
  check(what, trap.cpu.eip, linear + 2);
}

// The directory entry leads to a 4 MiB page, or with the same bits to a table.
static void pse(void) {
  space = new_space(false);
  use_space(&space);
  // A "large page" at `large_a`, whose first 4 KiB serve as a page table, too.
  u32 table = new_aligned(4 << 20, 4 << 20);
  for (u32 i = 0; i < 1024; i++) ((u32*)table)[i] = (large_b + i * page_bytes) | open;
  write32(table + 5 * page_bytes, probe_word);
  write32(table + 5 * page_bytes + 4, 777);
  set_pde(&space, window, table | open | p_large);
  for (u32 round = 0; round < 8; round++) {
    bool on = !(round & 1);
    write_cr4(on ? read_cr4() | cr4_pse : read_cr4() & ~(u32)cr4_pse);
    write_cr3(read_cr3());
    const u32 at = window + 5 * page_bytes;
    set_pde(&space, window, table | open | p_large);
    ((u32*)table)[5] = (large_b + 5 * page_bytes) | open;
    check_sees(on ? "4 MiB page" : "table", at, on ? 777 : 2005);
    probe(probe_write, 3, at);
    check("directory entry", (u32)get_pde(&space, window), table | open | p_large | p_accessed | (on ? p_dirty : 0));
    check("table entry", ((u32*)table)[5], (large_b + 5 * page_bytes) | open | (on ? 0 : p_accessed | p_dirty));
  }
  write_cr4(read_cr4() | cr4_pse);
}

static void global_pages(void) {
  for (u32 pae = 0; pae < 2; pae++) {
    space = new_space(pae);
    use_space(&space);
    for (u32 large = 0; large < 2; large++) {
      const u32 at = window + (large ? 8 << 20 : 0);
      for (u32 round = 0; round < 6; round++) {
        u32 from = round & 1 ? large_b : large_a;
        u32 value = round & 1 ? 2000 : 1000;
        if (large)
          map_large(&space, at, from | open | p_global);
        else
          map(&space, at, from | open | p_global);
        switch (round) {
          case 0:
          case 1: write_cr4(read_cr4() ^ cr4_pge); break;  // on, off
          case 2:
          case 3: write_cr3(read_cr3()); break;  // G means nothing while PGE = 0
          case 4: write_cr4(read_cr4() | cr4_pge); break;
          default: invlpg(at); break;  // drops global ones, too
        }
        check_sees("global page", at, value);
        write_cr3(read_cr3());
        check_sees("after MOV CR3", at, value);
      }
      // Paging off and on drops global ones (PG from 1 to 0).
      if (large)
        map_large(&space, at, large_a | open | p_global);
      else
        map(&space, at, large_a | open | p_global);
      paging_off();
      write_cr0(read_cr0() | (u32)cr0_pg);
      check_sees("PG off and on", at, 1000);
      // G in a directory entry that leads to a table means nothing: MOV CR3 flushes.
      if (!large) {
        map(&space, at, large_b | open);
        set_pde(&space, at, get_pde(&space, at) | p_global);
        invlpg(at);
        check_sees("G in a directory entry", at, 2000);
        map(&space, at, large_a | open);
        write_cr3(read_cr3());
        check_sees("G in a directory entry", at, 1000);
      }
      write_cr4(read_cr4() & ~(u32)cr4_pge);
    }
  }
}

// One INVLPG of any address inside drops all of a large page, whatever was touched before.
static void invlpg_in_large_pages(void) {
  for (u32 pae = 0; pae < 2; pae++) {
    space = new_space(pae);
    use_space(&space);
    const u32 size = large_bytes(&space), count = size / page_bytes;
    u32 state = 12345;
    for (u32 round = 0; round < 30; round++) {
      u32 from = round & 1 ? large_b : large_a, value = round & 1 ? 2000 : 1000;
      map_large(&space, window, from | open);
      u32 random = next_random(&state);
      invlpg(window + random % size);
      for (u32 i = 0; i < 6; i++) {
        u32 page = i == 0 ? 0 : i == 1 ? count - 1 : next_random(&state) % count;
        check_sees("large page", window + page * page_bytes, value + page);
      }
      // Rights and A/D of the whole page.
      check("accessed and dirty", (u32)get_pde(&space, window) & (p_accessed | p_dirty), p_accessed);
      write32(window + (random >> 8) % size, read32(window + (random >> 8) % size));
      check("dirty", (u32)get_pde(&space, window) & p_dirty, p_dirty);
      map_large(&space, window, from | p_present | p_user);
      invlpg(window + (random >> 4) % size);
      for (u32 i = 0; i < 4; i++) {
        u32 at = window + next_random(&state) % count * page_bytes;
        probe(probe_write, 3, at);
        check_probe("read-only now", probe_write, at, e_present | e_write | e_user);
      }
    }
  }
}

// A large page gives way to a table and comes back; the flush is an INVLPG of an address that is looked at next, or MOV CR3.
static void sizes_exchanged(void) {
  for (u32 pae = 0; pae < 2; pae++) {
    space = new_space(pae);
    use_space(&space);
    const u32 count = large_bytes(&space) / page_bytes;
    u32 table = new_page();
    for (u32 i = 0; i < count; i++) {
      u32 entry = (large_b + (count - 1 - i) * page_bytes) | open;
      if (pae)
        ((u64*)table)[i] = entry;
      else
        ((u32*)table)[i] = entry;
    }
    u32 state = 54321;
    for (u32 round = 0; round < 40; round++) {
      u32 page = next_random(&state) % count;
      set_pde(&space, window, round & 1 ? table | open : large_a | open | p_large);
      if (round & 2)
        write_cr3(read_cr3());
      else
        invlpg(window + page * page_bytes);
      check_sees("this page", window + page * page_bytes, round & 1 ? 2000 + count - 1 - page : 1000 + page);
      write_cr3(read_cr3());
      page = next_random(&state) % count;
      check_sees("another page", window + page * page_bytes, round & 1 ? 2000 + count - 1 - page : 1000 + page);
    }
  }
}

// CR0.WP takes effect without any INVLPG: rights are those of CR0 at the access (4.6), but the TLB may have the entry's own.
static void write_protect(void) {
  space = new_space(false);
  use_space(&space);
  map(&space, window, large_a | p_present | p_user);
  map_large(&space, window + (4 << 20), large_b | p_present);
  for (u32 round = 0; round < 12; round++) {
    bool on = round & 1;
    write_cr0(on ? read_cr0() | cr0_wp : read_cr0() & ~(u32)cr0_wp);
    for (u32 i = 0; i < 2; i++) {
      const u32 at = window + i * (4 << 20) + (i ? 0x7000 : 0);
      for (u32 ring = 0; ring < 3; ring++) {
        probe(probe_read, ring, at);
        check_probe("read", probe_read, at, -1);
        probe(probe_write, ring, at);
        check_probe("write", probe_write, at, on ? e_present | e_write : -1);
        probe(probe_read, ring, at);
        check_probe("read", probe_read, at, -1);
      }
      probe(probe_write, 3, at);
      check_probe("user write", probe_write, at, e_present | e_write | e_user);
    }
  }
  write_cr0(read_cr0() & ~(u32)cr0_wp);
}

static void on_and_off(void) {
  for (u32 pae = 0; pae < 2; pae++) {
    space = new_space(pae);
    for (u32 round = 0; round < 6; round++) {
      use_space(&space);
      u32 page = large_a + (round + 3) * page_bytes;
      map(&space, window, large_b | open);
      map(&space, page, (large_b + 9 * page_bytes) | open);  // over its identity
      write_cr3(read_cr3());
      check_sees("mapped", window, 2000);
      check_sees("mapped over RAM", page, 2009);
      paging_off();
      check_sees("physical", page, 1003 + round);
      map(&space, page, page | open);
    }
  }
}

// PAE switched while PG = 1, by code that both formats map at the same place. The root is a PDPTE table and a page directory at once: entry
// 0 of both leads to one page that is directory (PAE) and page table (32-bit).
SNIPPET(switch_pae, "mov cr4, eax\n nop\n mov edx, cr4\n mov ebx, [esi]\n mov cr0, ecx\n" DONE);

static void pae_switched(void) {
  u64* root = (u64*)new_page();
  u64* both = (u64*)new_page();
  for (u32 i = 0; i < 16; i++)
    both[i] = i << 21 | p_large | p_present | p_write | p_user;  // PAE: 2 MiB each; 32-bit: the first 32 pages, not used
  // 32-bit: 1 MiB to 4 MiB; PAE: 256 MiB and up, not used.
  for (u32 i = 0x100; i < 0x400; i++) ((u32*)both)[i] = i << 12 | p_present | p_write | p_user;
  ((u32*)both)[0x3F0] = large_b | p_present | p_write | p_user;  // linear 3F0000h
  const u32 cr4 = (read_cr4() | cr4_pse) & ~(u32)(cr4_pae | cr4_pge), cr0 = read_cr0() | (u32)cr0_pg;
  write32(0x3F0000, 0x33333333);
  for (u32 round = 0; round < 4; round++) {
    // From PAE to 32-bit.
    root[0] = (u32)both | p_present;
    write_cr3((u32)root);
    write_cr4(cr4 | cr4_pae);
    write_cr0(cr0);
    struct Cpu cpu = kernel_cpu(switch_pae);
    cpu.eax = cr4;
    cpu.ecx = cr0 & ~(u32)cr0_pg;
    cpu.esi = 0x3F0000;
    run_cpu(&cpu);
    check_done("to 32-bit");
    check("CR4", trap.cpu.edx, cr4);
    check("32-bit entries count", trap.cpu.ebx, probe_word);
    check("its directory entry is marked", (u32)root[0], (u32)both | p_present | p_accessed);
    // And back: the entry is a directory pointer then, with bit 5 reserved.
    write_cr0(cr0);
    cpu = kernel_cpu(switch_pae);
    cpu.eax = cr4 | cr4_pae;
    cpu.ecx = cr0 & ~(u32)cr0_pg;
    cpu.esi = 0x3F0000;
    run_cpu(&cpu);
    check_trap("accessed bit in a directory pointer", v_protection, 0, switch_pae);
    check("CR4 stays", read_cr4(), cr4);
    check("still 32-bit", read32(0x3F0000), probe_word);
    // A root elsewhere, without the bit.
    paging_off();
    u64* clean = (u64*)new_page();
    clean[0] = (u32)both | p_present;
    write_cr4(cr4 | cr4_pae);
    write_cr3((u32)clean);
    write_cr0(cr0);
    check("PAE entries count", read32(0x3F0000), 0x33333333);
    check("directory pointers are not marked", (u32)clean[0], (u32)both | p_present);
    paging_off();
    write_cr4(cr4);
  }
}

// The operand is an address, not an access: absent pages and those of another ring are fine.
SNIPPET(invlpg_any, "invlpg [esi]\n" DONE);
SNIPPET(invlpg_fs, "invlpg fs:[esi]\n" DONE);
SNIPPET(invlpg_register, ".byte 0x0F, 0x01, 0xFE\n" DONE);
SNIPPET(invlpg_lock, ".byte 0xF0, 0x0F, 0x01, 0x3E\n" DONE);

static void operands(void) {
  space = new_space(false);
  use_space(&space);
  enum { based = 0x80 };
  gdt[based / 8] = descriptor(window, 0xFFFFF, 0xF3, 0xC);
  for (u32 ring = 0; ring < 4; ring++) {
    struct Cpu cpu = ring_cpu(ring, invlpg_any);
    cpu.esi = 0xFFFFFFFF;
    run_cpu(&cpu);
    if (ring == 0)
      check_done("absent page");
    else
      check_trap("ring", v_protection, 0, invlpg_any);
    cpu.eip = (u32)invlpg_register;
    run_cpu(&cpu);
    check_trap("register", v_opcode, 0, invlpg_register);
    cpu.eip = (u32)invlpg_lock;
    run_cpu(&cpu);
    check_trap("LOCK", v_opcode, 0, invlpg_lock);
  }
  // The segment's base counts.
  for (u32 round = 0; round < 4; round++) {
    map(&space, window + 0x5000, (round & 1 ? large_b : large_a) | open);
    struct Cpu cpu = kernel_cpu(invlpg_fs);
    cpu.fs = based;
    cpu.esi = 0x5123;
    run_cpu(&cpu);
    check_sees("segment with a base", window + 0x5000, round & 1 ? 2000 : 1000);
  }
  paging_off();
}

void guest_main(void) {
  descriptors_init();
  large_a = new_aligned(4 << 20, 4 << 20);
  large_b = new_aligned(4 << 20, 4 << 20);
  fill(large_a, 1000);
  fill(large_b, 2000);
  group("PSE");
  pse();
  group("PGE and global pages");
  global_pages();
  group("INVLPG in large pages");
  invlpg_in_large_pages();
  group("sizes exchanged");
  sizes_exchanged();
  group("WP");
  write_protect();
  group("paging on and off");
  on_and_off();
  group("PAE switched under paging");
  paging_off();
  pae_switched();
  group("INVLPG operands");
  operands();
  finish();
}
