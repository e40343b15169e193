// Descriptor caches: the hidden part of a segment register, explicit here (Intel SDM vol. 3, 3.4.3-3.4.5).
#pragma once

#include "base/types.h"

#include <bit>
#include <type_traits>

namespace ring3 {

// `attributes` holds descriptor bits 40-47 in its low byte (type, S, DPL, P) and bits 52-55 (AVL, L, D/B, G) in bits 12-15,
// the layout that LAR shows shifted right by 8. `limit` is the effective byte limit (granularity applied).
struct SegmentCache {
  u16 selector = 0;
  u16 attributes = 0;
  u32 base = 0;
  u32 limit = 0;

  [[nodiscard]] u32 type() const { return attributes & 0xFu; }
  [[nodiscard]] bool is_code_or_data() const { return (attributes & 0x10u) != 0; }
  [[nodiscard]] u32 dpl() const { return (attributes >> 5) & 3u; }
  [[nodiscard]] bool present() const { return (attributes & 0x80u) != 0; }
  [[nodiscard]] bool is_code() const { return (attributes & 0x18u) == 0x18u; }
  [[nodiscard]] bool conforming() const { return (attributes & 0x1Cu) == 0x1Cu; }
  [[nodiscard]] bool readable() const { return !is_code() || (attributes & 2u) != 0; }
  [[nodiscard]] bool writable() const { return (attributes & 0x1Au) == 0x12u; }
  [[nodiscard]] bool expand_down() const { return (attributes & 0x1Cu) == 0x14u; }
  // D/B: 32-bit code, 32-bit stack pointer, or 4 GiB upper bound of an expand-down segment.
  [[nodiscard]] bool big() const { return (attributes & 0x4000u) != 0; }
  // A NULL selector leaves the cache unusable: any access faults.
  [[nodiscard]] bool usable() const { return present(); }
  // Two comparisons instead of four: this is asked at every way out of emitted code.
  bool operator==(const SegmentCache& other) const {
    struct Words {
      u32 first, second, third;
    };
    const Words a = std::bit_cast<Words>(*this), b = std::bit_cast<Words>(other);
    return ((a.first ^ b.first) | (a.second ^ b.second) | (a.third ^ b.third)) == 0;
  }
};
static_assert(std::has_unique_object_representations_v<SegmentCache>);

struct DescriptorTable {
  u32 base = 0;
  u32 limit = 0;
  bool operator==(const DescriptorTable&) const = default;
};

}  // namespace ring3
