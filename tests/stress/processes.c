// Many processes, trees of them, shared memory, and more memory than there is.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

enum { width = 5, modulus = 251 };

static u32 scratch[2 * page / 4];

// What a node of the tree must return.
static u32 node_value(u32 depth, u32 number) {
  u32 sum = number * 7 + depth;
  for (u32 i = 0; depth > 0 && i < width; i++) sum += node_value(depth - 1, number * width + i);
  return sum % modulus;
}

// A process that starts `width` at once, each of which does the same, and adds up what they return. Each writes to pages that all share at
// first.
static u32 run_node(u32 depth, u32 number) {
  pid_t children[width];
  scratch[number % (sizeof(scratch) / 4)] = number;
  u32 sum = number * 7 + depth;
  for (u32 i = 0; depth > 0 && i < width; i++) {
    children[i] = fork();
    if (children[i] < 0) wrong("fork at depth %u", depth);
    if (children[i] == 0) _exit((int)run_node(depth - 1, number * width + i));
  }
  for (u32 i = 0; depth > 0 && i < width; i++) {
    int status;
    if (waitpid(children[i], &status, 0) != children[i] || !WIFEXITED(status)) wrong("a child of the tree died");
    sum += (u32)WEXITSTATUS(status);
  }
  if (scratch[number % (sizeof(scratch) / 4)] != number) wrong("a child wrote into its parent's memory");
  return sum % modulus;
}

void fork_trees(u32 amount, u32 seed) {
  for (u32 n = 0; n < amount; n++) {
    const u32 got = run_node(3, seed & 0xFF), want = node_value(3, seed & 0xFF);
    if (got != want) wrong("a tree of forks returns %u, not %u", got, want);
    next_random(&seed);
  }
}

static u32 work(u32 number) {
  u32 state = number * 2654435761u | 1, sum = 0;
  for (u32 i = 0; i < 200; i++) sum += scratch[i] = next_random(&state);
  for (u32 i = 0; i < 200; i++) sum ^= scratch[i] * i;
  return sum;
}

// `amount` processes, all alive, that start to work at the same moment.
void many_processes(u32 amount, u32 seed) {
  int start[2], results[2];
  if (pipe(start) != 0 || pipe(results) != 0) wrong("no pipes");
  u32 want = 0, got = 0;
  for (u32 i = 0; i < amount; i++) {
    want += work(seed + i);
    const pid_t child = fork();
    if (child < 0) wrong("process %u does not start", i);
    if (child != 0) continue;
    char byte;
    close(start[1]);
    const u32 before = work(seed + i);
    if (read(start[0], &byte, 1) != 0) _exit(1);
    const u32 result = work(seed + i);
    _exit(before != result || write(results[1], &result, 4) != 4);
  }
  close(start[0]);
  close(start[1]);  // all read the end of the pipe now
  for (u32 i = 0; i < amount; i++) {
    u32 result;
    if (read(results[0], &result, 4) != 4) wrong("no result");
    got += result;
  }
  int status;
  while (wait(&status) > 0)
    if (status != 0) wrong("one of many processes failed: status %x", status);
  if (got != want) wrong("many processes: sum %08x, not %08x", got, want);
  close(results[0]);
  close(results[1]);
}

// Processes add to the same words with LOCK and in turns of their own without; interrupted at any instruction, none may be lost.
void shared_counters(u32 amount, u32 seed) {
  enum { ways = 6 };
  u32* shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) wrong("no shared page");
  for (u32 i = 0; i < ways; i++) {
    if (fork() != 0) continue;
    for (u32 n = 0; n < amount; n++) {
      __atomic_fetch_add(&shared[0], 1, __ATOMIC_SEQ_CST);
      u32 seen = shared[1];
      while (!__atomic_compare_exchange_n(&shared[1], &seen, seen * 3 + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
      }
      shared[2 + i] += next_random(&seed) != 0;
    }
    _exit(0);
  }
  while (wait(NULL) > 0) {
  }
  u32 folded = 0;
  for (u32 n = 0; n < amount * ways; n++) folded = folded * 3 + 1;
  if (shared[0] != amount * ways) wrong("shared counter: %u, not %u", shared[0], amount * ways);
  if (shared[1] != folded) wrong("shared word: %08x, not %08x", shared[1], folded);
  for (u32 i = 0; i < ways; i++)
    if (shared[2 + i] != amount) wrong("own counter %u: %u, not %u", i, shared[2 + i], amount);
  munmap(shared, page);
}

// Takes memory until the kernel kills it.
static void hog(void) {
  const int file = open("/proc/self/oom_score_adj", O_WRONLY);
  if (file < 0 || write(file, "1000", 4) != 4) _exit(2);
  for (u32 n = 1;; n++) {
    u8* at = mmap(NULL, 256 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) _exit(3);
    for (u32 i = 0; i < 256; i++) memset(at + i * page, (int)n, page);
  }
}

static void fill(u32* at, u32 words, u32 seed) {
  for (u32 i = 0; i < words; i++) at[i] = next_random(&seed);
}
static void compare(const u32* at, u32 words, u32 seed) {
  for (u32 i = 0; i < words; i++)
    if (at[i] != next_random(&seed)) wrong("memory changed under pressure, word %u", i);
}

void memory_pressure(u32 amount, u32 seed) {
  enum { words = 4 << 20 };
  u32* mine = mmap(NULL, words * 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mine == MAP_FAILED) wrong("no memory");
  for (u32 n = 0; n < amount; n++) {
    fill(mine, words, seed);
    const pid_t child = fork();
    if (child == 0) hog();
    int status;
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
      wrong("the hog ended with status %x", status);
    compare(mine, words, seed);
    next_random(&seed);
  }
  munmap(mine, words * 4);
}
