// Integer work: plain arithmetic, SHA-256 (FIPS 180-4) and a byte-oriented LZ77 compressor.
#include <string.h>

#include "program.h"

u32 integer_loop(u32 count) {
  u32 a = 1, b = 2, c = 3;
  for (u32 i = 0; i < count * 1000; i++) {
    a += b ^ (c >> 3);
    b = (b << 7 | b >> 25) + i;
    c ^= a * 5;
    if (c & 0x100) b -= a;
  }
  return mix(mix(a, b), c);
}

static const u32 round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static u32 rotate(u32 x, unsigned n) { return x >> n | x << (32 - n); }

// The eight words rotate by name, not by moving them: what is measured is arithmetic.
#define ROUND(a, b, c, d, e, f, g, h, i)                                                                            \
  do {                                                                                                              \
    u32 t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + round_constants[i] + w[i]; \
    d += t1;                                                                                                        \
    h = t1 + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));                        \
  } while (0)

static void sha256_block(u32 state[8], const u32 message[16]) {
  u32 w[64];
  memcpy(w, message, 64);
  for (unsigned i = 16; i < 64; i++) {
    u32 s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
    u32 s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  u32 a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
  for (unsigned i = 0; i < 64; i += 8) {
    ROUND(a, b, c, d, e, f, g, h, i);
    ROUND(h, a, b, c, d, e, f, g, i + 1);
    ROUND(g, h, a, b, c, d, e, f, i + 2);
    ROUND(f, g, h, a, b, c, d, e, i + 3);
    ROUND(e, f, g, h, a, b, c, d, i + 4);
    ROUND(d, e, f, g, h, a, b, c, i + 5);
    ROUND(c, d, e, f, g, h, a, b, i + 6);
    ROUND(b, c, d, e, f, g, h, a, i + 7);
  }
  const u32 v[8] = {a, b, c, d, e, f, g, h};
  for (unsigned i = 0; i < 8; i++) state[i] += v[i];
}

u32 sha256(u32 count) {
  u32 state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  u32 message[16];
  for (u32 i = 0; i < count * 10; i++) {
    for (u32 k = 0; k < 16; k++) message[k] = i * 16 + k;
    sha256_block(state, message);
  }
  return mix(state[0], state[7]);
}

enum { text_size = 65536, hash_size = 4096, shortest_match = 4, longest_match = 255 };

// Greedy LZ77: literal runs and (length, distance) pairs; the output's bytes are summed up, and it is unpacked again and compared.
static u32 compress(const u8* in, u32 size, u8* out) {
  static u32 last[hash_size];
  memset(last, 0xFF, sizeof(last));
  u8* o = out;
  for (u32 at = 0; at < size;) {
    u32 length = 0, distance = 0;
    if (at + shortest_match <= size) {
      u32 word;
      memcpy(&word, in + at, 4);
      u32* slot = &last[word * 2654435761u >> 20];
      if (*slot != ~0u && at - *slot < 65536) {
        distance = at - *slot;
        while (length < longest_match && at + length < size && in[at + length] == in[at + length - distance]) length++;
      }
      *slot = at;
    }
    if (length < shortest_match) {
      *o++ = 0;
      *o++ = in[at++];
      continue;
    }
    *o++ = (u8)length;
    *o++ = (u8)distance;
    *o++ = (u8)(distance >> 8);
    at += length;
  }
  return (u32)(o - out);
}

static u32 expand(const u8* in, u32 size, u8* out) {
  u32 at = 0;
  for (const u8* end = in + size; in < end;) {
    u32 length = *in++;
    if (length == 0) {
      out[at++] = *in++;
      continue;
    }
    u32 distance = in[0] | (u32)in[1] << 8;
    in += 2;
    for (; length != 0; length--, at++) out[at] = out[at - distance];
  }
  return at;
}

u32 lz_compress(u32 count) {
  static u8 text[text_size], packed[2 * text_size], again[text_size];
  static const char words[8][8] = {"page", "table", " of ", "frame", "trap\n", "gate", ", ", "block"};
  u32 random = 1, sum = 0;
  for (u32 at = 0; at < text_size;) {
    const char* word = words[next_random(&random) & 7];
    for (u32 k = 0; word[k] != 0 && at < text_size; k++) text[at++] = (u8)word[k];
    if ((random & 0x3F00) == 0 && at < text_size) text[at++] = (u8)random;
  }
  for (u32 i = 0; i < count; i++) {
    u32 size = compress(text, text_size, packed);
    if (expand(packed, size, again) != text_size || memcmp(text, again, text_size) != 0) return 0;
    sum = mix(sum, size + packed[i % size]);
    text[next_random(&random) % text_size] = (u8)i;
  }
  return sum;
}
