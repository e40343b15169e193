#include "values.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace ring3::hostcpu {

namespace {

constexpr std::array<u32, 24> integers{0,      1,      2,       3,          7,          8,          15,         16,
                                       31,     32,     33,      0x7F,       0x80,       0xFF,       0x100,      0x7FFF,
                                       0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFF80, 0xFFFFFFFF};

// Sign, exponent and fraction classes are combined freely; NaNs come from the largest exponent with a fraction.
constexpr std::array<u32, 12> exponents32{0, 0, 1, 2, 254, 255, 255, 127, 126, 157, 158, 189};
constexpr std::array<u32, 12> exponents64{0, 0, 1, 2, 2046, 2047, 2047, 1023, 1022, 1053, 1054, 1085};
constexpr std::array<u32, 14> exponents80{0, 0, 1, 2, 0x7FFE, 0x7FFF, 0x7FFF, 0x3FFF, 0x3FFE, 0x400D, 0x401D, 0x403D, 0x403E, 0x3C00};

}  // namespace

u64 Values::bits() {  // splitmix64
  state_ += 0x9E3779B97F4A7C15u;
  u64 z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

u32 Values::integer() {
  switch (below(5)) {
    case 0:
    case 1: return integers[below(integers.size())];
    case 2: return below(64);
    case 3: return static_cast<u32>(bits()) >> below(32);
    default: return static_cast<u32>(bits());
  }
}

u32 Values::float32() {
  const u32 sign = below(2) << 31;
  const u32 exponent = one_in(2) ? exponents32[below(exponents32.size())] : 110 + below(50);
  u32 fraction = static_cast<u32>(bits()) & 0x7FFFFF;
  if (one_in(3)) fraction = one_in(2) ? 0 : 1u << below(23);
  if (one_in(8)) fraction = 0x7FFFFF;
  return sign | exponent << 23 | fraction;
}

u64 Values::float64() {
  const u64 sign = u64{below(2)} << 63;
  const u64 exponent = one_in(2) ? exponents64[below(exponents64.size())] : 1000 + below(70);
  u64 fraction = bits() >> 12;
  if (one_in(3)) fraction = one_in(2) ? 0 : u64{1} << below(52);
  if (one_in(8)) fraction = ~u64{0} >> 12;
  return sign | exponent << 52 | fraction;
}

void Values::float80(u8* out) {
  u16 exponent = static_cast<u16>(one_in(2) ? exponents80[below(exponents80.size())] : 0x3FF0 + below(80));
  if (one_in(2)) exponent |= 0x8000;
  u64 significand = bits();
  if (one_in(3)) significand = one_in(2) ? 0 : u64{1} << below(63);
  if (one_in(8)) significand = ~u64{0};
  if ((exponent & 0x7FFF) != 0 && !one_in(16)) significand |= u64{1} << 63;
  if ((exponent & 0x7FFF) == 0 && !one_in(4)) significand &= ~(u64{1} << 63);
  std::memcpy(out, &significand, 8);
  std::memcpy(out + 8, &exponent, 2);
}

void Values::vector(u8* out) {
  const std::array<u64, 2> noise{bits(), bits()};
  std::memcpy(out, noise.data(), 16);
  switch (below(8)) {
    case 0: break;
    case 1:
    case 2:
      for (unsigned i = 0; i < 4; ++i) {
        const u32 v = float32();
        std::memcpy(out + 4 * i, &v, 4);
      }
      break;
    case 3:
    case 4:
      for (unsigned i = 0; i < 2; ++i) {
        const u64 v = float64();
        std::memcpy(out + 8 * i, &v, 8);
      }
      break;
    case 5: float80(out); break;
    case 6:
      for (unsigned i = 0; i < 4; ++i) {
        const u32 v = integer();
        std::memcpy(out + 4 * i, &v, 4);
      }
      break;
    default:
      for (unsigned i = 0; i < 16; ++i) out[i] = static_cast<u8>(below(10) << 4 | below(10));  // packed decimal
      out[9] = one_in(2) ? 0x80 : 0;
      break;
  }
}

void Values::fill(std::span<u8> out) {
  std::array<u8, 16> chunk{};
  for (std::size_t done = 0; done < out.size(); done += chunk.size()) {
    vector(chunk.data());
    std::copy_n(chunk.begin(), std::min(chunk.size(), out.size() - done), out.begin() + static_cast<std::ptrdiff_t>(done));
  }
}

void Values::fill_alike(std::span<u8> out) {
  for (u8& byte : out) byte = one_in(24) ? u8{1} : u8{0};
}

}  // namespace ring3::hostcpu
