// What a fuzz target does when something that must hold does not: it says what, and dies so that libFuzzer keeps the input.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace ring3::fuzz {

inline void require(bool holds, const char* what) {
  if (holds) return;
  static_cast<void>(std::fprintf(stderr, "broken: %s\n", what));
  std::abort();
}

}  // namespace ring3::fuzz
