// Memory-bound work: sieve, sorting, pointer chasing.
#include <stdlib.h>
#include <string.h>

#include "program.h"

u32 sieve(u32 count) {
  enum { limit = 1 << 18 };
  static u8 composite[limit];
  u32 sum = 0;
  for (u32 n = 0; n < count; n++) {
    memset(composite, 0, sizeof(composite));
    u32 primes = 0;
    for (u32 i = 2; i < limit; i++) {
      if (composite[i]) continue;
      primes++;
      for (u32 k = i * 2; k < limit; k += i) composite[k] = 1;
    }
    sum = mix(sum, primes + n);
  }
  return sum;
}

enum { sorted_count = 20000 };

static u32 sort_with(void (*sort)(u32*, u32), u32 count) {
  static u32 values[sorted_count];
  u32 random = 7, sum = 0;
  for (u32 n = 0; n < count; n++) {
    for (u32 i = 0; i < sorted_count; i++) values[i] = next_random(&random);
    sort(values, sorted_count);
    for (u32 i = 1; i < sorted_count; i++)
      if (values[i - 1] > values[i]) return 0;
    sum = mix(sum, values[n % sorted_count]);
  }
  return sum;
}

static void quicksort(u32* v, u32 n) {
  while (n > 12) {
    u32 pivot = v[n / 2], i = 0, k = n - 1;
    for (;;) {
      while (v[i] < pivot) i++;
      while (v[k] > pivot) k--;
      if (i >= k) break;
      u32 t = v[i];
      v[i++] = v[k];
      v[k--] = t;
    }
    quicksort(v, i);
    v += i;
    n -= i;
  }
  for (u32 i = 1; i < n; i++) {
    u32 x = v[i], k = i;
    for (; k > 0 && v[k - 1] > x; k--) v[k] = v[k - 1];
    v[k] = x;
  }
}

static int compare(const void* a, const void* b) {
  u32 x = *(const u32*)a, y = *(const u32*)b;
  return x < y ? -1 : x > y;
}
static void library_sort(u32* v, u32 n) { qsort(v, n, sizeof(*v), compare); }

u32 sort_inline(u32 count) { return sort_with(quicksort, count); }
u32 sort_comparator(u32 count) { return sort_with(library_sort, count); }

// One random cycle through all lines of the buffer.
static u32 chase(u32 bytes, u32 steps) {
  enum { line = 64 };
  u32 n = bytes / line;
  u32* next = malloc(bytes);
  u32* order = malloc(n * sizeof(u32));
  if (next == NULL || order == NULL) abort();
  u32 random = 3;
  for (u32 i = 0; i < n; i++) order[i] = i;
  for (u32 i = n - 1; i > 0; i--) {
    u32 k = next_random(&random) % (i + 1), t = order[i];
    order[i] = order[k];
    order[k] = t;
  }
  for (u32 i = 0; i < n; i++) next[order[i] * (line / 4)] = order[(i + 1) % n];
  u32 at = 0, sum = 0;
  for (u32 i = 0; i < steps; i++) {
    at = next[at * (line / 4)];
    sum += at;
  }
  free(order);
  free(next);
  return mix(sum, at);
}

u32 chase_small(u32 count) { return chase(16 << 10, count * 1000); }
u32 chase_large(u32 count) { return chase(8 << 20, count * 1000); }
