#include "runtime/memory/jump_slots.h"

#include "base/error.h"
#include "translator/contract.h"

#include <algorithm>
#include <bit>

namespace ring3 {

namespace {

constexpr unsigned touched_shift = 28;
constexpr u64 table_size = u64{4} << 32;
constexpr u64 index_size = u64{linear_page_count} * sizeof(u32);
// A guest can spread its code so that every slot needs a host page of its own (16 GiB in all); past this the table is emptied and given
// back to the host.
constexpr u32 touched_limit = (32u << 20) / 4096;
constexpr u32 unit_pages = 2;  // a page table of the host, and a share of the index with its page table

}  // namespace

JumpSlots::JumpSlots(const Mapping& owner, u64 offset)
    : owner_(owner), offset_(offset), table_(reinterpret_cast<u32*>(owner.data() + offset)), index_mapping_(Mapping::sparse(index_size)) {
  if (!index_mapping_) throw UserError("jump tables: the host has no address space left; raise the limit (ulimit -v)");
  index_ = reinterpret_cast<u32*>(index_mapping_.data());
}

JumpSlots::Page& JumpSlots::page_of(u32 page) {
  const u32 known = index_[page] & record_mask;
  if (known != 0) return pages_[known - 1];
  if (free_.empty()) {
    free_.push_back(static_cast<u32>(pages_.size()));
    pages_.emplace_back();
  }
  const u32 index = free_.back();
  free_.pop_back();
  index_[page] |= index + 1;
  pages_[index].number = page;
  return pages_[index];
}

void JumpSlots::set(u32 linear, u32 value) {
  const u32 number = linear >> page_shift;
  u32* slot = table_ + linear;
  const u32 host_page = 1u << (touched_shift + ((linear >> 10) & 3));  // 1024 slots in a host page
  if ((index_[number] & host_page) == 0) {
    if (touched_ >= touched_limit) clear_all();
    index_[number] |= host_page;
    ++touched_;
    u64& units = units_[number / unit / 64];
    const u64 own = u64{1} << number / unit % 64;
    if ((units & own) == 0) touched_ += unit_pages;
    units |= own;
  }
  Page& record = page_of(number);
  if (*slot == 0) record.slots.push_back(static_cast<u16>(linear & page_mask));
  *slot = value;
}

void JumpSlots::depend(u32 page, u32 other) {
  std::vector<u32>& dependents = page_of(other).dependents;
  if (std::ranges::find(dependents, page) == dependents.end()) dependents.push_back(page);
}

void JumpSlots::clear(u32 linear) {
  const u32 known = index_[linear >> page_shift] & record_mask;
  if (known == 0 || table_[linear] == 0) return;
  table_[linear] = 0;
  std::vector<u16>& slots = pages_[known - 1].slots;
  const auto found = std::find(slots.begin(), slots.end(), static_cast<u16>(linear & page_mask));
  *found = slots.back();
  slots.pop_back();
}

void JumpSlots::empty(Page& record) {
  u32* slots = table_ + (u64{record.number} << page_shift);
  for (const u16 slot : record.slots) slots[slot] = 0;
  record.slots.clear();
}

void JumpSlots::clear_page(u32 page) {
  const u32 known = index_[page] & record_mask;
  if (known == 0) return;
  Page& record = pages_[known - 1];
  empty(record);
  // Not further: a slot of theirs does not depend on what depends on them.
  for (const u32 dependent : record.dependents) {
    const u32 other = index_[dependent] & record_mask;
    if (other != 0) empty(pages_[other - 1]);
  }
  record.dependents.clear();
  index_[page] &= ~record_mask;
  free_.push_back(known - 1);
}

void JumpSlots::clear_all() {
  free_.clear();
  for (u32 i = 0; i < pages_.size(); ++i) {
    empty(pages_[i]);
    pages_[i].dependents.clear();
    index_[pages_[i].number] &= ~record_mask;
    free_.push_back(i);
  }
  if (touched_ >= touched_limit) {
    if (!owner_.renew(offset_, table_size) || !index_mapping_.renew(0, index_size)) {
      throw InternalError("jump tables: the host does not take memory back");
    }
    pages_ = {};
    free_ = {};
    units_ = {};
    touched_ = 0;
  }
}

u64 JumpSlots::recorded() const {
  u64 count = 0;
  for (const Page& page : pages_) count += page.slots.size();
  return count;
}

}  // namespace ring3
