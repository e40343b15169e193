// REP MOVS and REP STOS with few elements: every count up to and over what may be done by plain stores, source and destination at every
// distance that makes elements repeat, against a copy made element by element (SDM vol. 2, MOVS, STOS and REP).
//
// expect:
//   rep movs: ok
//   rep stos: ok
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
static u8 field[room], want[room];

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
}
