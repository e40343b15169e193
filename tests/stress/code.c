// Guests that write code and run it: random little functions, whose results are computed while they are written.
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

enum { room = 2 * page, longest = 900 };

typedef u32 (*Function)(u32 x);

// A function under construction: u32 f(u32 x), argument at [esp+4]; `result` is what f(x) must return.
struct Writer {
  u8 bytes[room];
  u32 size, result;
};

static void put(struct Writer* w, const void* bytes, u32 count) {
  memcpy(w->bytes + w->size, bytes, count);
  w->size += count;
}
static void put8(struct Writer* w, u32 value) { w->bytes[w->size++] = (u8)value; }
static void put32(struct Writer* w, u32 value) { put(w, &value, 4); }

static void put_loop(struct Writer* w, u32 turns, u32 step) {
  put8(w, 0xB9);
  put32(w, turns);  // mov ecx, turns
  const u32 start = w->size;
  put8(w, 0x05);
  put32(w, step);                 // add eax, step
  put(w, "\xD1\xC0\x49\x75", 4);  // rol eax, 1; dec ecx; jnz
  put8(w, start - (w->size + 1));
  for (u32 i = 0; i < turns; i++) {
    w->result += step;
    w->result = w->result << 1 | w->result >> 31;
  }
}

static void put_skip(struct Writer* w, u32 bit, u32 value) {
  put8(w, 0xA9);
  put32(w, bit);              // test eax, bit
  put(w, "\x75\x05\x35", 3);  // jnz over the xor
  put32(w, value);            // xor eax, value
  if ((w->result & bit) == 0) w->result ^= value;
}

// call over a function `lea eax, [eax*8+eax+imm8]; ret`.
static void put_call(struct Writer* w, u32 value) {
  put(w, "\xE8\x02\x00\x00\x00\xEB\x05\x8D\x44\xC0", 10);
  put8(w, value & 0x7F);
  put8(w, 0xC3);
  w->result = w->result * 9 + (value & 0x7F);
}

// Rewrites its own immediate just ahead: mov byte ptr [at+1], value; at: mov edx, 0 -> value; add eax, edx. Only where code is writable.
static void put_patch(struct Writer* w, const u8* at, u32 value) {
  put(w, "\xC6\x05", 2);
  put32(w, (u32)at + w->size + 6);
  put8(w, value);
  put(w, "\xBA\0\0\0\0\x01\xD0", 7);
  w->result += value & 0xFF;
}

// `at`: where it will run; `patching`: it may write to itself.
static void make(struct Writer* w, const u8* at, u32 x, u32* seed, bool patching) {
  w->size = 0;
  w->result = x;
  put(w, "\x8B\x44\x24\x04", 4);  // mov eax, [esp+4]
  const u32 size = 20 + below(seed, longest);
  while (w->size < size) {
    const u32 value = next_random(seed);
    switch (below(seed, patching ? 8 : 7)) {
      case 0: put8(w, 0x05), put32(w, value), w->result += value; break;
      case 1: put8(w, 0x35), put32(w, value), w->result ^= value; break;
      case 2: put(w, "\x69\xC0", 2), put32(w, value | 1), w->result *= value | 1; break;
      case 3: put_loop(w, (value & 7) + 1, value); break;
      case 4: put_skip(w, 1u << (value & 31), value); break;
      case 5: put_call(w, value); break;
      case 6:
        put(w, "\x50\x2D", 2), put32(w, value), put(w, "\x5A\x29\xD0\xF7\xD8", 5), w->result = value;
        break;  // eax = -((eax-value) - eax)
      default: put_patch(w, at, value & 0x7F);
    }
  }
  put8(w, 0xC3);
}

static void check(const struct Writer* w, const u8* at, u32 x, const char* how) {
  for (u32 i = 0; i < 3; i++) {
    const u32 got = ((Function)at)(x);
    if (got != w->result) wrong("%s: %08x, not %08x, in turn %u", how, got, w->result, i);
  }
}

static u8* map(int rights, int flags, int file) {
  u8* at = mmap(NULL, room, rights, flags, file, 0);
  if (at == MAP_FAILED) wrong("no memory for code");
  return at;
}

static struct Writer writer;

void code_in_place(u32 amount, u32 seed) {
  u8* at = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  for (u32 n = 0; n < amount; n++) {
    u8* here = at + below(&seed, 3000);  // often across the page border
    make(&writer, here, n, &seed, true);
    memcpy(here, writer.bytes, writer.size);
    check(&writer, here, n, "code in place");
  }
  munmap(at, room);
}

void code_by_alias(u32 amount, u32 seed) {
  const int file = memfd_create("code", 0);
  if (file < 0 || ftruncate(file, room) != 0) wrong("no memfd");
  u8* write_at = map(PROT_READ | PROT_WRITE, MAP_SHARED, file);
  u8* run_at = map(PROT_READ | PROT_EXEC, MAP_SHARED, file);
  u8* run_also = map(PROT_READ | PROT_EXEC, MAP_SHARED, file);
  for (u32 n = 0; n < amount; n++) {
    const u32 offset = below(&seed, 3000);
    make(&writer, run_at + offset, n, &seed, false);
    memcpy(write_at + offset, writer.bytes, writer.size);
    check(&writer, run_at + offset, n, "code by an alias");
    check(&writer, run_also + offset, n, "code by a second alias");
    if (n % 16 == 0) {  // another process writes
      make(&writer, run_at + offset, n, &seed, false);
      const pid_t child = fork();
      if (child == 0) {
        memcpy(write_at + offset, writer.bytes, writer.size);
        _exit(0);
      }
      if (waitpid(child, NULL, 0) != child) wrong("no child");
      check(&writer, run_at + offset, n, "code by another process");
    }
  }
  munmap(write_at, room);
  munmap(run_at, room);
  munmap(run_also, room);
  close(file);
}

void code_by_mprotect(u32 amount, u32 seed) {
  u8* at = map(PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  catch_faults();
  for (u32 n = 0; n < amount; n++) {
    u8* here = at + below(&seed, 3000);
    make(&writer, here, n, &seed, false);
    if (!faults_on_write(here, 0xC3)) wrong("code by mprotect: written without the right");
    if (mprotect(at, room, PROT_READ | PROT_WRITE) != 0) wrong("mprotect");
    memcpy(here, writer.bytes, writer.size);
    if (mprotect(at, room, PROT_READ | PROT_EXEC) != 0) wrong("mprotect");
    check(&writer, here, n, "code by mprotect");
  }
  munmap(at, room);
}

// The kernel stores the code: read() from a pipe.
void code_by_kernel(u32 amount, u32 seed) {
  u8* at = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  int ends[2];
  if (pipe(ends) != 0) wrong("no pipe");
  for (u32 n = 0; n < amount; n++) {
    u8* here = at + below(&seed, 3000);
    make(&writer, here, n, &seed, true);
    if (write(ends[1], writer.bytes, writer.size) != (ssize_t)writer.size) wrong("pipe");
    if (read(ends[0], here, writer.size) != (ssize_t)writer.size) wrong("pipe");
    check(&writer, here, n, "code by read()");
  }
  close(ends[0]);
  close(ends[1]);
  munmap(at, room);
}

// One address, new pages each time; then the same pages at another address.
void code_moved(u32 amount, u32 seed) {
  u8* at = map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  u8* other = map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  for (u32 n = 0; n < amount; n++) {
    if (mmap(at, room, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) wrong("no new pages");
    const u32 offset = below(&seed, 3000);
    make(&writer, at + offset, n, &seed, false);
    memcpy(at + offset, writer.bytes, writer.size);
    check(&writer, at + offset, n, "code on new pages");
    if (mremap(at, room, room, MREMAP_MAYMOVE | MREMAP_FIXED, other) != other) wrong("mremap");
    check(&writer, other + offset, n, "code moved");
  }
  munmap(at, room);
  munmap(other, room);
}
