// Decoded instructions, kept by physical page, with a small direct-mapped look-up by linear address in front.
//
// Which question each index answers:
//   `entries_`  linear page + code size + Memory::fetch_tag -> decoded page; the tag dies with the translation
//   `pages_`    physical page + code size -> decoded page; valid until the bytes are written
//   `DecodedPage::slot`  byte within the page -> instruction that starts there
// Instructions that cross a page are never kept: their second half has a translation of its own.
#pragma once

#include "frontend/insn.h"
#include "guest/address.h"
#include "runtime/interp/handlers.h"

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

namespace ring3::interp {

struct DecodedInsn {
  Insn insn;
  Handler handler = nullptr;
};

class DecodeCache {
 public:
  // What the look-up by linear address depends on.
  struct Place {
    u32 linear = 0;
    u64 tag = 0;
    bool code32 = false;
  };

  // Null: not known. The pointer is valid until the next `insert`.
  [[nodiscard]] const DecodedInsn* find(Place place) const {
    const Entry& e = entries_[slot_of(place)];
    if (e.key != key_of(place) || e.tag != place.tag) return nullptr;
    const u16 n = e.page->slot[place.linear & page_mask];
    return n != 0 ? &e.page->pool[n - 1u] : nullptr;
  }
  // As `find` for a place whose physical page is known by a fresh translation; also makes later `find`s there quick.
  [[nodiscard]] const DecodedInsn* attach(Place place, PhysAddr physical);
  // Keeps an instruction that lies within the page of `physical`. Bounded: forgets everything when full.
  const DecodedInsn* insert(Place place, PhysAddr physical, const DecodedInsn& decoded);

  // Bytes were written: forgets the instructions that have one of them. Safe while one of these instructions executes.
  void written(PhysAddr address, u32 size);
  // Is any instruction of this physical page kept?
  [[nodiscard]] bool has_code(PhysAddr page) const;

  // Forgets all instructions. Not while one executes.
  void clear();

  static constexpr u32 max_pages = 2048;
  static constexpr u32 max_instructions = 256 * 1024;  // about 30 MB

 private:
  struct DecodedPage {
    std::array<u16, page_size> slot{};  // 1 + index into pool; 0: none
    std::vector<DecodedInsn> pool;      // also those forgotten since: they may be executing
    u32 live = 0;
  };
  struct Entry {
    u32 key = ~0u;
    u64 tag = 0;
    DecodedPage* page = nullptr;
  };
  static constexpr u32 entry_count = 512;
  static constexpr u32 max_pool = 16 * 1024;

  static u32 key_of(Place p) { return ((p.linear >> page_shift) << 1) | (p.code32 ? 1u : 0u); }
  static u32 slot_of(Place p) { return ((p.linear >> page_shift) + static_cast<u32>(p.tag) * 37) % entry_count; }
  static u64 page_key(PhysAddr physical, bool code32) { return ((physical.value >> page_shift) << 1) | (code32 ? 1u : 0u); }
  static void forget(DecodedPage& page, u32 from, u32 to);

  std::array<Entry, entry_count> entries_{};
  std::unordered_map<u64, std::unique_ptr<DecodedPage>> pages_;
  u32 instructions_ = 0;
};

}  // namespace ring3::interp
