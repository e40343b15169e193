// One installed translation.
//
// Identified by its BlockKey. Three indexes lead to it: the key map answers "is this code translated?", the page index "which
// translations does a write to this physical page kill?", and the host map "which guest instruction is this host pc?".
#pragma once

#include <vector>

#include "guest/block_key.h"
#include "translator/translated_block.h"

namespace ring3 {

struct Block {
  BlockKey key;
  u32 host_offset = 0;  // from the code cache's base
  u32 host_size = 0;
  u32 guest_length = 0;
  u64 second_page = 0;  // physical address of the second page, if it crosses
  bool crosses_page = false;
  bool uses_fpu = false;
  bool valid = true;  // false: its entry leads to the miss stub, its memory waits for the next flush
  u64* counter = nullptr;
  std::vector<InsnPoint> points;
  std::vector<u32> exits;     // numbers of its direct exits
  std::vector<u32> incoming;  // numbers of direct exits linked to it

  [[nodiscard]] u32 insn_count() const { return static_cast<u32>(points.size()) - 1; }
};

}  // namespace ring3
