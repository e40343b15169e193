// The PDPTE registers of PAE paging (SDM vol. 3, 4.4.1): loaded from memory by MOV to CR3, and by MOV to CR0 or CR4 that changes CD, NW,
// PG, PAE, PGE or PSE; a reserved bit in a present one is #GP(0) and changes nothing. In between, memory does not count, nothing is marked
// in it, and an entry that is not present faults at its accesses.
//
// qemu: deviates (it reads the entries from memory at every walk)
//
// expect:
//   MOV CR3: ok
//   MOV CR0: ok
//   MOV CR4: ok
//   memory in between: ok
//   what loads them: ok
//   not present: ok
//   base and ignored bits: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, high_window = 0xC0000000 };
static struct Space space;
static u32 physical_bits;
static u32 frame;

SNIPPET(load_cr0, "mov cr0, eax\n" DONE);
SNIPPET(load_cr3, "mov cr3, eax\n" DONE);
SNIPPET(load_cr4, "mov cr4, eax\n" DONE);

static bool reserved_bit(u32 bit) { return bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= physical_bits; }

static void load(const u8* code, u32 value) {
  struct Cpu cpu = kernel_cpu(code);
  cpu.eax = value;
  run_cpu(&cpu);
}

// A copy of the root with one more bit in one entry.
static u64* other_root;
static void spoil(u32 entry, u32 bit, bool present) {
  memcpy(other_root, (void*)space.root, 32);
  if (!present) other_root[entry] = 0;
  other_root[entry] |= 1ull << bit;
}

// Bits that a present entry may have, apart from those of its address.
static bool skipped(u32 bit) { return bit == 0 || (bit >= 12 && bit < physical_bits); }

static void by_cr3(void) {
  for (u32 entry = 0; entry < 4; entry++) {
    for (u32 bit = 0; bit < 64; bit++) {
      if (skipped(bit)) continue;
      spoil(entry, bit, true);
      load(load_cr3, (u32)other_root);
      if (reserved_bit(bit)) {
        check_trap("reserved bit", v_protection, 0, load_cr3);
        check("CR3 stays", read_cr3(), space.root);
      } else {
        check_done("ignored bit");
        check("CR3", read_cr3(), (u32)other_root);
      }
      write_cr3(space.root);
      // Entry 0 maps the code that runs here.
      if (entry == 0) continue;
      spoil(entry, bit, false);
      load(load_cr3, (u32)other_root);
      check_done("not present: nothing is reserved");
      write_cr3(space.root);
    }
  }
}

static void by_cr0(void) {
  const u32 on = read_cr0();
  for (u32 entry = 0; entry < 4; entry++) {
    for (u32 bit = 0; bit < 64; bit++) {
      if (skipped(bit)) continue;
      paging_off();
      spoil(entry, bit, true);
      write_cr3((u32)other_root);  // nothing is read while paging is off
      load(load_cr0, on);
      if (reserved_bit(bit)) {
        check_trap("reserved bit", v_protection, 0, load_cr0);
        check("CR0 stays", read_cr0(), on & ~(u32)cr0_pg);
      } else {
        check_done("ignored bit");
        check("CR0", read_cr0(), on);
      }
      paging_off();
      write_cr3(space.root);
      write_cr0(on);
    }
  }
  // CD and NW load them as well.
  static const u32 changes[] = {1u << 30, 1u << 30 | 1u << 29};
  for (u32 i = 0; i < ARRAY_SIZE(changes); i++) {
    memcpy(other_root, (void*)space.root, 32);
    write_cr3((u32)other_root);
    other_root[2] |= 2;
    load(load_cr0, on ^ changes[i]);
    check_trap("CD or NW", v_protection, 0, load_cr0);
    check("CR0 stays", read_cr0(), on);
    other_root[2] &= ~2ull;
    load(load_cr0, on ^ changes[i]);
    check_done("good again");
    other_root[2] |= 2;
    load(load_cr0, on);
    check_trap("and back", v_protection, 0, load_cr0);
    check("CR0 stays", read_cr0(), on ^ changes[i]);
    other_root[2] &= ~2ull;
    write_cr0(on);
    write_cr3(space.root);
  }
}

static void by_cr4(void) {
  static const u32 changes[] = {cr4_pge, cr4_pse, cr4_pge | cr4_pse};
  for (u32 i = 0; i < ARRAY_SIZE(changes); i++) {
    for (u32 bit = 0; bit < 64; bit++) {
      if (skipped(bit)) continue;
      const u32 before = read_cr4();
      memcpy(other_root, (void*)space.root, 32);
      write_cr3((u32)other_root);
      spoil(3, bit, true);
      load(load_cr4, before ^ changes[i]);
      if (reserved_bit(bit)) {
        check_trap("reserved bit", v_protection, 0, load_cr4);
        check("CR4 stays", read_cr4(), before);
      } else {
        check_done("ignored bit");
        check("CR4", read_cr4(), before ^ changes[i]);
      }
      memcpy(other_root, (void*)space.root, 32);
      write_cr4(before);
      write_cr3(space.root);
    }
  }
}

// Registers, not memory: a changed entry counts neither way before a load, also for addresses that were never touched.
static void memory_in_between(void) {
  u64* root = (u64*)space.root;
  const u64 saved[4] = {root[0], root[1], root[2], root[3]};
  for (u32 ring = 0; ring < 4; ring += 3) {
    for (u32 i = 0; i < 8; i++) map(&space, window + i * page_bytes, frame | p_present | p_write | p_user);
    write_cr3(space.root);
    root[1] = 0;
    root[3] = 0;
    for (u32 i = 0; i < 8; i++) {
      invlpg(window + i * page_bytes);
      probe(i & 1 ? probe_fetch : probe_write, ring, window + i * page_bytes);
      check_probe("present in the register", 0, 0, -1);
    }
    write_cr3(space.root);
    for (u32 i = 0; i < 8; i++) {
      probe(i & 3, ring, window + i * page_bytes);
      check_probe("loaded", i & 3, window + i * page_bytes, (i32)((ring ? e_user : 0u) | (probe_writes(i & 3) ? e_write : 0u)));
    }
    memcpy(root, saved, 32);
    for (u32 i = 0; i < 8; i++) {
      invlpg(window + i * page_bytes);
      probe(i & 3, ring, window + i * page_bytes);
      check_probe("not present in the register", i & 3, window + i * page_bytes,
                  (i32)((ring ? e_user : 0u) | (probe_writes(i & 3) ? e_write : 0u)));
    }
    write_cr3(space.root);
    probe(probe_write, ring, window);
    check_probe("loaded again", 0, 0, -1);
    check_true("nothing is marked in them", memcmp(root, saved, 32) == 0);
  }
  // Exchanged for another table.
  u64* directory = (u64*)(u32)new_page();
  u32 other = new_page();
  write32(other, 0x22222222);
  write32(frame, 0x11111111);
  u64* entries = (u64*)(u32)new_page();
  directory[0] = (u32)entries | p_present | p_write | p_user;
  entries[0] = other | p_present | p_write | p_user;
  check("first table", read32(window), 0x11111111);
  root[1] = (u32)directory | p_present;
  invlpg(window);
  check("still the first", read32(window), 0x11111111);
  write_cr3(space.root);
  check("the second", read32(window), 0x22222222);
  root[1] = saved[1];
  write_cr3(space.root);
  write32(frame, probe_word);
}

// Which writes load the registers: entry 3 in memory is exchanged between "present" and "not" each time.
static void what_loads(void) {
  static const struct {
    const char* what;
    u32 cr, change;
    bool loads;
  } rows[] = {
      {"CR0.WP", 0, cr0_wp, false},
      {"CR0.TS", 0, cr0_ts, false},
      {"CR0.MP, EM, NE", 0, cr0_mp | cr0_em | cr0_ne, false},
      {"CR0.AM", 0, 1u << 18, false},
      {"CR0 unchanged", 0, 0, false},
      {"CR4 unchanged", 4, 0, false},
      {"CR4.TSD", 4, cr4_tsd, false},
      {"CR4.PCE", 4, 0x100, false},
      {"CR4.OSFXSR", 4, cr4_osfxsr, false},
      {"CR0.CD", 0, 1u << 30, true},
      {"CR0.CD, NW", 0, 3u << 29, true},
      {"CR4.PGE", 4, cr4_pge, true},
      {"CR4.PSE", 4, cr4_pse, true},
      {"CR3", 3, 0, true},
  };
  u64* root = (u64*)space.root;
  map(&space, high_window, frame | p_present | p_write | p_user);
  const u64 good = root[3];
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    for (u32 back = 0; back < 2; back++) {
      for (u32 present = 0; present < 2; present++) {
        root[3] = present ? 0 : good;
        write_cr3(space.root);
        root[3] = present ? good : 0;
        if (rows[i].cr == 0) load(load_cr0, read_cr0() ^ rows[i].change);
        if (rows[i].cr == 3) load(load_cr3, space.root);
        if (rows[i].cr == 4) load(load_cr4, read_cr4() ^ rows[i].change);
        check_done(rows[i].what);
        invlpg(high_window);
        probe(probe_read, 0, high_window);
        bool seen = rows[i].loads ? present : !present;
        check_probe(rows[i].what, probe_read, high_window, seen ? -1 : 0);
        if (rows[i].cr == 0) write_cr0(read_cr0() ^ rows[i].change);
        if (rows[i].cr == 4) write_cr4(read_cr4() ^ rows[i].change);
      }
    }
  }
  root[3] = good;
  write_cr3(space.root);
}

static void not_present(void) {
  u64* root = (u64*)space.root;
  const u64 good = root[3];
  for (u32 nxe = 0; nxe < 2; nxe++) {
    write_msr(MSR_EFER, nxe ? EFER_NXE : 0);
    root[3] = ~1ull;
    write_cr3(space.root);
    for (u32 kind = 0; kind < probe_count; kind++) {
      for (u32 ring = 0; ring < 4; ring++) {
        for (u32 i = 0; i < 4; i++) {
          const u32 at = high_window + i * 0x15555554;
          probe(kind, ring, at);
          check_probe("not present", kind, at,
                      (i32)((probe_writes(kind) ? e_write : 0u) | (ring == 3 ? e_user : 0u) | (kind == probe_fetch && nxe ? e_fetch : 0u)));
        }
      }
    }
    root[3] = good;
    write_cr3(space.root);
  }
  write_msr(MSR_EFER, 0);
}

// CR3 bits 31:5 are the address; 4:0 are not.
static void base(void) {
  u8* page = (u8*)new_page();
  for (u32 at = 0; at < page_bytes; at += 992) {
    u32 place = (u32)page + (at & ~31u);
    memset(page, 0xFF, page_bytes);  // only the right 32 bytes will do
    memcpy((void*)place, (void*)space.root, 32);
    for (u32 i = 0; i < 4; i++) ((u64*)place)[i] |= 0xE18;  // ignored ones
    for (u32 low = 0; low < 32; low += 31) {
      load(load_cr3, place | low);
      check_done("base");
      check("CR3", read_cr3() & ~31u, place);
      probe(probe_read, 3, window);
      check_probe("read", probe_read, window, -1);
      probe(probe_write, 3, high_window);
      check_probe("write", probe_write, high_window, -1);
    }
    write_cr3(space.root);
  }
}

void guest_main(void) {
  descriptors_init();
  physical_bits = cpuid(0x80000000).eax >= 0x80000008 ? cpuid(0x80000008).eax & 0xFF : 36;
  space = new_space(true);
  other_root = (u64*)new_page();
  frame = new_page();
  for (u32 i = 0; i < page_bytes; i += 4) write32(frame + i, probe_word);
  use_space(&space);
  group("MOV CR3");
  by_cr3();
  group("MOV CR0");
  by_cr0();
  group("MOV CR4");
  by_cr4();
  group("memory in between");
  memory_in_between();
  group("what loads them");
  what_loads();
  group("not present");
  not_present();
  group("base and ignored bits");
  base();
  finish();
}
