// Page tables in odd places: mapped through themselves, so that entries are read and written at linear addresses while they are in use;
// in memory that is not there or belongs to a device; frames beyond all RAM (SDM vol. 3, 4.3-4.8). What an entry outside RAM says is found
// by reading its address with paging off; the rest is computed from that value.
//
// qemu: deviates in "tables outside RAM" (the present bit is missing beside RSVD)
//
// expect:
//   32-bit: tables through themselves: ok
//   32-bit: marks seen through themselves: ok
//   PAE: tables through themselves: ok
//   PAE: marks seen through themselves: ok
//   tables outside RAM: ok
//   frames outside RAM: ok
//   directory as its own data: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, open = p_present | p_write | p_user, marks = p_accessed | p_dirty };
static struct Space space;
static u32 frames;  // 16 pages; page n starts with `int 0x80`, then n + 500

// Entry of the top directory (32-bit), or the last four of the last directory (PAE), lead to the tables themselves: all table entries lie
// in one array at `self`, all directory entries at `directories`.
static u32 self, directories;

static void map_self(void) {
  if (space.pae) {
    u64* last = (u64*)(u32)(((u64*)space.root)[3] & 0xFFFFF000u);
    for (u32 i = 0; i < 4; i++) last[508 + i] = (((u64*)space.root)[i] & 0xFFFFF000u) | open;
    self = 0xFF800000;
    directories = self + (self >> 12) * 8;
  } else {
    ((u32*)space.root)[1023] = space.root | open;
    self = 0xFFC00000;
    directories = self + (self >> 12) * 4;
  }
}

static u32 entry_size(void) { return space.pae ? 8 : 4; }
static u32 table_entry_at(u32 linear) { return self + (linear >> 12) * entry_size(); }
static u32 directory_entry_at(u32 linear) { return directories + (linear >> (space.pae ? 21 : 22)) * entry_size(); }

SNIPPET(read_user, "mov eax, [esi + 4]\n" DONE);
SNIPPET(remap_loop,
        // For each page number in ECX..1: point the entry at [EDI] to frame EBX + ECX pages, flush, and add what is there to EBP.
        "xor ebp, ebp\n"
        "1: mov eax, ecx\n shl eax, 12\n lea eax, [eax + ebx]\n mov [edi], eax\n invlpg [esi]\n add ebp, [esi + 4]\n"
        "mov edx, [edi]\n and edx, 0x20\n lea ebp, [ebp + edx * 8]\n dec ecx\n jnz 1b\n" DONE);

static void through_themselves(void) {
  map(&space, window, frames | open);
  // Reads agree with what is in memory, for many addresses.
  u32 state = 4711;
  for (u32 i = 0; i < 200; i++) {
    u32 linear = i & 1 ? next_random(&state) % identity_end : window;
    check("table entry", read32(table_entry_at(linear)) & ~(u32)marks, (u32)get_pte(&space, linear) & ~(u32)marks);
    check("directory entry", read32(directory_entry_at(linear)) & ~(u32)marks, (u32)get_pde(&space, linear) & ~(u32)marks);
  }
  // Remapping by stores through the map, from C and in a loop; ring 3 may do it, too.
  for (u32 i = 0; i < 16; i++) {
    write32(table_entry_at(window), (frames + i * page_bytes) | open);
    invlpg(window);
    check("remapped", read32(window + 4), 500 + i);
    check("entry in memory", (u32)get_pte(&space, window) & ~(u32)marks, (frames + i * page_bytes) | open);
    struct Cpu cpu = user_cpu(read_user);
    cpu.esi = window;
    run_cpu(&cpu);
    check("user", trap.cpu.eax, 500 + i);
  }
  struct Cpu cpu = kernel_cpu(remap_loop);
  cpu.ecx = 15;
  cpu.ebx = frames | open;
  cpu.edi = table_entry_at(window);
  cpu.esi = window;
  run_cpu(&cpu);
  check_done("loop");
  // The entry was read back after the access, with its accessed bit: 15 times 20h * 8.
  check("sum", trap.cpu.ebp, 15 * 500 + 15 * 16 / 2 + 15 * 0x100);
  // A new table: made present in the directory, filled and used through the map at once.
  u32 fresh = new_page(), linear = window + (64 << 20);
  write32(directory_entry_at(linear), fresh | open);
  if (space.pae) write32(directory_entry_at(linear) + 4, 0);
  invlpg(table_entry_at(linear));
  write32(table_entry_at(linear), (frames + 7 * page_bytes) | open);
  check("new table", read32(linear + 4), 507);
  check("stored in it", read32(fresh) & ~(u32)marks, (frames + 7 * page_bytes) | open);
  // And taken away.
  write32(directory_entry_at(linear), 0);
  invlpg(linear);
  invlpg(table_entry_at(linear));
  probe(probe_read, 3, linear);
  check_probe("table taken away", probe_read, linear, e_user);
  probe(probe_read, 3, table_entry_at(linear));
  check_probe("its place in the map", probe_read, table_entry_at(linear), e_user);
}

static void marks_through_themselves(void) {
  const u32 own = table_entry_at(self);  // 32-bit: the entry that maps itself
  u32 linear = window + 0x1000;
  map(&space, linear, (frames + page_bytes) | open);
  write_cr3(space.root);
  // Before, between, after: each read of the entry tells what the accesses so far have marked.
  write32(table_entry_at(linear), (frames + page_bytes) | open);
  invlpg(linear);
  check("not accessed", read32(table_entry_at(linear)) & marks, 0);
  (void)read32(linear);
  check("read", read32(table_entry_at(linear)) & marks, p_accessed);
  write32(linear + 8, 1);
  check("written", read32(table_entry_at(linear)) & marks, marks);
  check("directory entry", read32(directory_entry_at(linear)) & p_accessed, p_accessed);
  // A read through the map marks the entry that maps the table: accessed, and dirty once the map was written through.
  const u64 saved = get_pde(&space, linear);
  set_pde(&space, linear, saved & ~(u64)marks);
  write_cr3(space.root);
  (void)read32(table_entry_at(linear));
  check("table read", (u32)get_pde(&space, linear) & marks, p_accessed);
  write32(table_entry_at(linear) + 16 * entry_size(), 0);
  check("table written", (u32)get_pde(&space, linear) & marks, marks);
  if (!space.pae) {
    // The one entry that is directory entry and table entry of its own address: read, it shows its own accessed bit; written, the store
    // comes after the marks.
    u32* top = (u32*)space.root + 1023;
    *top = space.root | open;
    write_cr3(space.root);
    check("reads itself", read32(own + 1023 * 4 - (own & 0xFFF)), space.root | open | p_accessed);
    write_cr3(space.root);
    u32 at = self + 0x3FFFFC;
    write32(at, space.root | open | 0x800);
    check("writes itself", *top, space.root | open | 0x800);
    check("reads itself again", read32(at) & ~(u32)marks, space.root | open | 0x800);
  }
}

// The machine has no RAM at these places: holes, the registers of devices and the ROM of many boards.
static const u32 outside[] = {0xF0000000, 0xE0001000, 0xFEC00000, 0xFFFFF000, 0xFFFF0000, 0x80000000, 0xA0000};

static i32 walk_error(u64 entry, bool pae, enum Probe kind, u32 ring) {
  u32 access = (probe_writes(kind) ? e_write : 0u) | (ring == 3 ? e_user : 0u);
  if (!(entry & p_present)) return (i32)access;
  if (pae && (entry >> 36)) return (i32)(access | e_present | e_reserved);  // MAXPHYADDR is 36 or more; these values are 0 or all ones
  if (ring == 3 && !(entry & p_user)) return (i32)(access | e_present);
  if (ring == 3 && probe_writes(kind) && !(entry & p_write)) return (i32)(access | e_present);
  return -1;
}

static void tables_outside(void) {
  for (u32 pae = 0; pae < 2; pae++) {
    space = new_space(pae);
    for (u32 i = 0; i < ARRAY_SIZE(outside); i++) {
      paging_off();
      const u32 at = outside[i] + 8 * entry_size();
      u64 entry = read32(at);
      if (pae) entry |= (u64)read32(at + 4) << 32;
      if (entry != 0 && entry != (pae ? ~0ull : 0xFFFFFFFF)) continue;  // a ROM
      // A table there, and a directory there (PAE: a directory pointer).
      for (u32 level = 0; level < 2; level++) {
        if (level == 1 && !pae) continue;  // CR3 outside RAM: walk_nowhere.c
        use_space(&space);
        u64* root = (u64*)space.root;
        const u64 pointer = pae ? root[1] : 0;
        if (level == 0)
          set_pde(&space, window, outside[i] | open);
        else
          root[1] = outside[i] | p_present;
        write_cr3(space.root);
        u32 linear = window + 8 * (level == 0 ? page_bytes : large_bytes(&space));
        for (u32 kind = 0; kind < probe_modify; kind++) {
          for (u32 ring = 0; ring < 4; ring += 3) {
            invlpg(linear);
            probe(kind, ring, linear);
            i32 error = walk_error(entry, pae, kind, ring);
            if (level == 1 && error < 0) continue;  // leads on to a table that need not be there either
            check_probe("table outside", kind, linear, error);
          }
        }
        if (pae) root[1] = pointer;
        write_cr3(space.root);
        if (level == 0) set_pde(&space, window, 0);
      }
    }
  }
  paging_off();
}

// Accesses to nothing do not fault; the entry is marked as ever.
static void frames_outside(void) {
  for (u32 pae = 0; pae < 2; pae++) {
    space = new_space(pae);
    use_space(&space);
    for (u32 i = 0; i < ARRAY_SIZE(outside) - 1 + pae * 2; i++) {
      u64 frame = i < ARRAY_SIZE(outside) - 1 ? outside[i] : i == ARRAY_SIZE(outside) - 1 ? 0x100000000ull : 0xFFFFFF000ull;
      map(&space, window, frame | open);
      for (u32 ring = 0; ring < 4; ring += 3) {
        set_pte(&space, window, frame | open);
        invlpg(window);
        probe(probe_read, ring, window + 0x10);
        check_done("read");
        check("marked", (u32)get_pte(&space, window) & marks, p_accessed);
        probe(probe_write, ring, window + 0xFFC);
        check_done("write");
        check("marked", (u32)get_pte(&space, window) & marks, marks);
      }
    }
  }
  paging_off();
}

// The directory mapped as data in the very space it defines: each store to it counts at the next use after a flush.
static void directory_as_data(void) {
  space = new_space(false);
  use_space(&space);
  u32 tables[2] = {new_page(), new_page()};
  for (u32 i = 0; i < 2; i++) ((u32*)tables[i])[0] = (frames + (i + 3) * page_bytes) | open;
  map(&space, window + 0x5000, space.root | p_present | p_write);
  const u32 place = window + 0x5000 + ((window + (32 << 20)) >> 22) * 4;
  for (u32 i = 0; i < 50; i++) {
    write32(place, tables[i & 1] | open);
    write_cr3(space.root);
    check("through the new table", read32(window + (32 << 20) + 4), 503 + (i & 1));
    check("marked", read32(place) & p_accessed, p_accessed);
    probe(probe_write, 3, window + 0x5000);
    check_probe("ring 3 may not", probe_write, window + 0x5000, e_present | e_write | e_user);
  }
  paging_off();
}

void guest_main(void) {
  descriptors_init();
  frames = new_pages(16);
  for (u32 i = 0; i < 16; i++) {
    write32(frames + i * page_bytes, probe_word);
    write32(frames + i * page_bytes + 4, 500 + i);
  }
  for (u32 pae = 0; pae < 2; pae++) {
    space = new_space(pae);
    map_self();
    use_space(&space);
    group(pae ? "PAE: tables through themselves" : "32-bit: tables through themselves");
    through_themselves();
    group(pae ? "PAE: marks seen through themselves" : "32-bit: marks seen through themselves");
    marks_through_themselves();
    paging_off();
  }
  group("tables outside RAM");
  tables_outside();
  group("frames outside RAM");
  frames_outside();
  group("directory as its own data");
  directory_as_data();
  finish();
}
