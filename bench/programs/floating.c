// Matrix multiplication in double precision; built once for the x87 and once for SSE2 (MATRIX names the function).
#include <string.h>

#include "program.h"

enum { order = 48 };

u32 MATRIX(u32 count) {
  static double a[order][order], b[order][order], c[order][order];
  for (u32 i = 0; i < order; i++) {
    for (u32 k = 0; k < order; k++) {
      a[i][k] = (double)(i * 3 + k) / 64;
      b[i][k] = (double)((i ^ k) + 1) / 32;
    }
  }
  u32 sum = 0;
  for (u32 n = 0; n < count; n++) {
    for (u32 i = 0; i < order; i++) {
      for (u32 k = 0; k < order; k++) {
        double x = 0;
        for (u32 m = 0; m < order; m++) x += a[i][m] * b[m][k];
        c[i][k] = x;
      }
    }
    // Values stay multiples of 2^-11 below 2^24: exact in either arithmetic.
    u64 bits;
    memcpy(&bits, &c[n % order][n / order % order], 8);
    sum = mix(sum, (u32)(bits >> 32) ^ (u32)bits);
    a[n % order][n / order % order] = (double)(n & 63) / 64;
  }
  return sum;
}
