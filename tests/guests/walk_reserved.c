// Reserved bits of page-table entries: every bit of every kind of entry, one at a time, in both formats. Which ones are reserved is
// computed here from SDM vol. 3, 4.3 (tables 4-4 to 4-6) and 4.4.2 (tables 4-8 to 4-11) and from what CPUID says of the processor: PSE-36,
// PAT, MAXPHYADDR. A violation has RSVD and P in its error code (4.7), comes before all checks of rights, and marks nothing in its entry.
//
// qemu: deviates in "PAE" (the present bit is missing beside RSVD)
// qemu: deviates in "4 MiB" (likewise, and only bit 21 is reserved)
// qemu: deviates in "2 MiB" (the present bit is missing beside RSVD)
// qemu: deviates in "NXE" (likewise)
// qemu: deviates in "order" (likewise)
// qemu: deviates in "not present" (faults of read-modify-write instructions are reported as reads)
//
// expect:
//   32-bit directory entries and 4 KiB pages: ok
//   32-bit without PSE: ok
//   4 MiB pages: ok
//   PAE directory entries: ok
//   PAE 4 KiB pages: ok
//   2 MiB pages: ok
//   PAE with NXE: ok
//   entries that are not present: ok
//   order of the checks: ok
//   NXE switched: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, offset = 0x3238, target = window + offset, open = p_present | p_write | p_user };
static struct Space space;
static u32 frames;  // 4 MiB at a 4 MiB boundary
static u32 table;   // of `window`
static bool nxe, pse36, pat;
static u32 physical_bits;

static void prepare(bool pae) {
  space = new_space(pae);
  use_space(&space);
  table = new_page();
}

static u64 bits(u32 high, u32 low) {
  u64 value = 0;
  for (u32 i = low; i <= high && high < 64; i++) value |= 1ull << i;
  return value;
}

enum Entry { directory_entry, table_entry, large_entry };

static u64 reserved_bits(enum Entry kind) {
  if (space.pae) {
    u64 reserved = bits(62, physical_bits) | (nxe ? 0 : P_NX);
    if (kind == large_entry) reserved |= bits(20, 13) | (pat ? 0 : bits(12, 12));
    if (kind == table_entry && !pat) reserved |= bits(7, 7);
    return reserved;
  }
  if (!(read_cr4() & cr4_pse)) return 0;
  if (kind == table_entry) return pat ? 0 : bits(7, 7);
  if (kind == directory_entry) return 0;
  u32 reach = physical_bits < 40 ? physical_bits : 40;
  return (pse36 ? bits(21, reach - 19) : bits(21, 13)) | (pat ? 0 : bits(12, 12));
}

// Bits of an address that exists: they only lead elsewhere.
static u64 address_bits(enum Entry kind) {
  u32 top = space.pae ? physical_bits - 1 : 31;
  if (kind != large_entry) return bits(top, 12);
  u64 more = !space.pae && pse36 ? bits((physical_bits < 40 ? physical_bits : 40) - 20, 13) : 0;
  return bits(top, space.pae ? 21 : 22) | more;
}

// Writes both entries; `which` gets `extra`.
static void set_entries(enum Entry which, u64 extra) {
  u64 leaf = (frames + (offset & ~0xFFFu)) | open;
  u64 directory = which == large_entry ? frames | open | p_large : table | open;
  if (which == table_entry)
    leaf |= extra;
  else
    directory |= extra;
  set_pde(&space, window, directory);
  if (space.pae)
    ((u64*)table)[target >> 12 & 511] = leaf;
  else
    ((u32*)table)[target >> 12 & 1023] = (u32)leaf;
  invlpg(target);
}

static u64 entry_after(enum Entry which) {
  if (which != table_entry) return get_pde(&space, window);
  return space.pae ? ((u64*)table)[target >> 12 & 511] : ((u32*)table)[target >> 12 & 1023];
}

static i32 rsvd_error(enum Probe kind, u32 ring) {
  return (i32)(e_present | e_reserved | (probe_writes(kind) ? e_write : 0) | (ring == 3 ? e_user : 0) |
               (kind == probe_fetch && nxe && space.pae ? e_fetch : 0));
}

static void each_bit(enum Entry which) {
  const u64 skipped = address_bits(which) | open | p_accessed | p_dirty | p_large;
  for (u32 bit = 0; bit < (space.pae ? 64u : 32u); bit++) {
    u64 extra = 1ull << bit;
    bool reserved = (reserved_bits(which) & extra) != 0;
    if (!reserved && (skipped & extra)) continue;
    bool all_good = true;
    for (u32 kind = 0; kind < probe_count; kind++) {
      for (u32 ring = 0; ring < 4; ring += 3) {
        if (kind == probe_fetch && !all_good) continue;      // a machine that reads there would run away there
        bool no_execute = bit == 63 && kind == probe_fetch;  // under NXE
        set_entries(which, extra);
        u64 before = entry_after(which);
        probe(kind, ring, target);
        i32 error = reserved ? rsvd_error(kind, ring) : no_execute ? (i32)(e_present | e_fetch | (ring == 3 ? e_user : 0)) : -1;
        bool good = check_probe("access", kind, target, error);
        u64 changed = entry_after(which) ^ before;
        if (error >= 0) {
          // A directory entry above a leaf that forbids the access may be marked or not.
          if (!(no_execute && which == directory_entry)) good &= check_true("entry", changed == 0);
        } else {
          u64 dirty = probe_writes(kind) && which != directory_entry ? p_dirty : 0;
          good &= check_true("entry", changed == (p_accessed | dirty));
        }
        all_good &= good;
        if (!good && showing_failures()) printf("       bit %u, probe %u, ring %u\n", bit, kind, ring);
      }
    }
  }
}

static void without_pse(void) {
  prepare(false);
  write_cr4(read_cr4() & ~(u32)cr4_pse);
  each_bit(directory_entry);
  each_bit(table_entry);
  // PS means nothing then.
  for (u32 kind = 0; kind < probe_count; kind++) {
    set_entries(directory_entry, p_large);
    probe(kind, 3, target);
    check_probe("PS in a directory entry", kind, target, -1);
    check("the table's entry was used", (u32)entry_after(table_entry) & p_accessed, p_accessed);
    check("directory entry has no dirty bit", (u32)entry_after(directory_entry) & (p_accessed | p_dirty), p_accessed);
  }
  write_cr4(read_cr4() | cr4_pse);
}

// Of an entry with P = 0 nothing else counts.
static void not_present(void) {
  for (u32 pae = 0; pae < 2; pae++) {
    prepare(pae);
    for (u32 which = 0; which < 3; which++) {
      for (u32 kind = 0; kind < probe_count; kind++) {
        for (u32 ring = 0; ring < 4; ring += 3) {
          set_entries(which, 0);
          u64 entry = ~1ull;
          if (which != table_entry)
            set_pde(&space, window, entry);
          else if (pae)
            ((u64*)table)[target >> 12 & 511] = entry;
          else
            ((u32*)table)[target >> 12 & 1023] = (u32)entry;
          invlpg(target);
          u64 before = entry_after(which);
          probe(kind, ring, target);
          check_probe(
              "not present", kind, target,
              (i32)((probe_writes(kind) ? e_write : 0u) | (ring == 3 ? e_user : 0u) | (kind == probe_fetch && nxe && pae ? e_fetch : 0u)));
          check_true("entry", entry_after(which) == before);
        }
      }
    }
  }
}

static void order(void) {
  prepare(true);
  const u64 far = 1ull << 62;
  for (u32 kind = 0; kind < probe_count; kind++) {
    for (u32 ring = 0; ring < 4; ring += 3) {
      // Reserved in the directory: what the table says is not looked at.
      for (u32 below = 0; below < 3; below++) {
        set_entries(directory_entry, far);
        ((u64*)table)[target >> 12 & 511] = below == 0 ? 0 : below == 1 ? (u64)p_present : frames | open | far;
        u64 before = ((u64*)table)[target >> 12 & 511];
        probe(kind, ring, target);
        check_probe("directory", kind, target, rsvd_error(kind, ring));
        check_true("table entry as before", ((u64*)table)[target >> 12 & 511] == before);
      }
      // Reserved in the table entry: rights of either level do not come into it, and the directory's presence comes first.
      for (u32 rights = 0; rights < 16; rights++) {
        set_entries(table_entry, far);
        set_pde(&space, window, table | p_present | (rights & 3) << 1);
        ((u64*)table)[target >> 12 & 511] = frames | p_present | (rights >> 2) << 1 | far;
        invlpg(target);
        probe(kind, ring, target);
        check_probe("table entry", kind, target, rsvd_error(kind, ring));
        check_true("table entry is not marked", ((u64*)table)[target >> 12 & 511] == (frames | p_present | (rights >> 2) << 1 | far));
        set_pde(&space, window, table | (rights & 3) << 1);
        invlpg(target);
        probe(kind, ring, target);
        check_probe("directory not present", kind, target,
                    (i32)((probe_writes(kind) ? e_write : 0u) | (ring == 3 ? e_user : 0u) | (kind == probe_fetch && nxe ? e_fetch : 0u)));
      }
    }
  }
}

static void nxe_switched(void) {
  prepare(true);
  for (u32 round = 0; round < 6; round++) {
    nxe = round & 1;
    write_msr(MSR_EFER, nxe ? EFER_NXE : 0);
    write_cr3(read_cr3());
    for (u32 which = 0; which < 3; which++) {
      for (u32 kind = 0; kind < probe_count; kind++) {
        for (u32 ring = 0; ring < 4; ring += 3) {
          set_entries(which, P_NX);
          probe(kind, ring, target);
          bool fetch = kind == probe_fetch;
          check_probe("bit 63", kind, target,
                      !nxe    ? rsvd_error(kind, ring)
                      : fetch ? (i32)(e_present | e_fetch | (ring == 3 ? e_user : 0))
                              : -1);
        }
      }
    }
  }
}

void guest_main(void) {
  descriptors_init();
  pse36 = cpuid(1).edx >> 17 & 1;
  pat = cpuid(1).edx >> 16 & 1;
  physical_bits = cpuid(0x80000000).eax >= 0x80000008 ? cpuid(0x80000008).eax & 0xFF : 36;
  frames = new_aligned(4 << 20, 4 << 20);
  write32(frames + offset, probe_word);

  prepare(false);
  group("32-bit directory entries and 4 KiB pages");
  each_bit(directory_entry);
  each_bit(table_entry);
  group("32-bit without PSE");
  without_pse();
  group("4 MiB pages");
  prepare(false);
  each_bit(large_entry);
  group("PAE directory entries");
  prepare(true);
  each_bit(directory_entry);
  group("PAE 4 KiB pages");
  each_bit(table_entry);
  group("2 MiB pages");
  each_bit(large_entry);
  group("PAE with NXE");
  nxe = true;
  write_msr(MSR_EFER, EFER_NXE);
  prepare(true);
  each_bit(directory_entry);
  each_bit(table_entry);
  each_bit(large_entry);
  group("entries that are not present");
  not_present();
  group("order of the checks");
  order();
  group("NXE switched");
  nxe_switched();
  finish();
}
