#include "guest.h"

struct Trap trap;
u8 user_stack[65536] __attribute__((aligned(4096)));
u8 trap_stack[65536] __attribute__((aligned(4096)));
static u8 kernel_run_stack[65536] __attribute__((aligned(4096)));
static TrapHook hooks[256];
extern u32 run_stack;  // traps.S: 0 while no run is on

void set_hook(u32 vector, TrapHook hook) { hooks[vector] = hook; }

// Called by traps.S; nonzero ends the run.
u32 trap_dispatch(struct Frame* frame) {
  if (hooks[frame->vector] && hooks[frame->vector](frame)) return 0;
  bool from_outer_ring = (frame->cs & 3) != 0;
  trap = (struct Trap){
      frame->vector,
      frame->error,
      read_cr2(),
      {frame->eax, frame->ebx, frame->ecx, frame->edx, frame->esi, frame->edi, frame->ebp, from_outer_ring ? frame->esp : (u32)&frame->esp,
       frame->eip, frame->eflags, frame->cs & 0xFFFF, from_outer_ring ? frame->ss & 0xFFFF : kernel_data, frame->ds & 0xFFFF,
       frame->es & 0xFFFF, frame->fs & 0xFFFF, frame->gs & 0xFFFF}};
  if (!run_stack) panic("trap outside of a run");
  return 1;
}

struct Cpu user_cpu(const void* eip) {
  struct Cpu cpu = {.esp = (u32)user_stack + sizeof(user_stack),
                    .eip = (u32)eip,
                    .eflags = f_fixed,
                    .cs = user_code,
                    .ss = user_data,
                    .ds = user_data,
                    .es = user_data,
                    .fs = user_data,
                    .gs = user_data};
  return cpu;
}

struct Cpu kernel_cpu(const void* eip) {
  struct Cpu cpu = {.esp = (u32)kernel_run_stack + sizeof(kernel_run_stack),
                    .eip = (u32)eip,
                    .eflags = f_fixed,
                    .cs = kernel_code,
                    .ss = kernel_data,
                    .ds = kernel_data,
                    .es = kernel_data,
                    .fs = kernel_data,
                    .gs = kernel_data};
  return cpu;
}

struct Cpu ring_cpu(u32 ring, const void* eip) {
  static const u16 code[] = {kernel_code, ring1_code, ring2_code, user_code}, data[] = {kernel_data, ring1_data, ring2_data, user_data};
  struct Cpu cpu = ring == 0 ? kernel_cpu(eip) : user_cpu(eip);
  cpu.cs = code[ring];
  cpu.ss = cpu.ds = cpu.es = cpu.fs = cpu.gs = data[ring];
  return cpu;
}

bool check_trap(const char* what, u32 vector, u32 error, const void* eip) {
  bool good = trap.vector == vector && trap.error == error && trap.cpu.eip == (u32)eip;
  if (!check_true(what, good) && showing_failures())
    printf("       got vector %x error %x eip %x cr2 %x, want vector %x error %x eip %x\n", trap.vector, trap.error, trap.cpu.eip, trap.cr2,
           vector, error, (u32)eip);
  return good;
}

bool check_page_fault(const char* what, u32 error, u32 address, const void* eip) {
  bool good = check_trap(what, v_page, error, eip);
  return check(what, trap.cr2, address) && good;
}

bool check_done(const char* what) {
  bool good = trap.vector == vector_done;
  if (!check_true(what, good) && showing_failures())
    printf("       got vector %x error %x eip %x cr2 %x\n", trap.vector, trap.error, trap.cpu.eip, trap.cr2);
  return good;
}

bool check_unchanged(const char* what, const struct Cpu* start) {
  const struct Cpu* end = &trap.cpu;
  bool same = end->eax == start->eax && end->ebx == start->ebx && end->ecx == start->ecx && end->edx == start->edx &&
              end->esi == start->esi && end->edi == start->edi && end->ebp == start->ebp && end->esp == start->esp &&
              ((end->eflags ^ start->eflags) & ~(u32)f_rf) == 0 && end->cs == start->cs && end->ss == start->ss && end->ds == start->ds &&
              end->es == start->es && end->fs == start->fs && end->gs == start->gs;
  if (!check_true(what, same) && showing_failures()) {
    printf("       eax %x ebx %x ecx %x edx %x esi %x edi %x ebp %x esp %x flags %x\n", end->eax, end->ebx, end->ecx, end->edx, end->esi,
           end->edi, end->ebp, end->esp, end->eflags);
    printf("       cs %x ss %x ds %x es %x fs %x gs %x, all to be as before\n", end->cs, end->ss, end->ds, end->es, end->fs, end->gs);
  }
  return same;
}
