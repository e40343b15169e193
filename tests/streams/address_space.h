// Page tables and descriptors of one stream: random, but such that the stream can run. Everything becomes pokes of its record.
#pragma once

#include "layout.h"
#include "tests/hostcpu/values.h"

#include "base/types.h"

#include <span>
#include <vector>

namespace ring3::streams {

struct Poke {
  u32 offset;  // in the arena
  std::vector<u8> bytes;
};

enum class Area : u8 { code, data, stack, page_tables };

// Where the arena's pages are in linear memory.
class AddressSpace {
 public:
  // `ring`: whose rights the mappings must allow; `strict`: no mapping that denies anything to this ring; `marked`: accessed bits are set
  // where the manual leaves open whether a walk that faults sets them.
  AddressSpace(hostcpu::Values& values, unsigned ring, bool strict, bool marked, std::vector<Poke>& pokes);

  [[nodiscard]] bool pae() const { return pae_; }
  [[nodiscard]] bool nx() const { return nx_; }
  [[nodiscard]] u32 cr3() const;
  [[nodiscard]] u32 cr4() const { return cr4_; }

  // Linear address of an arena page in its first mapping, or in any.
  [[nodiscard]] u32 linear(unsigned page) const { return linear_[page]; }
  [[nodiscard]] u32 any_linear(unsigned page) const;
  // Some mapped page's linear address.
  [[nodiscard]] u32 random_linear() const;
  // The identity-mapped address of the entry that maps `linear(page)`.
  [[nodiscard]] u32 entry_address(unsigned page) const { return entry_[page]; }

 private:
  void map(u32 linear, unsigned page, u64 flags);
  void poke64(u32 offset, u64 value, unsigned size);
  [[nodiscard]] u64 flags(bool needs_write, bool may_deny, bool code);
  [[nodiscard]] u32 linear_of(unsigned slot, unsigned index) const;
  void place(unsigned first_page, unsigned count, Area area);

  hostcpu::Values& values_;
  std::vector<Poke>& pokes_;
  unsigned ring_;
  bool strict_, marked_;
  bool pae_, nx_;
  u32 cr4_ = 0;
  unsigned slot_[2]{};  // directory entries that lead to table A and table B
  std::array<u32, hashed_pages> linear_{}, entry_{};
  struct Alias {
    unsigned page;
    u32 linear;
  };
  std::vector<Alias> aliases_;
  std::vector<u32> used_;
};

[[nodiscard]] u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);
[[nodiscard]] u64 gate(u16 selector, u32 offset, u8 access, u8 parameters);

}  // namespace ring3::streams
