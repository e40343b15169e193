// First process of the guest, with a seed and a share as arguments: runs every part alone, then the small ones all at once; powers off.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

static const struct Part {
  const char* name;
  void (*run)(u32 amount, u32 seed);
  u32 amount;     // at share 1
  u32 most;       // at any share; 0: no limit
  bool together;  // also with the others at once
} parts[] = {
    {"fork trees", fork_trees, 2, 0, false},
    {"mapping storm", mapping_storm, 1500, 0, true},
    {"code in place", code_in_place, 150, 0, true},
    {"code by an alias", code_by_alias, 150, 0, true},
    {"code by mprotect", code_by_mprotect, 150, 0, true},
    {"code by the kernel", code_by_kernel, 150, 0, true},
    {"code moved", code_moved, 150, 0, true},
    {"shared counters", shared_counters, 20000, 0, true},
    {"many processes", many_processes, 250, 2000, false},
    {"memory pressure", memory_pressure, 1, 20, false},
};
enum { part_count = sizeof(parts) / sizeof(parts[0]) };

void wrong(const char* format, ...) {
  char text[256];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof(text), format, list);
  va_end(list);
  printf("stress: WRONG: %s\n", text);
  fflush(stdout);
  _exit(1);
}

static pid_t start(const struct Part* part, u32 amount, u32 seed) {
  fflush(stdout);
  const pid_t child = fork();
  if (child != 0) return child;
  part->run(part->most != 0 && amount > part->most ? part->most : amount, seed | 1);
  _exit(0);
}

static bool ended_well(pid_t child, const char* name) {
  int status;
  if (child > 0 && waitpid(child, &status, 0) == child && status == 0) return true;
  printf("stress: WRONG: %s ended with status %x\n", name, status);
  return false;
}

static bool run_all(u32 seed, u32 share) {
  bool good = true;
  for (u32 i = 0; i < part_count; i++) {
    const bool fine = ended_well(start(&parts[i], parts[i].amount * share, seed + i * 1000), parts[i].name);
    printf("stress: %s: %s\n", parts[i].name, fine ? "ok" : "FAILED");
    good &= fine;
  }
  pid_t children[part_count] = {0};
  for (u32 i = 0; i < part_count; i++)
    if (parts[i].together) children[i] = start(&parts[i], parts[i].amount * share, seed + i * 1000 + 77);
  bool fine = true;
  for (u32 i = 0; i < part_count; i++)
    if (parts[i].together) fine &= ended_well(children[i], parts[i].name);
  printf("stress: all at once: %s\n", fine ? "ok" : "FAILED");
  return good && fine;
}

// A number of the kernel's command line: NAME=number.
static u32 option(const char* name, u32 otherwise) {
  char text[1024] = {0};
  FILE* file = fopen("/proc/cmdline", "r");
  if (file == NULL || fgets(text, sizeof(text), file) == NULL) return otherwise;
  fclose(file);
  const char* at = strstr(text, name);
  return at == NULL ? otherwise : (u32)strtoul(at + strlen(name), NULL, 10);
}

// Elsewhere than in a guest of its own: one part, by name (`stress "code moved" AMOUNT`), to look at this program itself.
static int run_part(const char* name, u32 amount) {
  for (u32 i = 0; i < part_count; i++)
    if (strcmp(parts[i].name, name) == 0) return ended_well(start(&parts[i], amount, 1), name) ? 0 : 1;
  return 2;
}

int main(int argc, char** argv) {
  if (getpid() != 1) return argc == 3 ? run_part(argv[1], (u32)strtoul(argv[2], NULL, 10)) : 2;
  mkdir("/proc", 0755);
  mount("proc", "/proc", "proc", 0, NULL);
  const u32 seed = option("stress_seed=", 1), share = option("stress_share=", 1);
  FILE* printk = fopen("/proc/sys/kernel/printk", "w");  // the kernel's own words about memory would get between ours
  if (printk != NULL) fputs("1", printk), fclose(printk);
  printf("stress: %s\n", run_all(seed, share) ? "everything ok" : "FAILED");
  fflush(stdout);
  sync();
  reboot(RB_POWER_OFF);
  return 0;
}
