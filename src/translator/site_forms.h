// What was learned about single guest instructions while their translations ran: a site that met something rare is translated in a form
// that handles it without a host fault. Kept by physical address, so that it outlives the translation and holds for every linear address.
#pragma once

#include "base/types.h"
#include "guest/address.h"

#include <cstddef>
#include <unordered_map>

namespace ring3 {

struct SiteForm {
  bool unaligned = false;  // accessed memory misaligned: looks at both ends of the access
  bool calls = false;      // missed the tables: looks up by call (stubs.h)
  bool divides = false;    // a division that faulted: compares first, and leaves what would fault to the interpreter
  u8 misses = 0;           // by host fault, while it does not
  bool wraps = false;      // its address left 4 GiB: formed with 32 bits in a window
  bool tables = false;     // met in a window what cannot be mapped there: uses the tables in every block
  u8 unmapped = 0;         // how often, while it does not
  u8 faults = 0;           // guest faults that it raised in a window, while it does not
};

class SiteForms {
 public:
  // The known sites of one physical page, by offset.
  using Page = std::unordered_map<u32, SiteForm>;

  // Null: nothing is known about the page.
  [[nodiscard]] const Page* page(u64 physical) const {
    const auto found = pages_.find(physical >> page_shift);
    return found == pages_.end() ? nullptr : &found->second;
  }
  [[nodiscard]] static SiteForm form(const Page* page, u64 physical) {
    if (page == nullptr) return {};
    const auto found = page->find(static_cast<u32>(physical) & page_mask);
    return found == page->end() ? SiteForm{} : found->second;
  }

  // To be changed; a new one is plain.
  SiteForm& at(u64 physical) {
    if (size_ > most_sites) clear();
    const auto [place, added] = pages_[physical >> page_shift].try_emplace(static_cast<u32>(physical) & page_mask);
    size_ += added;
    return place->second;
  }
  // Other instructions stand in [physical, physical + size) now, which lies within one page.
  void forget(u64 physical, u32 size) {
    const auto found = pages_.find(physical >> page_shift);
    if (found == pages_.end()) return;
    const u32 first = static_cast<u32>(physical) & page_mask;
    size_ -= std::erase_if(found->second, [&](const auto& site) { return site.first - first < size; });
    if (found->second.empty()) pages_.erase(found);
  }
  void clear() {
    pages_.clear();
    size_ = 0;
  }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  static constexpr std::size_t most_sites = 1u << 20;

  std::unordered_map<u64, Page> pages_;  // by physical page number
  std::size_t size_ = 0;
};

}  // namespace ring3
