// Bytes that stay where they are until all are given back together.
#pragma once

#include "base/types.h"

#include <cstring>
#include <memory>
#include <span>
#include <vector>

namespace ring3 {

class ByteArena {
 public:
  // A copy of `bytes`, at most chunk_size of them.
  const u8* keep(std::span<const u8> bytes) {
    if (chunks_.empty() || used_ + bytes.size() > chunk_size) {
      chunks_.push_back(std::make_unique_for_overwrite<u8[]>(chunk_size));
      used_ = 0;
    }
    u8* const copy = chunks_.back().get() + used_;
    std::memcpy(copy, bytes.data(), bytes.size());
    used_ += bytes.size();
    return copy;
  }
  void clear() { chunks_.clear(); }

  static constexpr std::size_t chunk_size = std::size_t{64} * 1024;

 private:
  std::vector<std::unique_ptr<u8[]>> chunks_;
  std::size_t used_ = 0;
};

}  // namespace ring3
