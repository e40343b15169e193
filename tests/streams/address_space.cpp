#include "address_space.h"

#include <algorithm>
#include <array>

namespace ring3::streams {

namespace {

constexpr u64 present = 1, write = 2, user = 4, write_through = 8, cache_off = 0x10, accessed = 0x20, dirty = 0x40, large = 0x80,
              global = 0x100;
constexpr u64 no_execute = u64{1} << 63;

}  // namespace

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags) {
  return u64{base >> 24} << 56 | u64{flags & 15u} << 52 | u64{limit >> 16 & 15} << 48 | u64{access} << 40 | u64{base & 0xFFFFFF} << 16 |
         (limit & 0xFFFF);
}

u64 gate(u16 selector, u32 offset, u8 access, u8 parameters) {
  return u64{offset >> 16} << 48 | u64{access} << 40 | u64{parameters} << 32 | u64{selector} << 16 | (offset & 0xFFFF);
}

void AddressSpace::poke64(u32 offset, u64 value, unsigned size) {
  Poke poke{offset, {}};
  for (unsigned i = 0; i < size; ++i) poke.bytes.push_back(static_cast<u8>(value >> (8 * i)));
  pokes_.push_back(std::move(poke));
}

u32 AddressSpace::linear_of(unsigned slot, unsigned index) const {
  return pae_ ? (slot << 21) + (index << 12) : (slot << 22) + (index << 12);
}

// Rights of an entry, random where that can do no harm to the ring that must use it.
u64 AddressSpace::flags(bool needs_write, bool may_deny, bool code) {
  u64 f = present | write | user;
  const bool deny = may_deny && !strict_ && values_.one_in(12);
  if (deny) {
    switch (values_.below(3)) {
      case 0: f &= ~present; break;
      case 1: f &= ~write; break;
      default: f &= ~user;
    }
  } else {
    if (ring_ != 3 && values_.one_in(2)) f &= ~user;
    if (!needs_write && values_.one_in(6)) f &= ~write;
  }
  if (values_.one_in(2) || (marked_ && (f & write) == 0)) f |= accessed;
  if (values_.one_in(2)) f |= dirty;
  if (values_.one_in(16)) f |= write_through;
  if (values_.one_in(16)) f |= cache_off;
  if (values_.one_in(8)) f |= global;
  f |= u64{values_.below(8)} << 9;
  if (nx_ && (code ? deny && values_.one_in(3) : values_.one_in(4))) f |= no_execute;
  return f;
}

void AddressSpace::map(u32 linear, unsigned page, u64 entry) {
  const unsigned shift = pae_ ? 21 : 22;
  const unsigned slot = linear >> shift;
  const unsigned index = linear >> 12 & (pae_ ? 511u : 1023u);
  const unsigned table = slot == slot_[0] ? page_table_a : page_table_b;
  const unsigned size = pae_ ? 8 : 4;
  poke64(table * 4096 + index * size, (arena_base + page * 4096) | entry, size);
  used_.push_back(linear);
  aliases_.push_back({page, linear});
  if (linear_[page] == 0) {
    linear_[page] = linear;
    entry_[page] = arena_base + table * 4096 + index * size;
  }
}

// `count` pages in a row at a free place, sometimes over the border of the two tables.
void AddressSpace::place(unsigned first_page, unsigned count, Area area) {
  const unsigned entries = pae_ ? 512 : 1024;
  for (;;) {
    unsigned slot = slot_[values_.below(2)];
    unsigned index = values_.below(entries - count);
    if (slot_[1] == slot_[0] + 1 && values_.one_in(4)) {
      slot = slot_[0];
      index = entries - 1 - values_.below(count);
    }
    const u32 start = linear_of(slot, index);
    // A free page on both sides, so that areas do not touch.
    const bool taken = std::any_of(used_.begin(), used_.end(), [&](u32 at) { return at + 0x1000 - start < (count + 2) * 0x1000; });
    if (taken || start + count * 4096 < start) continue;
    const bool needs_write = area == Area::stack;
    const bool may_deny = area != Area::stack || ring_ == 3;
    for (unsigned i = 0; i < count; ++i) map(start + i * 4096, first_page + i, flags(needs_write, may_deny, area == Area::code));
    return;
  }
}

AddressSpace::AddressSpace(hostcpu::Values& values, unsigned ring, bool strict, bool marked, std::vector<Poke>& pokes)
    : values_(values), pokes_(pokes), ring_(ring), strict_(strict), marked_(marked), pae_(values.one_in(2)), nx_(pae_ && values.one_in(2)) {
  constexpr u32 pse = 0x10, pae = 0x20, pge = 0x80, osfxsr = 0x200, osxmmexcpt = 0x400, tsd = 4;
  cr4_ = osxmmexcpt | osfxsr;
  if (pae_) cr4_ |= pae;
  if (values_.one_in(2)) cr4_ |= pge;
  if (values_.one_in(4)) cr4_ |= tsd;
  if (pae_ ? values_.one_in(2) : !values_.one_in(3)) cr4_ |= pse;
  if (values_.one_in(24)) cr4_ &= ~osfxsr;

  const unsigned slots = pae_ ? 2048 : 1024;
  const unsigned size = pae_ ? 8 : 4;
  const unsigned first_slot = pae_ ? 512 : 4;  // the kernel's identity maps and what PAE's first directory covers stay free
  slot_[0] = first_slot + values_.below(slots - first_slot - 1);
  do {
    slot_[1] = values_.one_in(2) ? slot_[0] + 1 : first_slot + values_.below(slots - first_slot);
  } while (slot_[1] == slot_[0] || (pae_ && (slot_[1] & 511) == (slot_[0] & 511)));

  // Directory entries of the identity maps: supervisor, accessed.
  constexpr u64 kernel = present | write | accessed;
  if (pae_) {
    for (unsigned i = 0; i < 4; ++i) poke64(page_directory * 4096 + i * 8, (arena_base + (page_identity_pae + i) * 4096u) | kernel, 8);
    for (unsigned i = 0; i < 4; ++i) poke64(pdpt_offset + i * 8, (arena_base + (page_directory + (i != 0 ? 1u : 0u)) * 4096u) | present, 8);
  } else {
    for (unsigned i = 0; i < 2; ++i) poke64(page_directory * 4096 + i * 4, (arena_base + (page_identity + i) * 4096u) | kernel, 4);
  }
  const auto put_directory = [&](unsigned slot, u64 value) {
    poke64(pae_ ? (page_directory + 1) * 4096 + (slot & 511) * 8 : page_directory * 4096 + slot * 4, value, size);
  };
  for (unsigned i = 0; i < 2; ++i) {
    u64 f = flags(true, false, true) & ~(large | global | no_execute);
    if (ring_ == 3) f |= user;
    if (marked_) f |= accessed;
    if (!pae_ && (cr4_ & pse) == 0 && values_.one_in(4)) f |= large;  // without CR4.PSE the bit means nothing
    put_directory(slot_[i], (arena_base + (page_table_a + i) * 4096u) | f);
  }

  place(page_code, 2, Area::code);
  place(page_data, 3, Area::data);
  place(page_stack, 1, Area::stack);
  // The same pages again elsewhere, with other rights; tables too.
  for (unsigned n = values_.below(5); n > 0; --n) place(1 + values_.below(6), 1, Area::data);
  if (values_.one_in(6)) place(page_tables, 1, Area::page_tables);
  // A large page that shows the arena.
  if ((pae_ || (cr4_ & pse) != 0) && values_.one_in(3)) {
    unsigned slot = 0;
    do {
      slot = first_slot + values_.below(slots - first_slot);
    } while (pae_ ? (slot & 511) == (slot_[0] & 511) || (slot & 511) == (slot_[1] & 511) : slot == slot_[0] || slot == slot_[1]);
    put_directory(slot, arena_base | large | flags(false, true, false));
    for (const unsigned page : {1u, 3u, 4u, 5u}) aliases_.push_back({page, (slot << (pae_ ? 21 : 22)) + page * 4096});
  }
}

u32 AddressSpace::cr3() const { return pae_ ? arena_base + pdpt_offset : arena_base + page_directory * 4096; }

u32 AddressSpace::any_linear(unsigned page) const {
  std::vector<u32> found;
  for (const Alias& alias : aliases_)
    if (alias.page == page) found.push_back(alias.linear);
  return found[values_.below(static_cast<u32>(found.size()))];
}

u32 AddressSpace::random_linear() const { return aliases_[values_.below(static_cast<u32>(aliases_.size()))].linear; }

}  // namespace ring3::streams
