// Little-endian fields of untrusted files and of guest memory.
#pragma once

#include "base/types.h"

#include <cstring>
#include <span>

namespace ring3 {

[[nodiscard]] inline bool in_file(std::span<const u8> file, u64 offset, u64 size) {
  return offset <= file.size() && size <= file.size() - offset;
}

// The caller has checked in_file(file, offset, sizeof(T)).
template <typename T>
[[nodiscard]] T field(std::span<const u8> file, u64 offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

template <typename T>
void put(u8* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

}  // namespace ring3
