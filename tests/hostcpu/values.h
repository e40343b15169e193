// Random and boundary values.
#pragma once

#include "base/types.h"

#include <span>

namespace ring3::hostcpu {

class Values {
 public:
  explicit Values(u64 seed) : state_(seed) {}

  u64 bits();                                                                      // uniform
  u32 below(u32 bound) { return static_cast<u32>((bits() >> 32) * bound >> 32); }  // 0 .. bound - 1
  bool one_in(u32 n) { return below(n) == 0; }

  u32 integer();  // boundary, small or uniform
  u32 float32();  // encodings: zeros, denormals, infinities, NaNs, integers near the conversion limits, ordinary numbers
  u64 float64();
  // Ten bytes: also pseudo-denormals, unnormals and the other encodings that the x87 rejects.
  void float80(u8* out);
  // Sixteen bytes of one kind: integers, floats, doubles, an extended real, packed decimal, few distinct bytes, noise.
  void vector(u8* out);
  // Fills with `vector`s.
  void fill(std::span<u8> out);
  // Bytes of which most are equal, for string comparisons.
  void fill_alike(std::span<u8> out);

 private:
  u64 state_;
};

}  // namespace ring3::hostcpu
