// One installed translation.
//
// Identified by its BlockKey. Three indexes lead to it: the key table answers "is this code translated?", the page index "which
// translations does a write to this physical page kill?", and the host map "which guest instruction is this host pc?".
//
// There are as many of these as the guest has run code, so what is kept beside them counts: everything of variable length lies in arrays
// that all blocks share.
#pragma once

#include "codecache/point_stream.h"
#include "guest/address.h"
#include "guest/block_key.h"

namespace ring3 {

// Consecutive numbers, for loops. (clang 14, which builds the fuzz targets, does not know std::views.)
struct Numbers {
  struct Iterator {
    u32 at;
    u32 operator*() const { return at; }
    Iterator& operator++() {
      ++at;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return at != other.at; }
  };
  u32 first, last;  // `last` is behind them
  [[nodiscard]] Iterator begin() const { return {first}; }
  [[nodiscard]] Iterator end() const { return {last}; }
};

struct Block {
  static constexpr u32 none = ~0u;

  BlockKey key;
  const u8* points = nullptr;  // insn_count + 1 of them (point_stream.h), then its addresses (code_moves.cpp), if it is `movable`
  u32 number = 0;              // in order of installation since the last flush
  u32 host_offset = 0;         // from the code cache's base
  u32 host_size = 0;
  u32 guest_length = 0;
  u32 first_exit = 0;    // number of its first direct exit that can be linked
  u32 incoming = none;   // first in the list of direct exits linked to it
  u32 first_piece = 0;   // in the page index
  u32 landing = none;    // number of the exit behind the CALL in front of it, if one is known
  u16 instructions = 0;  // guest instructions
  u16 exit_count = 0;
  bool crosses_page = false;
  bool uses_fpu : 1 = false;
  bool uses_x87 : 1 = false;  // or MMX
  bool movable = false;       // its code can be made right for its page at another linear address
  bool valid = true;          // false: its entry leads to the miss stub, its memory waits for the next flush

  [[nodiscard]] u32 insn_count() const { return instructions; }
  // `index` at most insn_count(): the last point is behind the last instruction.
  [[nodiscard]] InsnPoint point(u32 index) const {
    PointReader reader(points);
    for (; index != 0; --index) (void)reader.next();
    return reader.next();
  }
  // Instructions from `index` to the next way out, or to the end.
  [[nodiscard]] u32 rest_of_segment(u32 index) const {
    if (index >= instructions) return 0;
    PointReader reader(points);
    for (u32 i = 0; i <= index; ++i) (void)reader.next();
    u32 count = 1;
    while (index + count < instructions && !reader.next().segment) ++count;
    return count;
  }
  // The key that a block at the start of its page would have.
  [[nodiscard]] BlockKey page_key() const {
    BlockKey page = key;
    page.physical &= ~u64{page_mask};
    page.linear &= ~u32{page_mask};
    return page;
  }
  // Numbers of its direct exits.
  [[nodiscard]] Numbers exits() const { return {first_exit, first_exit + exit_count}; }
};

}  // namespace ring3
