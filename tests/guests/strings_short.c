// REP MOVS and REP STOS with few elements: every count up to and over what may be done by plain stores, source and destination at every
// distance that makes elements repeat, against a copy made element by element (SDM vol. 2, MOVS, STOS and REP); in the middle of a page,
// around its end, and up to a page that is absent: whole elements are done, and the registers say what is left.
//
// expect:
//   rep movs: ok
//   rep stos: ok
//   around the end of a page: ok
//   backwards: ok
//   up to an absent page: ok
// end
#include "lib/guest.h"

SNIPPET(rep_movsb, "rep movsb\n" DONE);
SNIPPET(rep_movsw, "rep movsw\n" DONE);
SNIPPET(rep_movsd, "rep movsd\n" DONE);
SNIPPET(rep_stosb, "rep stosb\n" DONE);
SNIPPET(rep_stosw, "rep stosw\n" DONE);
SNIPPET(rep_stosd, "rep stosd\n" DONE);
static const u8* const movs[] = {rep_movsb, rep_movsw, rep_movsd};
static const u8* const stos[] = {rep_stosb, rep_stosw, rep_stosd};

enum { room = 1024 };
static u8 pages[3 * 4096] __attribute__((aligned(4096)));
static u8 want[room];
static u8* field = pages;

static void fill(void) {
  for (u32 i = 0; i < room; i++) field[i] = want[i] = (u8)(i * 7 + (i >> 8));
}

static void finish_one(const char* what, const struct Cpu* start, u32 from, u32 to) {
  check_done(what);
  check("ecx", trap.cpu.ecx, 0);
  check("esi", trap.cpu.esi, from);
  check("edi", trap.cpu.edi, to);
  check("eax", trap.cpu.eax, start->eax);
  check("flags", trap.cpu.eflags & (f_status | f_df), start->eflags & (f_status | f_df));
  check(what, memcmp(field, want, room) == 0, 1);
}

static void one_move(u32 shift, u32 count, i32 distance) {
  u32 size = 1u << shift, from = 400, to = (u32)(400 + distance);
  fill();
  struct Cpu cpu = kernel_cpu(movs[shift]);
  cpu.esi = (u32)&field[from];
  cpu.edi = (u32)&field[to];
  cpu.ecx = count;
  cpu.eax = 0x8899AABB;
  cpu.eflags |= f_cf | f_zf | f_of;
  run_cpu(&cpu);
  for (u32 i = 0; i < count; i++) {
    u8 element[4];
    for (u32 k = 0; k < size; k++) element[k] = want[from + i * size + k];
    for (u32 k = 0; k < size; k++) want[to + i * size + k] = element[k];
  }
  finish_one("rep movs", &cpu, cpu.esi + count * size, cpu.edi + count * size);
}

static void one_store(u32 shift, u32 count, u32 to) {
  u32 size = 1u << shift;
  fill();
  struct Cpu cpu = kernel_cpu(stos[shift]);
  cpu.esi = 0x1234;
  cpu.edi = (u32)&field[to];
  cpu.ecx = count;
  cpu.eax = 0x8899AABB;
  cpu.eflags |= f_cf | f_sf | f_pf;
  run_cpu(&cpu);
  for (u32 i = 0; i < count * size; i++) want[to + i] = (u8)(cpu.eax >> (i % size * 8));
  finish_one("rep stos", &cpu, cpu.esi, cpu.edi + count * size);
}

// Element `start` of the field lies `before` bytes before the end of a page.
static void place(u32 start, u32 before) { field = pages + 4096 - before - start; }

static void around_the_end(void) {
  for (u32 shift = 0; shift < 3; shift++)
    for (u32 count = 1; count < 70; count += count < 20 ? 4 : 11)
      for (u32 before = 0; before < 150; before += 7) {
        place(400, before);
        for (i32 distance = -2; distance <= 4; distance += 3) one_move(shift, count, distance);
        one_move(shift, count, -300);
        one_move(shift, count, 300);
        place(700, before);
        one_move(shift, count, 300);
        one_store(shift, count, 700);
      }
}

SNIPPET(std_movsd, "std\nrep movsd\ncld\n" DONE);
SNIPPET(std_stosb, "std\nrep stosb\ncld\n" DONE);

static void backwards(void) {
  for (u32 before = 0; before < 150; before += 10) {
    place(700, before);
    fill();
    struct Cpu cpu = kernel_cpu(std_movsd);
    cpu.esi = (u32)&field[700];
    cpu.edi = (u32)&field[703];
    cpu.ecx = 17;
    run_cpu(&cpu);
    for (u32 i = 0; i < 17; i++) {
      u32 element;
      memcpy(&element, &want[700 - 4 * i], 4);
      memcpy(&want[703 - 4 * i], &element, 4);
    }
    finish_one("std; rep movsd", &cpu, cpu.esi - 68, cpu.edi - 68);
    fill();
    cpu = kernel_cpu(std_stosb);
    cpu.edi = (u32)&field[700];
    cpu.ecx = 30;
    cpu.eax = 0x11223344;
    run_cpu(&cpu);
    for (u32 i = 0; i < 30; i++) want[700 - i] = 0x44;
    finish_one("std; rep stosb", &cpu, cpu.esi, cpu.edi - 30);
  }
}

enum { linear = 0x40000000 };  // two pages, and none before and behind

static void fault_one(const u8* code, u32 shift, bool moves, bool source_ends, u32 count, u32 fit) {
  u32 size = 1u << shift, end = linear + 2 * 4096;
  struct Cpu cpu = kernel_cpu(code);
  cpu.esi = source_ends ? end - fit * size : linear + 0x123;
  cpu.edi = source_ends ? linear + 0x800 : end - fit * size;
  if (!moves) cpu.esi = 0x55;
  cpu.ecx = count;
  cpu.eax = 0x01020304;
  cpu.eflags |= f_cf | f_pf;
  memset((void*)linear, 0xEE, 8192);
  for (u32 i = 0; i < 400; i++) ((u8*)(moves ? cpu.esi : linear))[i % (fit * size)] = (u8)i;
  u8 source[512];
  if (moves) memcpy(source, (void*)cpu.esi, fit * size);
  run_cpu(&cpu);
  const u8* at = code;
  check_page_fault("the absent page", moves && source_ends ? 0 : 2, end, at);
  check("ecx", trap.cpu.ecx, count - fit);
  check("edi", trap.cpu.edi, cpu.edi + fit * size);
  check("esi", trap.cpu.esi, moves ? cpu.esi + fit * size : cpu.esi);
  check("flags", trap.cpu.eflags & f_status, cpu.eflags & f_status);
  for (u32 i = 0; i < fit * size; i++)
    if (!check("what was done", ((u8*)cpu.edi)[i], moves ? source[i] : (u8)(cpu.eax >> (i % size * 8)))) break;
}

static void up_to_an_absent_page(void) {
  struct Space space = new_space(false);
  map(&space, linear, new_page() | p_present | p_write);
  map(&space, linear + 4096, new_page() | p_present | p_write);
  use_space(&space);
  for (u32 shift = 0; shift < 3; shift++)
    for (u32 count = 2; count < 70; count += count < 10 ? 1 : 9)
      for (u32 fit = 1; fit < count; fit += fit < 4 ? 1 : 7) {
        fault_one(movs[shift], shift, true, false, count, fit);
        fault_one(movs[shift], shift, true, true, count, fit);
        fault_one(stos[shift], shift, false, false, count, fit);
      }
}

void guest_main(void) {
  descriptors_init();
  group("rep movs");
  for (u32 shift = 0; shift < 3; shift++)
    for (u32 count = 0; count << shift <= 140; count += count < 20 ? 1 : 3)
      for (i32 distance = -11; distance <= 11; distance++) one_move(shift, count, distance);
  for (u32 count = 120; count < 136; count++) one_move(0, count, 200), one_move(0, count, -200);
  group("rep stos");
  for (u32 shift = 0; shift < 3; shift++)
    for (u32 count = 0; count << shift <= 140; count++)
      for (u32 to = 300; to < 305; to++) one_store(shift, count, to);
  group("around the end of a page");
  around_the_end();
  group("backwards");
  backwards();
  group("up to an absent page");
  up_to_an_absent_page();
}
