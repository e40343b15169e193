// mmap, munmap, mprotect, mremap and madvise at random, against a model of every page; reads and writes that must or must not fault.
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "stress.h"

enum { pages = 192, most = 24 };

// What a page of the arena must be: unmapped, or these rights and this first and last byte.
struct Page {
  bool mapped;
  int rights;
  u8 first, last;
};

static struct Page model[pages];
static u8* arena;

static void map_pages(u32 at, u32 count, int rights) {
  if (mmap(arena + at * page, count * page, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) wrong("mmap");
  for (u32 i = at; i < at + count; i++) model[i] = (struct Page){.mapped = true, .rights = rights};
}

static void unmap_pages(u32 at, u32 count) {
  if (munmap(arena + at * page, count * page) != 0) wrong("munmap");
  memset(model + at, 0, count * sizeof(*model));
}

// Rights and contents of `count` pages change only if all are mapped: mprotect stops at a hole.
static bool all_mapped(u32 at, u32 count) {
  for (u32 i = at; i < at + count; i++)
    if (!model[i].mapped) return false;
  return true;
}

static void protect_pages(u32 at, u32 count, int rights) {
  if (!all_mapped(at, count)) return;
  if (mprotect(arena + at * page, count * page, rights) != 0) wrong("mprotect");
  for (u32 i = at; i < at + count; i++) model[i].rights = rights;
}

static void drop_pages(u32 at, u32 count) {
  if (!all_mapped(at, count)) return;
  if (madvise(arena + at * page, count * page, MADV_DONTNEED) != 0) wrong("madvise");
  for (u32 i = at; i < at + count; i++) model[i].first = model[i].last = 0;
}

// Moves one page over another: its contents must come along.
static void move_page(u32 from, u32 to) {
  if (from == to || !model[from].mapped) return;
  if (mremap(arena + from * page, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, arena + to * page) != arena + to * page) wrong("mremap");
  model[to] = model[from];
  memset(&model[from], 0, sizeof(model[from]));
}

static void check_page(u32 i, u8 value) {
  u8* at = arena + i * page;
  struct Page* p = &model[i];
  u8 seen = 0;
  const bool readable = p->mapped && p->rights != PROT_NONE, writable = p->mapped && (p->rights & PROT_WRITE) != 0;
  if (faults_on_read(at, &seen) == readable) wrong("page %u: read %s", i, readable ? "faulted" : "did not fault");
  if (!readable && fault_address != at) wrong("page %u: fault at %p, not %p", i, fault_address, (void*)at);
  if (readable && seen != p->first) wrong("page %u: first byte %u, not %u", i, seen, p->first);
  if (readable && !faults_on_read(at + page - 1, &seen) && seen != p->last) wrong("page %u: last byte %u, not %u", i, seen, p->last);
  if (faults_on_write(at + page - 1, value) == writable) wrong("page %u: write %s", i, writable ? "faulted" : "did not fault");
  if (!writable && fault_address != at + page - 1) wrong("page %u: fault at %p, not %p", i, fault_address, (void*)(at + page - 1));
  if (!writable) return;
  p->last = value;
  if (faults_on_write(at, (u8)(value + 1))) wrong("page %u: second write faulted", i);
  p->first = (u8)(value + 1);
}

void mapping_storm(u32 amount, u32 seed) {
  static const int rights[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC};
  catch_faults();
  memset(model, 0, sizeof(model));
  arena = mmap(NULL, pages * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) wrong("no arena");
  unmap_pages(0, pages);
  for (u32 n = 0; n < amount; n++) {
    const u32 count = below(&seed, most) + 1, at = below(&seed, pages - count), right = below(&seed, 5);
    switch (below(&seed, 8)) {
      case 0:
      case 1:
      case 2: map_pages(at, count, rights[right]); break;
      case 3: unmap_pages(at, count); break;
      case 4:
      case 5: protect_pages(at, count, rights[right]); break;
      case 6: drop_pages(at, count); break;
      default: move_page(at, below(&seed, pages));
    }
    for (u32 i = 0; i < 12; i++) check_page(below(&seed, pages), (u8)next_random(&seed));
  }
  for (u32 i = 0; i < pages; i++) check_page(i, 1);
  unmap_pages(0, pages);
}
