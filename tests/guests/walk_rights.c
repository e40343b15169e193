// Every combination of present, writable, user and no-execute bits in directory and table entry, in both formats and all page sizes, for
// every kind of access from rings 0 and 3, with CR0.WP and EFER.NXE off and on: whether it faults, the error code and CR2, and both
// entries afterwards. Expected is what SDM vol. 3 says in 4.6 (rights), 4.7 (error code) and 4.8 (accessed and dirty); the ignored bits of
// the entries are random.
//
// What 4.8 leaves open is left open here: whether the directory entry is marked accessed when the access faults.
//
// qemu: deviates in "modify" (faults of read-modify-write instructions are reported as reads)
// qemu: deviates in "no NXE" (the present bit is missing beside RSVD)
//
// expect:
//   32-bit 4K: ok
//   32-bit 4K: modify: ok
//   32-bit 4M: ok
//   32-bit 4M: modify: ok
//   PAE 4K, no NXE: ok
//   PAE 4K, no NXE: modify: ok
//   PAE 2M, no NXE: ok
//   PAE 2M, no NXE: modify: ok
//   PAE 4K, NXE: ok
//   PAE 4K, NXE: modify: ok
//   PAE 2M, NXE: ok
//   PAE 2M, NXE: modify: ok
//   rings 1 and 2 are supervisors: ok
//   rings 1 and 2 are supervisors: modify: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, offset = 0x1238, target = window + offset };
static struct Space space;
static u32 frames;  // 4 MiB at a 4 MiB boundary
static bool nxe;
static u32 seed = 20260;

// Software bits, cache bits and global; PWT and PCD choose nothing that a program can see.
static u64 ignored_bits(void) { return next_random(&seed) & 0xF18; }

// Of an access that walks over these entries (large: `table` is not used). -1: no fault.
static i32 expected(u64 directory, u64 table, bool large, enum Probe kind, u32 ring, bool wp) {
  const bool user = ring == 3, fetch = kind == probe_fetch, write = probe_writes(kind);
  const u32 access = (write ? e_write : 0) | (user ? e_user : 0) | (fetch && space.pae && nxe ? e_fetch : 0);
  const u64 reserved = space.pae && !nxe ? P_NX : 0;
  if (!(directory & p_present)) return (i32)access;
  if (directory & reserved) return (i32)(access | e_present | e_reserved);
  u64 every = directory, any = directory;
  if (!large) {
    if (!(table & p_present)) return (i32)access;
    if (table & reserved) return (i32)(access | e_present | e_reserved);
    every &= table;
    any |= table;
  }
  bool denied = false;
  if (user && !(every & p_user)) denied = true;
  if (write && !(every & p_write) && (user || wp)) denied = true;
  if (fetch && (any & P_NX)) denied = true;  // only under NXE: otherwise it is reserved
  return denied ? (i32)(access | e_present) : -1;
}

static u64 rights_bits(u32 index) { return (index & 7) | (index & 8 ? P_NX : 0); }

static void one(u64 directory_rights, u64 table_rights, bool large, enum Probe kind, u32 ring, bool wp) {
  u64 directory = large ? frames | directory_rights | ignored_bits() | p_large
                        : (get_pde(&space, window) & 0xFFFFF000u) | directory_rights | (ignored_bits() & 0xE18);
  u64 table = ((frames + offset) & ~0xFFFu) | table_rights | ignored_bits();
  if (!large) set_pte(&space, target, table);
  set_pde(&space, target, directory);
  invlpg(target);
  probe(kind, ring, target);
  // Only a snapshot: the entries may be read through whatever they say.
  u64 directory_after = get_pde(&space, target), table_after = large ? 0 : get_pte(&space, target);

  i32 error = expected(directory, table, large, kind, ring, wp);
  bool good = check_probe("fault", kind, target, error);
  u64 leaf_bits = p_accessed | (probe_writes(kind) ? p_dirty : 0);
  if (error < 0) {
    good &= check_true("directory entry", directory_after == (directory | (large ? leaf_bits : p_accessed)));
    good &= check_true("table entry", large || table_after == (table | leaf_bits));
  } else if (large) {
    good &= check_true("directory entry", directory_after == directory);
  } else {
    good &= check_true("directory entry", (directory_after & ~(u64)p_accessed) == directory);
    good &= check_true("directory entry not present", (directory & p_present) || directory_after == directory);
    good &= check_true("table entry", table_after == table);
  }
  if (!good && showing_failures())
    printf("       directory %x %x, table %x %x, probe %u, ring %u, wp %u\n", (u32)(directory >> 32), (u32)directory, (u32)(table >> 32),
           (u32)table, kind, ring, wp);
}

static void one_kind(bool large, enum Probe kind, bool wp) {
  const u32 count = space.pae ? 16 : 8;
  for (u32 directory = 0; directory < count; directory++) {
    for (u32 table = 0; table < (large ? 1 : count); table++) {
      for (u32 ring = 0; ring < 4; ring += 3) one(rights_bits(directory), rights_bits(table), large, kind, ring, wp);
    }
  }
}

static void every_combination(const char* name, const char* modify_name, bool large) {
  for (u32 modify = 0; modify < 2; modify++) {
    group(modify ? modify_name : name);
    for (u32 wp = 0; wp < 2; wp++) {
      write_cr0(wp ? read_cr0() | cr0_wp : read_cr0() & ~(u32)cr0_wp);
      for (u32 kind = 0; kind < probe_count; kind++) {
        if ((kind == probe_modify) == (modify == 1)) one_kind(large, kind, wp);
      }
    }
  }
  write_cr0(read_cr0() & ~(u32)cr0_wp);
}

static void prepare(bool pae) {
  space = new_space(pae);
  use_space(&space);
  map(&space, target, 0);  // makes the table
}

static void inner_rings(bool modify) {
  write_cr0(read_cr0() | cr0_wp);
  for (u32 ring = 1; ring < 3; ring++) {
    for (u32 rights = 0; rights < 8; rights++) {
      for (u32 kind = 0; kind < probe_count; kind++) {
        if ((kind == probe_modify) == modify) one(p_present | p_write, rights, false, kind, ring, true);
      }
    }
  }
  write_cr0(read_cr0() & ~(u32)cr0_wp);
}

void guest_main(void) {
  descriptors_init();
  frames = new_aligned(4 << 20, 4 << 20);
  write32(frames + offset, probe_word);
  prepare(false);
  every_combination("32-bit 4K", "32-bit 4K: modify", false);
  every_combination("32-bit 4M", "32-bit 4M: modify", true);
  prepare(true);
  every_combination("PAE 4K, no NXE", "PAE 4K, no NXE: modify", false);
  every_combination("PAE 2M, no NXE", "PAE 2M, no NXE: modify", true);
  nxe = true;
  write_msr(MSR_EFER, EFER_NXE);
  prepare(true);
  every_combination("PAE 4K, NXE", "PAE 4K, NXE: modify", false);
  every_combination("PAE 2M, NXE", "PAE 2M, NXE: modify", true);
  write_msr(MSR_EFER, 0);
  nxe = false;
  prepare(false);
  group("rings 1 and 2 are supervisors");
  inner_rings(false);
  group("rings 1 and 2 are supervisors: modify");
  inner_rings(true);
  finish();
}
