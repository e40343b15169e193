// System calls that stay in one process: entering the kernel, clocks, files, signals.
#define _GNU_SOURCE
#include "kernel.h"

#include <elf.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

u32 getpid_int80(u32 count) {
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
u32 getpid_vdso(u32 count) {
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

u32 clock_vdso(u32 count) {
  struct timespec t;
  u32 good = 0;
  ClockGettime call = vdso_clock();
  if (call == NULL) return 0;
  for (u32 i = 0; i < count; i++) good += call(CLOCK_MONOTONIC, &t) == 0;
  return good;
}
u32 clock_call(u32 count) {
  struct timespec t;
  u32 good = 0;
  for (u32 i = 0; i < count; i++) good += syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t) == 0;
  return good;
}

u32 read_write(u32 count) {
  int from = open("/dev/zero", O_RDONLY), to = open("/dev/null", O_WRONLY);
  u32 good = 0;
  char byte = 1;
  for (u32 i = 0; i < count; i++) good += read(from, &byte, 1) == 1 && write(to, &byte, 1) == 1;
  close(from);
  close(to);
  return good;
}

u32 yield(u32 count) {
  u32 good = 0;
  for (u32 i = 0; i < count; i++) good += sched_yield() == 0;
  return good;
}

static volatile u32 signals;
static void on_signal(int number) { signals += (u32)(number == SIGUSR1); }

u32 signal_round_trip(u32 count) {
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

u32 fault_handler(u32 count) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  faults = 0;
  for (volatile u32 i = 0; i < count; i++)
    if (sigsetjmp(back, 0) == 0) *(volatile int*)16 = 1;
  return faults;
}

u32 files(u32 count) {
  u32 good = 0;
  static const char text[100] = "contents";
  for (u32 i = 0; i < count; i++) {
    int file = open("/tmp/ring3-bench-file", O_CREAT | O_TRUNC | O_WRONLY, 0600);
    good += write(file, text, sizeof(text)) == (ssize_t)sizeof(text) && close(file) == 0 && unlink("/tmp/ring3-bench-file") == 0;
  }
  return good;
}
