// A set of contexts: one bit for each, a cache line for all.
#pragma once

#include "base/types.h"

#include <array>
#include <bit>

namespace ring3 {

class alignas(64) ContextSet {
 public:
  static constexpr unsigned most = 512;

  [[nodiscard]] bool has(unsigned number) const { return (words_[number / 64] >> number % 64 & 1) != 0; }
  void add(unsigned number) { words_[number / 64] |= u64{1} << number % 64; }
  void remove(unsigned number) { words_[number / 64] &= ~(u64{1} << number % 64); }
  template <typename F>
  void for_each(F&& f) const {
    for (unsigned i = 0; i < words_.size(); ++i)
      for (u64 bits = words_[i]; bits != 0; bits &= bits - 1) f(i * 64 + static_cast<unsigned>(std::countr_zero(bits)));
  }
  ContextSet& operator|=(const ContextSet& other) {
    for (unsigned i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
    return *this;
  }
  ContextSet& operator&=(const ContextSet& other) {
    for (unsigned i = 0; i < words_.size(); ++i) words_[i] &= other.words_[i];
    return *this;
  }

 private:
  std::array<u64, most / 64> words_{};
};

}  // namespace ring3
