// kernel PROGRAM COUNT: COUNT operations that spend their time in the kernel; says whether each did what it should.
// `kernel exit STATUS` is what fork+exec starts.
#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char self[256];

static const struct Program programs[] = {
    {"getpid-int80", getpid_int80},
    {"getpid-vdso", getpid_vdso},
    {"clock-vdso", clock_vdso},
    {"clock-call", clock_call},
    {"read-write", read_write},
    {"sched-yield", yield},
    {"pipe", ping_pong},
    {"fork-exit", fork_exit},
    {"exec-static", exec_static},
    {"exec-dynamic", exec_dynamic},
    {"mmap-touch", map_touch},
    {"signal", signal_round_trip},
    {"sigsegv", fault_handler},
    {"files", files},
    {"hops-2", hops_2},
    {"hops-64", hops_64},
    {"exec-4", exec_4},
    {"exec-16", exec_16},
    {"exec-64", exec_64},
    {"touch-16m", touch_16m},
    {"touch-64m", touch_64m},
};

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "exit") == 0) _exit(atoi(argv[2]));
  snprintf(self, sizeof(self), "%s", argv[0]);
  for (size_t i = 0; argc == 3 && i < sizeof(programs) / sizeof(programs[0]); i++) {
    if (strcmp(programs[i].name, argv[1]) != 0) continue;
    u32 count = (u32)strtoul(argv[2], NULL, 10);
    u32 good = programs[i].run(count);
    printf("%s %s\n", argv[1], good == count ? "ok" : "FAILED");
    return good == count ? 0 : 1;
  }
  fprintf(stderr, "usage: kernel PROGRAM COUNT\n");
  return 2;
}
