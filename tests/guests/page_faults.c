// Page faults in both 32-bit formats, small and large pages: every combination of present, writable and user in the entries, ring,
// CR0.WP, NX and kind of access, with error code and CR2 (SDM vol. 3, 4.6 and 4.7); accessed and dirty bits (4.8); reserved bits.
//
// qemu: deviates in "rights" (faults of read-modify-write instructions are reported as reads; the host CPU says write)
// qemu: deviates in "reserved bits" (the present bit is missing beside RSVD)
// qemu: deviates in "no-execute" (as "rights")
//
// expect:
//   32-bit 4K: rights: ok
//   32-bit 4K: rights of both levels: ok
//   32-bit 4K: accessed and dirty: ok
//   32-bit 4M: rights: ok
//   32-bit 4M: accessed and dirty: ok
//   32-bit: reserved bits and PSE: ok
//   PAE 4K: rights: ok
//   PAE 4K: rights of both levels: ok
//   PAE 4K: accessed and dirty: ok
//   PAE 2M: rights: ok
//   PAE 2M: accessed and dirty: ok
//   PAE: no-execute: ok
//   PAE: reserved bits: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, probe_offset = 0x1238 };
enum Access { access_read, access_write, access_modify, access_fetch, access_count };

SNIPPET(do_read, "mov eax, [esi]\n" DONE);
SNIPPET(do_write, "mov [esi], eax\n" DONE);
SNIPPET(do_modify, "add dword ptr [esi], 0\n" DONE);
SNIPPET(do_fetch, "jmp esi\n");
static const u8* const codes[access_count] = {do_read, do_write, do_modify, do_fetch};
static const char* const names[access_count] = {"read", "write", "read-modify-write", "fetch"};

static struct Space space;
static bool large;
static u32 frames;  // 4 MiB at a 4 MiB boundary; `int 0x80` at the probed address
static bool nxe;

static u64 get_entry(void) { return large ? get_pde(&space, window) : get_pte(&space, window + probe_offset); }

static void set_entry(u64 flags) {
  if (large)
    set_pde(&space, window, frames | flags | p_large);
  else
    map(&space, window + probe_offset, ((frames + probe_offset) & ~0xFFFu) | flags);
  use_space(&space);
}

static void attempt(enum Access access, bool user) {
  struct Cpu cpu = user ? user_cpu(codes[access]) : kernel_cpu(codes[access]);
  cpu.esi = window + probe_offset;
  cpu.eax = 0x000080CD;  // writes leave the code as it is
  run_cpu(&cpu);
}

// The error code the manual defines, or -1 where the access is allowed.
static i32 expected_error(u64 flags, enum Access access, bool user, bool wp) {
  bool write = access == access_write || access == access_modify;
  u32 error = (write ? e_write : 0u) | (user ? e_user : 0u) | (access == access_fetch && space.pae && nxe ? e_fetch : 0u);
  if (!(flags & p_present)) return (i32)error;
  bool allowed = true;
  if (user && !(flags & p_user)) allowed = false;
  if (write && !(flags & p_write) && (user || wp)) allowed = false;
  if (access == access_fetch && (flags & P_NX)) allowed = false;
  return allowed ? -1 : (i32)(error | e_present);
}

static void set_wp(bool wp) { write_cr0(wp ? read_cr0() | cr0_wp : read_cr0() & ~(u32)cr0_wp); }

static void check_access(u64 flags, enum Access access, bool user, bool wp) {
  attempt(access, user);
  i32 error = expected_error(flags, access, user, wp);
  bool good = error < 0 ? check_done(names[access])
                        : check_page_fault(names[access], (u32)error, window + probe_offset,
                                           access == access_fetch ? (const u8*)(window + probe_offset) : codes[access]);
  if (!good && showing_failures()) printf("       entry flags %x, user %d, wp %d\n", (u32)flags, user, wp);
}

static void rights(void) {
  static const u32 flags[] = {0, p_write | p_user, p_present, p_present | p_write, p_present | p_user, p_present | p_write | p_user};
  for (u32 wp = 0; wp < 2; wp++) {
    for (u32 i = 0; i < ARRAY_SIZE(flags); i++) {
      for (u32 access = 0; access < access_count; access++) {
        for (u32 user = 0; user < 2; user++) {
          set_entry(flags[i]);
          set_wp(wp);
          check_access(flags[i], access, user, wp);
          set_wp(false);
        }
      }
    }
  }
}

// A right holds only if both levels grant it; the leaf is open, the directory entry decides, and the other way round.
static void rights_of_both_levels(void) {
  const u32 all = p_present | p_write | p_user;
  for (u32 denied = 1; denied <= 4; denied <<= 1) {
    for (u32 access = 0; access < access_count; access++) {
      for (u32 user = 0; user < 2; user++) {
        set_entry(all);
        set_pde(&space, window, get_pde(&space, window) & ~(u64)denied);
        use_space(&space);
        set_wp(true);
        check_access(all & ~denied, access, user, true);
        set_wp(false);
        set_pde(&space, window, get_pde(&space, window) | denied);
      }
    }
  }
}

static void accessed_and_dirty(void) {
  const u32 all = p_present | p_write | p_user;
  const u32 bits = p_accessed | p_dirty;
  for (u32 access = 0; access < access_count; access++) {
    for (u32 user = 0; user < 2; user++) {
      bool write = access == access_write || access == access_modify;
      set_entry(all);
      set_pde(&space, window, get_pde(&space, window) & ~(u64)bits);
      use_space(&space);
      attempt(access, user);
      check_done(names[access]);
      check(names[access], (u32)get_entry() & bits, write ? bits : p_accessed);
      check("directory entry accessed", (u32)get_pde(&space, window) & p_accessed, p_accessed);
      if (!large) check("directory entry has no dirty bit", (u32)get_pde(&space, window) & p_dirty, 0);

      // Cleared bits come back at the next access after an INVLPG.
      if (large)
        set_pde(&space, window, get_pde(&space, window) & ~(u64)bits);
      else
        set_pte(&space, window + probe_offset, get_entry() & ~(u64)bits);
      invlpg(window + probe_offset);
      attempt(access, user);
      check("again", (u32)get_entry() & bits, write ? bits : p_accessed);
    }
  }
  // The first write after reads sets the dirty bit without any flush.
  set_entry(all);
  attempt(access_read, true);
  attempt(access_read, true);
  check("reads leave dirty", (u32)get_entry() & bits, p_accessed);
  attempt(access_write, true);
  check("write after reads", (u32)get_entry() & bits, bits);

  // Writes that fault set no dirty bit; entries that are not present stay as they are.
  set_entry(p_present | p_user);
  attempt(access_write, true);
  check("denied write", (u32)get_entry() & p_dirty, 0);
  attempt(access_modify, true);
  check("denied read-modify-write", (u32)get_entry() & p_dirty, 0);
  set_entry(p_write | p_user);
  attempt(access_write, true);
  attempt(access_read, true);
  check("not present", (u32)get_entry() & bits, 0);

  // Supervisor write to a read-only page with WP = 0 works and sets dirty.
  set_entry(p_present);
  attempt(access_write, false);
  check_done("supervisor write without WP");
  check("sets dirty", (u32)get_entry() & bits, bits);
}

static void prepare(bool pae, bool large_pages) {
  space = new_space(pae);
  large = large_pages;
  if (!frames) frames = new_aligned(4 << 20, 4 << 20);
  *(volatile u32*)(frames + probe_offset) = 0x000080CD;
  use_space(&space);
}

static void reserved_two_level(void) {
  prepare(false, true);
  // Bit 21 of an entry for a 4 MiB page is reserved (SDM vol. 3, table 4-4).
  set_entry(p_present | p_write | p_user | 1u << 21);
  attempt(access_read, true);
  check_page_fault("reserved bit, user read", e_present | e_reserved | e_user, window + probe_offset, do_read);
  attempt(access_write, false);
  check_page_fault("reserved bit, supervisor write", e_present | e_reserved | e_write, window + probe_offset, do_write);
  set_entry(p_write | 1u << 21);
  attempt(access_read, false);
  check_page_fault("not present: no reserved bits", 0, window + probe_offset, do_read);

  // With CR4.PSE = 0 the PS bit means nothing: the entry points to a table.
  u32 table = new_page();
  ((u32*)table)[1] = (frames + 0x1000) | p_present | p_write | p_user;
  set_pde(&space, window, table | p_present | p_write | p_user | p_large);
  write_cr4(read_cr4() & ~(u32)cr4_pse);
  write_cr3(space.root);
  attempt(access_fetch, true);
  check_done("PS without PSE is a table");
  check("its entry was used", ((u32*)table)[1] & p_accessed, p_accessed);
}

static void no_execute(void) {
  const u64 all = p_present | p_write | p_user;
  write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
  nxe = true;
  for (u32 size = 0; size < 2; size++) {
    prepare(true, size == 1);
    for (u32 access = 0; access < access_count; access++) {
      for (u32 user = 0; user < 2; user++) {
        set_entry(all | P_NX);
        check_access(all | P_NX, access, user, false);
        set_entry(all);
        check_access(all, access, user, false);
        set_entry(P_NX);
        check_access(P_NX, access, user, false);
        set_entry(p_present | P_NX);
        check_access(p_present | P_NX, access, user, false);
        if (size) continue;
        set_entry(all);  // NX in the directory entry holds for all its pages
        set_pde(&space, window, get_pde(&space, window) | P_NX);
        use_space(&space);
        check_access(all | P_NX, access, user, false);
        set_pde(&space, window, get_pde(&space, window) & ~P_NX);
      }
    }
  }
  write_msr(MSR_EFER, read_msr(MSR_EFER) & ~(u64)EFER_NXE);
  nxe = false;
}

SNIPPET(load_cr3, "mov cr3, eax\n" DONE);

static void reserved_pae(void) {
  const u32 all = p_present | p_write | p_user;
  prepare(true, false);
  set_entry(all | P_NX);  // reserved while EFER.NXE = 0
  attempt(access_read, true);
  check_page_fault("bit 63 without NXE", e_present | e_reserved | e_user, window + probe_offset, do_read);
  attempt(access_write, false);
  check_page_fault("bit 63 without NXE, write", e_present | e_reserved | e_write, window + probe_offset, do_write);
  attempt(access_fetch, true);
  check_page_fault("bit 63 without NXE, fetch", e_present | e_reserved | e_user, window + probe_offset, (const u8*)(window + probe_offset));
  set_entry(all | 1ull << 51);
  attempt(access_read, true);
  check_page_fault("address bit 51", e_present | e_reserved | e_user, window + probe_offset, do_read);
  prepare(true, true);
  set_entry(all | 1u << 13);
  attempt(access_read, true);
  check_page_fault("bit 13 of a 2 MiB page", e_present | e_reserved | e_user, window + probe_offset, do_read);

  // MOV CR3 checks the reserved bits of present directory pointers (SDM vol. 3, 4.4.1) and then changes nothing.
  u32 bad = new_page();
  memcpy((void*)bad, (void*)space.root, 32);
  ((u64*)bad)[3] |= 2;
  struct Cpu cpu = kernel_cpu(load_cr3);
  cpu.eax = bad;
  run_cpu(&cpu);
  check_trap("reserved bit in a directory pointer", v_protection, 0, load_cr3);
  check("cr3 stays", read_cr3(), space.root);
  ((u64*)bad)[3] = 2;
  run_cpu(&cpu);
  check_done("directory pointer not present");
  u32 absent = 0xC0000000;
  cpu = user_cpu(do_read);
  cpu.esi = absent;
  run_cpu(&cpu);
  check_page_fault("access through it", e_user, absent, do_read);
  // The pointers are read at MOV CR3, not at the access.
  ((u64*)bad)[0] = 0;
  attempt(access_read, false);
  check_true("loaded pointers stay as they are", trap.vector == v_page || trap.vector == vector_done);
}

void guest_main(void) {
  descriptors_init();
  for (u32 pae = 0; pae < 2; pae++) {
    prepare(pae, false);
    group(pae ? "PAE 4K: rights" : "32-bit 4K: rights");
    rights();
    group(pae ? "PAE 4K: rights of both levels" : "32-bit 4K: rights of both levels");
    rights_of_both_levels();
    group(pae ? "PAE 4K: accessed and dirty" : "32-bit 4K: accessed and dirty");
    accessed_and_dirty();
    prepare(pae, true);
    group(pae ? "PAE 2M: rights" : "32-bit 4M: rights");
    rights();
    group(pae ? "PAE 2M: accessed and dirty" : "32-bit 4M: accessed and dirty");
    accessed_and_dirty();
    if (!pae) {
      group("32-bit: reserved bits and PSE");
      reserved_two_level();
    }
  }
  group("PAE: no-execute");
  no_execute();
  group("PAE: reserved bits");
  reserved_pae();
  finish();
}
