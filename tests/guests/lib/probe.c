// One access of each kind, run with a complete register state, so that nothing but the access can fault.
#include "guest.h"

SNIPPET(probe_code_read, "mov eax, [esi]\n" DONE);
SNIPPET(probe_code_write, "mov [esi], eax\n" DONE);
SNIPPET(probe_code_modify, "add dword ptr [esi], 0\n" DONE);
SNIPPET(probe_code_fetch, "jmp esi\n");
static const u8* const codes[probe_count] = {probe_code_read, probe_code_write, probe_code_modify, probe_code_fetch};

void probe(enum Probe kind, u32 ring, u32 linear) {
  struct Cpu cpu = ring_cpu(ring, codes[kind]);
  cpu.esi = linear;
  cpu.eax = probe_word;
  run_cpu(&cpu);
}

bool check_probe(const char* what, enum Probe kind, u32 linear, i32 error) {
  if (error < 0) return check_done(what);
  return check_page_fault(what, (u32)error, linear, kind == probe_fetch ? (const u8*)linear : codes[kind]);
}
