// What soft tables consist of before anything is filled in: pages whose every entry is contract::no_entry. They exist once and are mapped
// as private copies, so an untouched page of a table costs nothing.
#pragma once

#include "base/mapping.h"
#include "base/types.h"

namespace ring3 {

class MissPages {
 public:
  // Throws UserError when the host has no memory left.
  MissPages();

  // Lays them over `size` bytes of `mapping` from byte `offset` (multiples of `stretch`). False: the host refuses, errno says why.
  [[nodiscard]] bool map(const Mapping& mapping, u64 offset, u64 size) const;

  // Bytes; each is one mapping of the host.
  static constexpr u64 stretch = u64{1} << 20;

 private:
  MemFd pages_;
};

}  // namespace ring3
