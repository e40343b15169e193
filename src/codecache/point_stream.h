// The points of a block in two bytes an instruction, up to four: they are half of what the cache keeps about a block, and are read at exits
// alone, from the block's start.
#pragma once

#include "base/types.h"
#include "translator/translated_block.h"

#include <span>
#include <vector>

namespace ring3 {

// Appends the stream of `points`.
void encode_points(std::span<const InsnPoint> points, std::vector<u8>& out);

// Reads a stream from its start.
class PointReader {
 public:
  explicit PointReader(const u8* stream) : at_(stream) {}
  // The next point. The caller knows how many there are.
  InsnPoint next();
  // Where the stream goes on behind the points that were read.
  [[nodiscard]] const u8* rest() const { return at_; }

 private:
  const u8* at_;
  InsnPoint point_;
};

}  // namespace ring3
