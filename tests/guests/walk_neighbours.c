// What is known about one page must say nothing about the pages beside it: a random walk over 24 neighbouring pages whose entries have
// random rights and marks, with accesses of every kind from rings 0 and 3, and entries changed with an INVLPG. Each access faults or not as
// its own entry says, and marks it: accessed when it was used, dirty when it was written and not before (SDM vol. 3, 4.6 and 4.8).
//
// qemu: deviates (faults of read-modify-write instructions are reported as reads)
//
// expect:
//   32-bit: ok
//   32-bit, WP: ok
//   PAE: ok
//   PAE, WP: ok
//   PAE, NXE: ok
// end
#include "lib/guest.h"

enum { window = 0x40000000, page_count = 24, steps = 4000, marks = p_accessed | p_dirty };
static struct Space space;
static u32 frames;
static bool nxe, wp;
static u64 model[page_count];
static u32 seed = 777;

static i32 error_of(u64 entry, enum Probe kind, u32 ring) {
  const bool user = ring == 3, write = probe_writes(kind), fetch = kind == probe_fetch;
  u32 access = (write ? e_write : 0u) | (user ? e_user : 0u) | (fetch && nxe ? e_fetch : 0u);
  if (!(entry & p_present)) return (i32)access;
  bool denied = (user && !(entry & p_user)) || (write && !(entry & p_write) && (user || wp)) || (fetch && (entry & P_NX));
  return denied ? (i32)(access | e_present) : -1;
}

static void change(u32 page) {
  const u32 random = next_random(&seed);
  model[page] = (frames + page * page_bytes) | (random & (p_write | p_user | marks)) | (random & 0x700 ? p_present : 0);
  if (nxe && (random & 0x3000) == 0) model[page] |= P_NX;
  map(&space, window + page * page_bytes, model[page]);
  invlpg(window + page * page_bytes);
}

static void walk(void) {
  for (u32 page = 0; page < page_count; page++) change(page);
  for (u32 step = 0; step < steps; step++) {
    const u32 random = next_random(&seed), page = (random >> 3) % page_count;
    if ((random & 7) == 0) {
      change(page);
      continue;
    }
    const enum Probe kind = random >> 12 & 3;
    const u32 ring = random & 0x10000 ? 3 : 0, at = window + page * page_bytes + (random >> 17 & 0xFF8);
    probe(kind, ring, at);
    const i32 error = error_of(model[page], kind, ring);
    bool good = check_probe("access", kind, at, error);
    if (error < 0) model[page] |= p_accessed | (probe_writes(kind) ? p_dirty : 0);
    // A processor may mark pages accessed that it only guesses it will need; it never marks them dirty.
    const u64 now = get_pte(&space, at);
    if (error < 0)
      good &= check_true("entry", now == model[page]);
    else
      good &= check_true("entry", (now & ~(u64)p_accessed) == (model[page] & ~(u64)p_accessed));
    if (!good && showing_failures()) printf("       page %u, entry %x, probe %u, ring %u\n", page, (u32)model[page], kind, ring);
  }
  for (u32 page = 0; page < page_count; page++)
    check("dirty at the end", (u32)get_pte(&space, window + page * page_bytes) & p_dirty, (u32)model[page] & p_dirty);
}

static void run(const char* name, bool pae, bool protect, bool no_execute) {
  group(name);
  nxe = no_execute;
  wp = protect;
  write_msr(MSR_EFER, nxe ? EFER_NXE : 0);
  space = new_space(pae);
  use_space(&space);
  write_cr0(wp ? read_cr0() | cr0_wp : read_cr0() & ~(u32)cr0_wp);
  walk();
  write_cr0(read_cr0() & ~(u32)cr0_wp);
}

void guest_main(void) {
  descriptors_init();
  frames = new_pages(page_count);
  for (u32 i = 0; i < page_count * page_bytes; i += 8) write32(frames + i, probe_word);
  run("32-bit", false, false, false);
  run("32-bit, WP", false, true, false);
  run("PAE", true, false, false);
  run("PAE, WP", true, true, false);
  run("PAE, NXE", true, true, true);
  finish();
}
