// Processes and their memory: switching, starting, mapping.
#define _GNU_SOURCE
#include "kernel.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char* const no_environment[] = {NULL};

static u32 exited(pid_t child, int want) {
  int status;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == want;
}

u32 fork_exit(u32 count) {
  u32 good = 0;
  for (u32 i = 0; i < count; i++) {
    pid_t child = fork();
    if (child == 0) _exit((int)(i & 0x7F));
    good += exited(child, (int)(i & 0x7F));
  }
  return good;
}

static u32 exec_one(u32 i, const char* program) {
  char number[16];
  snprintf(number, sizeof(number), "%u", i & 0x7F);
  char* const arguments[] = {(char*)program, "exit", number, NULL};
  pid_t child = fork();
  if (child == 0) {
    execve(program, arguments, no_environment);
    _exit(255);
  }
  return exited(child, (int)(i & 0x7F));
}

u32 exec_static(u32 count) {
  u32 good = 0;
  for (u32 i = 0; i < count; i++) good += exec_one(i, self);
  return good;
}

u32 exec_dynamic(u32 count) {
  char path[sizeof(self) + 8];
  snprintf(path, sizeof(path), "%s-pie", self);
  u32 good = 0;
  for (u32 i = 0; i < count; i++) good += exec_one(i, path);
  return good;
}

// What a ring of processes hands round: who has it does one operation and passes it on, until `left` is 0.
struct Token {
  u32 left, good;
};

static u32 pass(u32 i) {
  (void)i;
  return 1;
}
static u32 start_one(u32 i) { return exec_one(i, self); }

// False when the token came with nothing left, which is passed on too, so that it ends every process of the ring.
static int next_in_ring(const int from[2], const int to[2], u32 (*operation)(u32), struct Token* token) {
  if (read(from[0], token, sizeof(*token)) != sizeof(*token)) return 0;
  const int go_on = token->left > 0;
  if (go_on) {
    token->good += operation(token->left);
    token->left--;
  }
  return write(to[1], token, sizeof(*token)) == sizeof(*token) && go_on;
}

enum { most_ways = 64 };

static u32 ring(u32 count, int ways, u32 (*operation)(u32)) {
  int pipes[most_ways][2];
  struct Token token = {count, 0};
  for (int i = 0; i < ways; i++)
    if (pipe(pipes[i]) != 0) return 0;
  for (int i = 1; i < ways; i++) {
    if (fork() != 0) continue;
    while (next_in_ring(pipes[i - 1], pipes[i], operation, &token)) {
    }
    _exit(0);
  }
  if (write(pipes[ways - 1][1], &token, sizeof(token)) != sizeof(token)) return 0;
  while (next_in_ring(pipes[ways - 1], pipes[0], operation, &token)) {
  }
  while (wait(NULL) > 0) {
  }
  for (int i = 0; i < ways; i++) close(pipes[i][0]), close(pipes[i][1]);
  return token.good;
}

u32 ping_pong(u32 count) { return ring(count * 2, 2, pass) / 2; }
u32 hops_2(u32 count) { return ring(count, 2, pass); }
u32 hops_64(u32 count) { return ring(count, 64, pass); }
u32 exec_4(u32 count) { return ring(count, 4, start_one); }
u32 exec_16(u32 count) { return ring(count, 16, start_one); }
u32 exec_64(u32 count) { return ring(count, 64, start_one); }

enum { page = 4096 };

// Maps, touches and unmaps `pages` pages at a time, until `count` were touched.
static u32 touch(u32 count, u32 pages) {
  u32 good = 0;
  while (good < count) {
    u8* at = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) break;
    for (u32 k = 0; k < pages && good < count; k++) {
      u8* byte = at + k * page;
      const u8 before = *(volatile u8*)(byte + 1);
      *(volatile u8*)byte = (u8)(k + 1);
      good += before == 0 && *(volatile u8*)byte == (u8)(k + 1);
    }
    if (munmap(at, pages * page) != 0) break;
  }
  return good;
}
u32 map_touch(u32 count) { return touch(count, 64); }
u32 touch_16m(u32 count) { return touch(count, 4096); }
u32 touch_64m(u32 count) { return touch(count, 16384); }
