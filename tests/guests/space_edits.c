// Page tables that are edited while another address space is loaded, or just before the same one is loaded again: at the next access the
// change is there, in data, code, rights, and accessed and dirty flags (SDM vol. 3, 4.8 and 4.10.4.1). Eight address spaces map twelve
// pages each; a random walk of CR3 loads, edits and accesses from both rings is compared with a model. D is set by writes alone.
//
// expect:
//   32-bit: ok
//   32-bit, kernel global: ok
//   PAE: ok
//   PAE, kernel global: ok
// end
#include "lib/guest.h"

enum { spaces = 8, pages = 12, frames = 40, steps = 40000, window = 0x40000000 };

struct Page {
  u8 frame_plus_1;  // 0: absent
  bool writable, user, dirty;
};

static struct Space space[spaces];
static struct Page model[spaces][pages];
static u32 spare[spaces][pages / 4];
static u32 frame_at[frames];
static u32 data_model[frames], code_model[frames];
static u32 current;
static u32 seed = 0x2545F491;

static u32 rnd(u32 below) { return next_random(&seed) % below; }
// Three runs of four neighbours, each below another directory entry.
static u32 linear(u32 page) { return window + (page / 4) * 0x00C00000 + (page % 4) * page_bytes; }

SNIPPET(read_it, "mov eax, [esi]\n" DONE);
SNIPPET(write_it, "mov [esi], eax\n" DONE);
SNIPPET(call_it, "jmp esi\n");

static void set_code(u32 frame, u32 value) {
  u8* code = (u8*)frame_at[frame] + 0x800;
  code[0] = 0xB8;
  memcpy(code + 1, &value, 4);
  code[5] = 0xCD;
  code[6] = 0x80;
  code_model[frame] = value;
}

// D of the entry is what the model says: no write is missing, and none was invented.
static void check_dirty(u32 s, u32 page) {
  if (model[s][page].frame_plus_1) check("dirty", (get_pte(&space[s], linear(page)) & p_dirty) != 0, model[s][page].dirty);
}

static void edit(u32 s, u32 page) {
  struct Page* p = &model[s][page];
  u32 address = linear(page);
  check_dirty(s, page);
  switch (p->frame_plus_1 ? rnd(7) : 6) {
    case 0: set_pte(&space[s], address, get_pte(&space[s], address) & ~(u64)p_accessed); break;
    case 1:
      set_pte(&space[s], address, get_pte(&space[s], address) & ~(u64)p_dirty);
      p->dirty = false;
      break;
    case 2: set_pde(&space[s], address, get_pde(&space[s], address) & ~(u64)p_accessed); break;
    case 3:
      set_pte(&space[s], address, 0);
      p->frame_plus_1 = 0;
      break;
    case 4: {
      // The same entries in another page table: the two of a span take turns.
      u32 span = page / 4, old = (u32)get_pde(&space[s], address) & ~0xFFFu;
      if (!spare[s][span]) spare[s][span] = new_page();
      memcpy((void*)spare[s][span], (void*)old, page_bytes);
      set_pde(&space[s], address, spare[s][span] | p_present | p_write | p_user);
      spare[s][span] = old;
      break;
    }
    default:
      p->frame_plus_1 = (u8)(rnd(frames) + 1);
      p->writable = rnd(4) != 0;
      p->user = rnd(4) != 0;
      p->dirty = false;
      map(&space[s], address, frame_at[p->frame_plus_1 - 1] | p_present | (p->writable ? p_write : 0) | (p->user ? p_user : 0));
  }
}

static void access(u32 page) {
  struct Page* p = &model[current][page];
  u32 kind = rnd(3), value = next_random(&seed);
  bool user = rnd(2), write = kind == 1;
  const u8* code = kind == 0 ? read_it : write ? write_it : call_it;
  struct Cpu cpu = user ? user_cpu(code) : kernel_cpu(code);
  cpu.esi = linear(page) + (kind == 2 ? 0x800 : 0);
  cpu.eax = value;
  bool allowed = p->frame_plus_1 && (!user || p->user) && (!write || p->writable);  // CR0.WP is set
  run_cpu(&cpu);
  if (!allowed) {
    check("fault", trap.vector, v_page);
    check("error code", trap.error & 7, (p->frame_plus_1 ? 1u : 0) | (write ? 2u : 0) | (user ? 4u : 0));
    check("cr2", trap.cr2, cpu.esi);
    return;
  }
  check_done("access");
  u32 frame = p->frame_plus_1 - 1u;
  if (kind == 0) check("read", trap.cpu.eax, data_model[frame]);
  if (kind == 2) check("code", trap.cpu.eax, code_model[frame]);
  if (write) {
    data_model[frame] = value;
    p->dirty = true;
    check("written", read32(frame_at[frame]), value);
  }
  check("accessed", (get_pte(&space[current], cpu.esi) & p_accessed) != 0, 1);
  check("accessed, directory", (get_pde(&space[current], cpu.esi) & p_accessed) != 0, 1);
  check_dirty(current, page);
}

static void walk(void) {
  for (u32 f = 0; f < frames; f++) {
    write32(frame_at[f], data_model[f] = next_random(&seed));
    set_code(f, f * 1000);
  }
  memset(model, 0, sizeof(model));
  for (u32 s = 0; s < spaces; s++) {
    for (u32 p = 0; p < pages; p++) {
      map(&space[s], linear(p), 0);
      edit(s, p);
    }
  }
  current = 0;
  write_cr3(space[0].root);
  for (u32 i = 0; i < steps; i++) {
    switch (rnd(8)) {
      case 0:
      case 1: write_cr3(space[current = rnd(spaces)].root); break;
      case 2: {
        u32 other = (current + 1 + rnd(spaces - 1)) % spaces;
        for (u32 n = rnd(4); n < 4; n++) edit(other, rnd(pages));
        break;
      }
      case 3:
        for (u32 n = rnd(4); n < 4; n++) edit(current, rnd(pages));
        write_cr3(space[current].root);
        break;
      case 4: set_code(rnd(frames), next_random(&seed)); break;
      default: access(rnd(pages));
    }
  }
  for (u32 s = 0; s < spaces; s++) {
    for (u32 p = 0; p < pages; p++) check_dirty(s, p);
  }
  for (u32 f = 0; f < frames; f++) check("at the end", read32(frame_at[f]), data_model[f]);
}

void guest_main(void) {
  descriptors_init();
  for (u32 f = 0; f < frames; f++) frame_at[f] = new_page();
  for (u32 pae = 0; pae < 2; pae++) {
    paging_off();
    for (u32 s = 0; s < spaces; s++) space[s] = new_space(pae);
    memset(spare, 0, sizeof(spare));
    use_space(&space[0]);
    write_cr0(read_cr0() | cr0_wp);
    group(pae ? "PAE" : "32-bit");
    walk();
    group(pae ? "PAE, kernel global" : "32-bit, kernel global");
    // The kernel's own image is global in every space from here on.
    for (u32 s = 0; s < spaces; s++) {
      for (u32 a = 1 << 20; a < 4 << 20; a += page_bytes) set_pte(&space[s], a, get_pte(&space[s], a) | p_global);
    }
    write_cr4(read_cr4() | cr4_pge);
    walk();
    write_cr4(read_cr4() & ~(u32)cr4_pge);
  }
  finish();
}
