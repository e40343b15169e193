// kernel PROGRAM COUNT: COUNT operations that spend their time in the kernel; prints how many did what they should.
// `kernel exit` and friends are what fork+exec starts.
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

static char self[256];
static char* const no_environment[] = {NULL};

static u32 getpid_int80(u32 count) {
  u32 good = 0;
  long mine = getpid();
  for (u32 i = 0; i < count; i++) {
    long pid;
    __asm__ volatile("int $0x80" : "=a"(pid) : "a"(SYS_getpid) : "memory");
    good += pid == mine;
  }
  return good;
}

// The vDSO's entry, which uses SYSENTER where the CPU has it.
static u32 getpid_vdso(u32 count) {
  u32 good = 0;
  long mine = getpid();
  void* entry = (void*)getauxval(AT_SYSINFO);
  if (entry == NULL) return 0;
  for (u32 i = 0; i < count; i++) {
    long pid;
    __asm__ volatile("call *%2" : "=a"(pid) : "a"(SYS_getpid), "r"(entry) : "memory");
    good += pid == mine;
  }
  return good;
}

typedef int (*ClockGettime)(clockid_t, struct timespec*);

// Finds __vdso_clock_gettime in the image that the kernel maps: a static program has no loader that would.
static ClockGettime vdso_clock(void) {
  const char* base = (const char*)getauxval(AT_SYSINFO_EHDR);
  if (base == NULL) return NULL;
  const Elf32_Ehdr* header = (const Elf32_Ehdr*)base;
  const Elf32_Phdr* segment = (const Elf32_Phdr*)(base + header->e_phoff);
  const Elf32_Dyn* dynamic = NULL;
  for (int i = 0; i < header->e_phnum; i++)
    if (segment[i].p_type == PT_DYNAMIC) dynamic = (const Elf32_Dyn*)(base + segment[i].p_offset);
  const Elf32_Sym* symbols = NULL;
  const char* names = NULL;
  u32 count = 0;
  for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++) {
    if (dynamic->d_tag == DT_SYMTAB) symbols = (const Elf32_Sym*)(base + dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_STRTAB) names = base + dynamic->d_un.d_ptr;
    if (dynamic->d_tag == DT_HASH) count = ((const u32*)(base + dynamic->d_un.d_ptr))[1];
  }
  for (u32 i = 0; symbols != NULL && names != NULL && i < count; i++)
    if (strcmp(names + symbols[i].st_name, "__vdso_clock_gettime") == 0) return (ClockGettime)(base + symbols[i].st_value);
  return NULL;
}

static u32 clock_vdso(u32 count) {
  struct timespec t;
  u32 good = 0;
  ClockGettime call = vdso_clock();
  if (call == NULL) return 0;
  for (u32 i = 0; i < count; i++) good += call(CLOCK_MONOTONIC, &t) == 0;
  return good;
}
static u32 clock_call(u32 count) {
  struct timespec t;
  u32 good = 0;
  for (u32 i = 0; i < count; i++) good += syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t) == 0;
  return good;
}

static u32 read_write(u32 count) {
  int from = open("/dev/zero", O_RDONLY), to = open("/dev/null", O_WRONLY);
  u32 good = 0;
  char byte = 1;
  for (u32 i = 0; i < count; i++) good += read(from, &byte, 1) == 1 && write(to, &byte, 1) == 1;
  close(from);
  close(to);
  return good;
}

static u32 yield(u32 count) {
  u32 good = 0;
  for (u32 i = 0; i < count; i++) good += sched_yield() == 0;
  return good;
}

// `ways` processes in a ring hand a byte round.
static u32 ring(u32 count, int ways) {
  int pipes[64][2];
  u32 good = 0;
  char byte = 0;
  for (int i = 0; i < ways; i++)
    if (pipe(pipes[i]) != 0) return 0;
  for (int i = 1; i < ways; i++) {
    if (fork() != 0) continue;
    while (read(pipes[i - 1][0], &byte, 1) == 1 && write(pipes[i][1], &byte, 1) == 1 && byte == 0) {
    }
    _exit(0);
  }
  for (u32 i = 0; i < count; i++) {
    byte = i + 1 == count;  // the last round ends the others
    good += write(pipes[0][1], &byte, 1) == 1 && read(pipes[ways - 1][0], &byte, 1) == 1;
  }
  while (wait(NULL) > 0) {
  }
  for (int i = 0; i < ways; i++) close(pipes[i][0]), close(pipes[i][1]);
  return good;
}
static u32 ping_pong(u32 count) { return ring(count, 2); }
static u32 ping_pong_64(u32 count) { return ring(count, 64); }

static u32 finish(pid_t child, int want) {
  int status;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == want;
}

static u32 fork_exit(u32 count) {
  u32 good = 0;
  for (u32 i = 0; i < count; i++) {
    pid_t child = fork();
    if (child == 0) _exit((int)(i & 0x7F));
    good += finish(child, (int)(i & 0x7F));
  }
  return good;
}

static u32 fork_exec(u32 count, const char* program) {
  u32 good = 0;
  for (u32 i = 0; i < count; i++) {
    char number[16];
    snprintf(number, sizeof(number), "%u", i & 0x7F);
    char* const arguments[] = {(char*)program, "exit", number, NULL};
    pid_t child = fork();
    if (child == 0) {
      execve(program, arguments, no_environment);
      _exit(255);
    }
    good += finish(child, (int)(i & 0x7F));
  }
  return good;
}
static u32 exec_static(u32 count) { return fork_exec(count, self); }
static u32 exec_dynamic(u32 count) {
  char path[sizeof(self) + 8];
  snprintf(path, sizeof(path), "%s-pie", self);
  return fork_exec(count, path);
}

static u32 map_touch(u32 count) {
  enum { pages = 16 };
  u32 good = 0;
  for (u32 i = 0; i < count; i++) {
    u8* at = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) break;
    u32 sum = 0;
    for (u32 k = 0; k < pages; k++) {
      at[k * 4096] = (u8)(k + 1);
      sum += at[k * 4096];
    }
    good += munmap(at, pages * 4096) == 0 && sum == pages * (pages + 1) / 2;
  }
  return good;
}

static volatile u32 signals;
static void on_signal(int number) { signals += (u32)(number == SIGUSR1); }

static u32 signal_round_trip(u32 count) {
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  signals = 0;
  for (u32 i = 0; i < count; i++) kill(getpid(), SIGUSR1);
  return signals;
}

static sigjmp_buf back;
static volatile u32 faults;
static void on_fault(int number, siginfo_t* info, void* context) {
  faults += (u32)(number == SIGSEGV && info->si_addr == (void*)16);
  siglongjmp(back, 1);
  (void)context;
}

static u32 fault_handler(u32 count) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  faults = 0;
  for (volatile u32 i = 0; i < count; i++)
    if (sigsetjmp(back, 0) == 0) *(volatile int*)16 = 1;
  return faults;
}

static u32 files(u32 count) {
  u32 good = 0;
  static const char text[100] = "contents";
  for (u32 i = 0; i < count; i++) {
    int file = open("/tmp/ring3-bench-file", O_CREAT | O_TRUNC | O_WRONLY, 0600);
    good += write(file, text, sizeof(text)) == (ssize_t)sizeof(text) && close(file) == 0 && unlink("/tmp/ring3-bench-file") == 0;
  }
  return good;
}

static const struct Program programs[] = {
    {"getpid-int80", getpid_int80}, {"getpid-vdso", getpid_vdso}, {"clock-vdso", clock_vdso},   {"clock-call", clock_call},
    {"read-write", read_write},     {"sched-yield", yield},       {"pipe", ping_pong},          {"pipe-64", ping_pong_64},
    {"fork-exit", fork_exit},       {"exec-static", exec_static}, {"exec-dynamic", exec_dynamic}, {"mmap-touch", map_touch},
    {"signal", signal_round_trip},  {"sigsegv", fault_handler},   {"files", files},
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
