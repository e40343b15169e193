#include "codecache/page_index.h"

#include "base/error.h"

namespace ring3 {

PageIndex::PageIndex() : mapping_(Mapping::sparse(page_count * sizeof(Page))) {
  if (!mapping_) throw UserError("translation cache: the host has no address space left; raise the limit (ulimit -v)");
  pages_ = reinterpret_cast<Page*>(mapping_.data());
}

u32 PageIndex::add(const Piece& piece) {
  if (piece.page >= page_count) throw InternalError("code above 4 GiB");
  const u32 number = static_cast<u32>(pieces_.size());
  pieces_.push_back(piece);
  Page& page = pages_[piece.page];
  pieces_.back().next = page.head;
  page.head = number + 1;
  ++page.changes;
  return number;
}

void PageIndex::remove(u32 number) {
  Page& page = pages_[pieces_[number].page];
  ++page.changes;
  u32* link = &page.head;
  while (*link != number + 1) {
    if (*link == 0) throw InternalError("a block is not in the list of its page");
    link = &pieces_[*link - 1].next;
  }
  *link = pieces_[number].next;
}

void PageIndex::clear() {
  mapping_.discard(0, mapping_.size());
  pieces_.clear();
}

void PageIndex::find(PhysAddr address, u32 size, std::vector<u32>& blocks) const {
  const u32 first = static_cast<u32>(address.value & page_mask);
  const u32 last = first + size - 1;
  for (u32 at = head(address.value >> page_shift); at != 0; at = pieces_[at - 1].next) {
    const Piece& piece = pieces_[at - 1];
    if (piece.first <= last && first <= piece.last) blocks.push_back(piece.block);
  }
}

}  // namespace ring3
