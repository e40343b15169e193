// A run of guest instructions that is translated as a unit.
#pragma once

#include "frontend/decoder.h"
#include "frontend/insn.h"
#include "guest/block_key.h"

#include <functional>
#include <span>
#include <vector>

namespace ring3 {

struct GuestBlock {
  BlockKey key;
  std::vector<Insn> insns;
  u32 length = 0;             // bytes of guest code
  bool crosses_page = false;  // its last instruction ends in the following page
  // The block stopped before an instruction that could not be decoded from this page alone; the successor starts there.
  bool truncated = false;

  void clear() {
    insns.clear();
    length = 0;
    crosses_page = truncated = false;
  }
};

// True: control never reaches the next instruction in line, or the mapping or mode under the code may have changed, so that the block
// ends behind it.
[[nodiscard]] bool ends_block(const Insn& insn);

// True: an instruction that ends a block, but control may reach the next one in line, at once or by a RET, and nothing else has changed
// then.
[[nodiscard]] bool is_way_out(const Insn& insn);

// Decodes from `page_bytes`, the guest memory from `key.linear` to the end of its page, followed by up to 15 bytes of the next page if
// that can be fetched (`in_page` says how many bytes lie in the first page). At most `max_insns` instructions, at least one unless the
// first one is undecodable (then the block is empty and the interpreter raises what is due).
// The block goes on behind a way out where `goes_on` says so, for the offset of the next instruction; it may be empty: nowhere.
using GoesOn = std::function<bool(const Insn& insn, u32 offset)>;
void build_block(const Decoder& decoder, const BlockKey& key, std::span<const u8> page_bytes, u32 in_page, u32 max_insns,
                 const GoesOn& goes_on, GuestBlock& out);

}  // namespace ring3
