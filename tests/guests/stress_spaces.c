// An address-space storm: 16 address spaces map the same 32 linear pages to 48 physical pages at random, so that pages are shared within
// and between spaces. A random walk of CR3 loads, remappings, reads, writes and code runs from rings 0 and 3 is compared with a model that
// knows what each page holds.
//
// expect:
//   32-bit: ok
//   32-bit with a global page: ok
//   PAE: ok
//   PAE with a global page: ok
// end
#include "lib/guest.h"

enum { spaces = 16, pages = 32, frames = 48, words = 8, steps = 60000, window = 0x40000000 };

static struct Space space[spaces];
static u32 frame_at[frames];           // physical address
static u32 model[frames][words];       // words at 0, 512, 1024, ...
static u32 code_model[frames];         // what the code at F00h returns
static u8 map_model[spaces][pages];    // frame + 1; 0: absent
static u8 right_model[spaces][pages];  // 0: read-only, 1: writable
static u32 current;
static u32 seed = 0x9E3779B9;

static u32 rnd(u32 below) { return next_random(&seed) % below; }
// Pages lie apart, so that several page tables and directories are used.
static u32 linear(u32 page) { return window + page * 0x00153000; }

SNIPPET(user_read, "mov eax, [esi]\n" DONE);
SNIPPET(user_write, "mov [esi], eax\n" DONE);
SNIPPET(user_add, "add [esi], eax\nmov eax, [esi]\n" DONE);
SNIPPET(user_call, "jmp esi\n");

static void set_code(u32 frame, u32 value) {
  u8* code = (u8*)frame_at[frame] + 0xF00;
  code[0] = 0xB8;
  memcpy(code + 1, &value, 4);
  code[5] = 0xCD;
  code[6] = 0x80;
  code_model[frame] = value;
}

static void set_mapping(u32 s, u32 page, u32 frame_plus_1, bool writable) {
  map_model[s][page] = (u8)frame_plus_1;
  right_model[s][page] = writable;
  map(&space[s], linear(page), frame_plus_1 ? frame_at[frame_plus_1 - 1] | p_present | p_user | (writable ? p_write : 0) : 0);
  if (s == current) invlpg(linear(page));
}

static void access(u32 page) {
  u32 word = rnd(words), address = linear(page) + word * 512;
  u32 frame_plus_1 = map_model[current][page];
  bool user = rnd(2), writable = right_model[current][page];
  u32 kind = rnd(4), value = next_random(&seed);
  const u8* code = kind == 0 ? user_read : kind == 1 ? user_write : kind == 2 ? user_add : user_call;
  struct Cpu cpu = user ? user_cpu(code) : kernel_cpu(code);
  cpu.esi = kind == 3 ? linear(page) + 0xF00 : address;
  cpu.eax = value;
  bool write = kind == 1 || kind == 2;
  bool allowed = frame_plus_1 && (!write || writable);  // CR0.WP is set
  run_cpu(&cpu);
  if (!allowed) {
    check("fault", trap.vector, v_page);
    check("error code", trap.error & 7, (frame_plus_1 ? 1u : 0) | (user ? 4u : 0) | (kind == 0 || kind == 3 ? 0 : trap.error & 2));
    check("cr2", trap.cr2, cpu.esi);
    return;
  }
  check_done("access");
  u32* holds = &model[frame_plus_1 - 1][word];
  switch (kind) {
    case 0: check("read", trap.cpu.eax, *holds); break;
    case 1: *holds = value; break;
    case 2:
      *holds += value;
      check("add", trap.cpu.eax, *holds);
      break;
    default: check("code", trap.cpu.eax, code_model[frame_plus_1 - 1]);
  }
}

// Many direct accesses from the kernel between the slower ones.
static void burst(void) {
  for (u32 i = 0; i < 16; i++) {
    u32 page = rnd(pages), word = rnd(words);
    u32 frame_plus_1 = map_model[current][page];
    if (!frame_plus_1) continue;
    u32 address = linear(page) + word * 512;
    check("burst read", read32(address), model[frame_plus_1 - 1][word]);
    if (!right_model[current][page]) continue;
    model[frame_plus_1 - 1][word] = i;
    write32(address, i);
    check("through the physical address", read32(frame_at[frame_plus_1 - 1] + word * 512), i);
  }
}

static void storm(bool global) {
  for (u32 f = 0; f < frames; f++) {
    for (u32 w = 0; w < words; w++) write32(frame_at[f] + w * 512, model[f][w] = next_random(&seed));
    set_code(f, f * 1000);
  }
  for (u32 s = 0; s < spaces; s++) {
    for (u32 p = 0; p < pages; p++) set_mapping(s, p, rnd(8) ? rnd(frames) + 1 : 0, rnd(4) != 0);
  }
  current = 0;
  use_space(&space[0]);
  if (global) write_cr4(read_cr4() | cr4_pge);
  for (u32 i = 0; i < steps; i++) {
    switch (rnd(8)) {
      case 0:
      case 1:
        current = rnd(spaces);
        write_cr3(space[current].root);
        break;
      case 2: set_mapping(rnd(spaces), rnd(pages), rnd(8) ? rnd(frames) + 1 : 0, rnd(4) != 0); break;
      case 3: burst(); break;
      case 4: {
        // New code in a frame, through its physical address or through a mapping of it.
        u32 frame = rnd(frames);
        set_code(frame, next_random(&seed));
        break;
      }
      default: access(rnd(pages));
    }
  }
  write_cr4(read_cr4() & ~(u32)cr4_pge);
  for (u32 f = 0; f < frames; f++) {
    for (u32 w = 0; w < words; w++) check("at the end", read32(frame_at[f] + w * 512), model[f][w]);
  }
}

void guest_main(void) {
  descriptors_init();
  for (u32 f = 0; f < frames; f++) frame_at[f] = new_page();
  for (u32 pae = 0; pae < 2; pae++) {
    paging_off();
    for (u32 s = 0; s < spaces; s++) space[s] = new_space(pae);
    use_space(&space[0]);
    write_cr0(read_cr0() | cr0_wp);
    group(pae ? "PAE" : "32-bit");
    storm(false);
    group(pae ? "PAE with a global page" : "32-bit with a global page");
    // The kernel's own image is global in every space from here on.
    for (u32 s = 0; s < spaces; s++) {
      for (u32 a = 1 << 20; a < 4 << 20; a += page_bytes) set_pte(&space[s], a, get_pte(&space[s], a) | p_global);
    }
    storm(true);
  }
}
