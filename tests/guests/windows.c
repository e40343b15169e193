// Memory through loops that run long enough for a translator to change how it reaches memory, and through changes that come faster than
// any such arrangement pays for. A page-table change counts after INVLPG or MOV CR3 (SDM vol. 3, 4.10.4.1), a write to code at the next
// jump (8.1.3), however long the code ran before.
//
// skip: interp (what the run asks for is the translator's)
// skip: no-windows (the run asks for windows)
// run: --windows-after 1
// run: --windows-after 0
// run:
//
// expect:
//   a long loop: ok
//   remapped while it runs: ok
//   read-only and back: ok
//   code beside data: ok
//   a page of a device: ok
//   addresses that wrap: ok
//   spaces in turn: ok
// end
#include "lib/guest.h"

enum { area = 0x40000000, pages = 64 };
static struct Space space, other;
static u32 frames[2 * pages];

static volatile u32 faults;
static bool make_writable(struct Frame* frame) {
  (void)frame;
  u32 at = read_cr2() & ~4095u;
  set_pte(&space, at, get_pte(&space, at) | p_write);
  invlpg(at);
  faults++;
  return true;
}

static void wait_ticks(u32 count) {
  for (u32 end = timer_ticks + count; (i32)(timer_ticks - end) < 0;) {
  }
}

static u32 word(u32 page, u32 index) { return page * 0x10001 + index; }

static u32 sum_area(void) {
  u32 sum = 0;
  for (u32 page = 0; page < pages; ++page)
    for (u32 i = 0; i < 1024; i += 64) sum += read32(area + page * 4096 + i * 4);
  return sum;
}

static u32 sum_of(const u32* frame_of) {
  u32 sum = 0;
  for (u32 page = 0; page < pages; ++page)
    for (u32 i = 0; i < 1024; i += 64) sum += word(frame_of[page], i);
  return sum;
}

// Which frame each page shows.
static u32 shown[pages];

static void show(const struct Space* in, u32 page, u32 frame) {
  set_pte(in, area + page * 4096, frames[frame] | p_present | p_write | p_user);
  invlpg(area + page * 4096);
  shown[page] = frame;
}

static void long_loop(void) {
  for (u32 end = timer_ticks + 40; (i32)(timer_ticks - end) < 0;)
    if (!check("sum", sum_area(), sum_of(shown))) break;
}

static void remapped(void) {
  u32 random = 1;
  for (u32 end = timer_ticks + 60; (i32)(timer_ticks - end) < 0;) {
    for (u32 i = 0; i < 8; ++i) show(&space, next_random(&random) % pages, next_random(&random) % (2 * pages));
    if (!check("sum", sum_area(), sum_of(shown))) break;
  }
  wait_ticks(10);
  check("sum after a rest", sum_area(), sum_of(shown));
}

static void read_only(void) {
  set_hook(v_page, make_writable);
  write_cr0(read_cr0() | cr0_wp);
  u32 round = 0;
  for (u32 end = timer_ticks + 40; (i32)(timer_ticks - end) < 0; ++round) {
    u32 page = round % pages, at = area + page * 4096;
    set_pte(&space, at, get_pte(&space, at) & ~(u64)(p_write | p_dirty));
    invlpg(at);
    faults = 0;
    write32(at + 16, round);
    write32(at + 20, ~round);
    bool good = check("one fault", faults, 1) & check("stored", read32(at + 16), round) & check("and again", read32(at + 20), ~round);
    good &= check("dirty", get_pte(&space, at) & p_dirty, p_dirty);
    if (!good) break;
  }
  write_cr0(read_cr0() & ~(u32)cr0_wp);
  set_hook(v_page, NULL);
}

// MOV EAX, imm32; RET, and data in the same page.
static void code_beside_data(void) {
  u32 page = area + 3 * 4096;
  u8* code = (u8*)page;
  code[0] = 0xB8;
  code[5] = 0xC3;
  u32 round = 0;
  for (u32 end = timer_ticks + 40; (i32)(timer_ticks - end) < 0; ++round) {
    memcpy(code + 1, &round, 4);
    u32 (*function)(void) = (u32(*)(void))page;
    bool good = check("new code", function(), round);
    for (u32 i = 0; i < 16; ++i) write32(page + 2048 + 4 * i, round + i);
    for (u32 i = 0; i < 16; ++i) good &= check("data", read32(page + 2048 + 4 * i), round + i);
    if (!good) break;
  }
}

// Text memory of a VGA adapter that is not there, or any other address that is not RAM: reads must keep their way.
static void device_page(void) {
  u32 at = area + 5 * 4096;
  u64 before = get_pte(&space, at);
  set_pte(&space, at, 0xFFFFF000u | p_present | p_write);
  invlpg(at);
  u32 first = read32(at);
  for (u32 i = 0; i < 200; ++i)
    if (!check("read", read32(at), first)) break;
  set_pte(&space, at, before);
  invlpg(at);
  check("RAM again", read32(at), word(shown[5], 0));
}

static void wrapping(void) {
  map(&space, 0xFFFFF000u, frames[0] | p_present | p_write | p_user);
  invlpg(0xFFFFF000u);
  write32(0xFFFFFFF0u, 0x12345678);
  u32 value = 0;
  for (u32 i = 0; i < 100; ++i) {
    // Base, index and displacement that add up past 4 GiB, in each form.
    __asm__ volatile("movl -0x10(%1), %0" : "=r"(value) : "r"(0) : "memory");
    check("below 0", value, 0x12345678);
    __asm__ volatile("movl 0x7FFFFFF0(%1), %0" : "=r"(value) : "r"(0x80000000u) : "memory");
    check("displacement", value, 0x12345678);
    __asm__ volatile("movl 0x40(,%1,8), %0" : "=r"(value) : "r"((area - 0x40) / 8 + 0xA0000000u) : "memory");
    check("scaled", value, read32(area));
    __asm__ volatile("movl 0x10(%1,%2,4), %0" : "=r"(value) : "r"(area - 0x20), "r"(0xC0000004u) : "memory");
    check("base and index", value, read32(area));
    if (!check("last page", read32(0xFFFFFFF0u), 0x12345678)) break;
  }
}

static void spaces_in_turn(void) {
  u32 round = 0;
  for (u32 end = timer_ticks + 60; (i32)(timer_ticks - end) < 0; ++round) {
    const struct Space* in = round % 2 ? &other : &space;
    use_space(in);
    for (u32 page = 0; page < 8; ++page) {
      u32 frame = in == &other ? 2 * pages - 1 - page : page;
      if (!check("own page", read32(area + page * 4096 + 256), word(frame, 64))) return;
    }
    if (round % 64 == 63) wait_ticks(1);
  }
  use_space(&space);
}

static void fill_frames(void) {
  for (u32 frame = 0; frame < 2 * pages; ++frame)
    for (u32 i = 0; i < 1024; ++i) write32(frames[frame] + i * 4, word(frame, i));
}

void guest_main(void) {
  descriptors_init();
  for (u32 frame = 0; frame < 2 * pages; ++frame) frames[frame] = new_page();
  fill_frames();
  space = new_space(false);
  other = new_space(false);
  for (u32 page = 0; page < pages; ++page) {
    map(&space, area + page * 4096, frames[page] | p_present | p_write | p_user);
    map(&other, area + page * 4096, frames[2 * pages - 1 - page] | p_present | p_write | p_user);
    shown[page] = page;
  }
  use_space(&space);
  pic_init();
  set_hook(irq_base, count_tick);
  pic_unmask(0);
  pit_periodic(pit_hz / 500);
  sti();

  group("a long loop");
  long_loop();
  group("remapped while it runs");
  remapped();
  group("read-only and back");
  read_only();
  fill_frames();
  group("code beside data");
  code_beside_data();
  fill_frames();
  group("a page of a device");
  device_page();
  group("addresses that wrap");
  wrapping();
  fill_frames();
  for (u32 page = 0; page < pages; ++page) show(&space, page, page);
  group("spaces in turn");
  spaces_in_turn();
  cli();
  finish();
}
