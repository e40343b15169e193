// user PROGRAM COUNT: does COUNT units of PROGRAM's work and prints its checksum.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

static const struct Program programs[] = {
    {"integer", integer_loop},
    {"sieve", sieve},
    {"recursion", recursion},
    {"sha256", sha256},
    {"lz", lz_compress},
    {"quicksort", sort_inline},
    {"qsort", sort_comparator},
    {"x87", matrix_x87},
    {"sse2", matrix_sse2},
    {"chase16k", chase_small},
    {"chase8m", chase_large},
    {"bytecode-switch", bytecode_switch},
    {"bytecode-goto", bytecode_goto},
    {"calls", call_sites},
    {"indirect", indirect_calls},
};

int main(int argc, char** argv) {
  for (size_t i = 0; argc == 3 && i < sizeof(programs) / sizeof(programs[0]); i++) {
    if (strcmp(programs[i].name, argv[1]) != 0) continue;
    printf("%s %08x\n", argv[1], programs[i].run((u32)strtoul(argv[2], NULL, 10)));
    return 0;
  }
  fprintf(stderr, "usage: user PROGRAM COUNT\n");
  return 2;
}
