#include "codecache/point_stream.h"

#include <cstring>

namespace ring3 {

namespace {

// A point is a byte with the guest's distance from the point before it and what follows, and a byte with the host's distance. Then, where
// they are needed: flags in a byte, what esp lacks in a byte, distances that did not fit in four bytes each.
constexpr u8 guest_mask = 0x0F;
constexpr u8 long_guest = guest_mask;
constexpr u8 has_flags = 0x10;
constexpr u8 has_esp = 0x20;
constexpr u8 long_host = 0xFF;

u8 flags_of(const InsnPoint& point) {
  return static_cast<u8>((point.emitted ? 0u : 1u) | (point.rep_string ? 2u : 0u) | (point.shadowed ? 4u : 0u) |
                         (point.moves_fip ? 8u : 0u) | (point.segment ? 16u : 0u));
}

void set_flags(InsnPoint& point, u8 flags) {
  point.emitted = (flags & 1u) == 0;
  point.rep_string = (flags & 2u) != 0;
  point.shadowed = (flags & 4u) != 0;
  point.moves_fip = (flags & 8u) != 0;
  point.segment = (flags & 16u) != 0;
}

void put32(std::vector<u8>& out, u32 value) {
  for (unsigned shift = 0; shift < 32; shift += 8) out.push_back(static_cast<u8>(value >> shift));
}

u32 get32(const u8*& at) {
  u32 value = 0;
  std::memcpy(&value, at, sizeof value);
  at += sizeof value;
  return value;
}

}  // namespace

void encode_points(std::span<const InsnPoint> points, std::vector<u8>& out) {
  InsnPoint before;
  for (const InsnPoint& point : points) {
    const u32 guest = u32{point.guest_offset} - before.guest_offset;
    const u32 host = point.host_offset - before.host_offset;
    const u8 flags = flags_of(point);
    out.push_back(static_cast<u8>((guest < long_guest ? guest : long_guest) | (flags != 0 ? has_flags : 0u) |
                                  (point.esp_pending != 0 ? has_esp : 0u)));
    out.push_back(static_cast<u8>(host < long_host ? host : long_host));
    if (flags != 0) out.push_back(flags);
    if (point.esp_pending != 0) out.push_back(static_cast<u8>(point.esp_pending));
    if (guest >= long_guest) put32(out, guest);
    if (host >= long_host) put32(out, host);
    before = point;
  }
}

InsnPoint PointReader::next() {
  const u8 first = *at_++;
  const u8 second = *at_++;
  const u8 guest = first & guest_mask;
  set_flags(point_, (first & has_flags) != 0 ? *at_++ : u8{0});
  point_.esp_pending = static_cast<i8>((first & has_esp) != 0 ? *at_++ : u8{0});
  point_.guest_offset = static_cast<u16>(point_.guest_offset + (guest != long_guest ? guest : get32(at_)));
  point_.host_offset += second != long_host ? second : get32(at_);
  return point_;
}

}  // namespace ring3
