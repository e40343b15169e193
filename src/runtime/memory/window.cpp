#include "runtime/memory/window.h"

#include "base/error.h"
#include "runtime/memory/ram.h"
#include "translator/contract.h"

#include <algorithm>

namespace ring3 {

namespace {

// Longer runs are left to the host's own faults: page tables for what may never be used.
constexpr u32 most_populated = 64;
constexpr u32 unit_pages = 2;  // a page table of the host, and a share of the rights with theirs

void must(bool done) {
  // Splitting a mapping is what can fail. The guest would keep what it must not have.
  if (!done) throw InternalError("the host does not let go of a page in a window");
}

}  // namespace

Window::Window(const Mapping& owner, u64 offset, u32 first_page, const GuestRam& ram, WindowBudget& budget)
    : owner_(owner),
      offset_(offset),
      first_page_(first_page),
      ram_(ram),
      budget_(budget),
      rights_mapping_(Mapping::sparse(linear_page_count * sizeof(Rights))) {
  if (!rights_mapping_) throw UserError("windows: the host has no address space left; raise the limit (ulimit -v)");
  rights_ = reinterpret_cast<Rights*>(rights_mapping_.data());
}

bool Window::map(u32 first, u32 count, u64 ram_page, Rights rights) {
  const bool populate = count <= most_populated;
  if (!owner_.map_file(at(first), u64{count} << page_shift, ram_.fd(), ram_page, rights == Rights::write, populate)) return false;
  take_pieces(2);
  for (u32 u = first / unit; u <= (first + count - 1) / unit; ++u) {
    if ((units_[u / 64] >> u % 64 & 1) == 0) touched_ += unit_pages;
    units_[u / 64] |= u64{1} << u % 64;
  }
  std::fill_n(rights_ + first, count, rights);
  return true;
}

bool Window::split() {
  ++losses_;
  take_pieces(2);
  if (budget_.pieces <= WindowBudget::most) return true;
  clear();
  ++budget_.emptied;
  return false;
}

void Window::write_protect(u32 page) {
  if (!split()) return;
  must(owner_.write_protect(at(page), page_size));
  rights_[page] = Rights::read;
}

void Window::unmap(u32 first, u32 count) {
  if (!split()) return;
  must(owner_.close(at(first), u64{count} << page_shift));
  std::fill_n(rights_ + first, count, Rights::none);
}

void Window::clear() {
  if (pieces_ == 0) return;
  ++losses_;
  must(owner_.close(at(first_page_), contract::linear_size - (u64{first_page_} << page_shift)));
  rights_mapping_.discard(0, rights_mapping_.size());
  budget_.pieces -= pieces_;
  pieces_ = 0;
  units_ = {};
  touched_ = 0;
}

}  // namespace ring3
