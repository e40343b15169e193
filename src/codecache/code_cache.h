// Installed translations: memory, look-up, links, page index, invalidation.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "codecache/block.h"
#include "codecache/byte_arena.h"
#include "codecache/code_region.h"
#include "codecache/number_table.h"
#include "codecache/page_index.h"
#include "codecache/page_slots.h"
#include "frontend/guest_block.h"
#include "guest/address.h"
#include "translator/stubs.h"

namespace ring3 {

struct CacheCounters {
  u64 installed = 0;
  u64 invalidated = 0;
  u64 flushes = 0;
  u64 linked = 0;
  u64 unlinked = 0;
  u64 moved = 0;        // blocks, to another linear address
  u64 guest_bytes = 0;  // of all blocks ever installed
  u64 host_bytes = 0;
  u64 guest_insns = 0;
};

class CodeCache {
 public:
  explicit CodeCache(CodeRegion& region);

  [[nodiscard]] const Stubs& stubs() const { return stubs_; }
  [[nodiscard]] u64 base() const { return reinterpret_cast<u64>(region_.code()); }  // host address of offset 0
  [[nodiscard]] const CodeRegion& region() const { return region_; }

  // The valid block with this key, or null.
  [[nodiscard]] Block* find(const BlockKey& key) const;

  // --- installing ---
  [[nodiscard]] u32 next_offset() const { return next_; }
  // Leaves bytes out, so that the next block begins at a multiple of `bytes`, a power of 2.
  void align_next(u32 bytes) { next_ = (next_ + bytes - 1) & ~(bytes - 1); }
  [[nodiscard]] bool has_room(u64 bytes) const { return next_ + bytes + entry_patch_size <= region_.size(); }
  // Copies the code to `next_offset()` and enters the block into all indexes. `has_room` must hold.
  Block& install(const GuestBlock& guest, u64 second_page, const TranslatedBlock& translated, u64* counter);
  // Two counters that live until the next flush: executions of the block from its start, and of its instructions.
  [[nodiscard]] u64* new_counter();

  // --- links ---
  // A direct jump to the same guest page. Offsets are from the cache's base.
  struct Exit {
    u32 from = 0;            // number of the block it is in
    u32 to = Block::none;    // of the block it leads to; none: to its stub
    u32 next = Block::none;  // next exit linked to the same block
    u32 patch_offset = 0;    // its 4-byte displacement
    u32 stub_offset = 0;
    u32 target = 0;  // linear address
    ExitKind kind = ExitKind::jump;
    u8 loop_offset = 0;   // DirectExit's
    bool shared = false;  // a call that leads to that of another block for the same guest instruction
  };
  [[nodiscard]] const Exit& exit(u32 number) const { return exits_[number]; }
  // Where a jump table leads for this block, an offset from the cache's base: to the landing of the CALL in front of it, if one is known,
  // as that is where the host expects a RET to go; else to the block's start.
  [[nodiscard]] u32 way_in(const Block& block) const;
  // Where jump tables lead for all blocks on the page of `one` with its mode, and for the landings inside them; not for blocks that reach
  // into another page. Good until a block is installed or killed.
  [[nodiscard]] std::span<const PageSlots::Slot> slots_beside(const Block& one);
  // The landing for this key, or 0.
  [[nodiscard]] u32 landing(const BlockKey& key) const;
  // Patches the exit's jump so that it leads straight to `to`, or, if that crosses into a page which may be another one next time, to where
  // the jump table leads. No effect if either end is dead.
  void link(u32 number, Block& to);

  struct Site {
    Block* block = nullptr;
    u32 point = 0;
  };
  [[nodiscard]] Site interpret_site(u32 number) {
    const StoredSite& site = sites_[number];
    return {&blocks_[site.block], site.point};
  }
  // The block and point that host pc `host` belongs to; block is null for pcs outside every block.
  [[nodiscard]] Site find_host(u64 host);
  // Host pc `host`, which is running, is where a guest instruction begins that an interrupt may come before. Allocates nothing: signal
  // handlers ask.
  [[nodiscard]] bool at_boundary(u64 host);

  // --- invalidation ---
  // Kills the blocks with a byte in physical [address, address + size), which lies within one page. True: the page has none left.
  bool invalidate(PhysAddr address, u32 size);
  [[nodiscard]] bool has_blocks(PhysAddr page) const { return pages_.has_blocks(page); }
  // A block of that physical page for the mode of `key` at another linear page, of which `in_use(linear address)` says no. Null: there is
  // none, or there is a block at the page of `key` already. Asks for a few places at most.
  [[nodiscard]] const Block* unused_place(const BlockKey& key, const std::function<bool(u32)>& in_use);
  // The page of `key`, with all blocks for its mode that it has at the linear page of `from`, appears at that of `key` instead: their code
  // is mended in place. No block may be there for it already; jump tables must not lead to the old place any more.
  void move_page(const Block& from, const BlockKey& key);
  // Kills one block (to translate it again in another form).
  void kill(Block& block);
  // Kills the blocks that run through this linear address. Looks at all of them.
  void kill_at(u32 linear);
  // Patches the look-up that the host fault at `host`, in that instruction, belongs to: its table load becomes a call of a look-up stub.
  // False: there is none, or it is one already.
  bool call_look_up(const Block& block, u32 point, u64 host);
  // Forgets everything; jump tables must have been cleared by the caller first.
  void flush();
  // Bumped by every invalidation and flush: a block pointer taken before is only good if this did not change.
  [[nodiscard]] u64 generation() const { return generation_; }

  [[nodiscard]] const CacheCounters& counters() const { return counters_; }
  [[nodiscard]] const std::deque<Block>& blocks() const { return blocks_; }  // by number
  // Physical address of the second page of a block that crosses into one.
  [[nodiscard]] u64 second_page(const Block& block) const { return u64{pages_.piece(block.first_piece + 1).page} << page_shift; }
  // Where its executions are counted (new_counter), or null.
  [[nodiscard]] const u64* counter(const Block& block) const {
    return block.number < counter_of_.size() ? counter_of_[block.number] : nullptr;
  }
  // Guest instructions executed in emitted code, if blocks have counters: all up to the next way out of a block, so that exits before it
  // are the caller's to subtract.
  [[nodiscard]] u64 counted_instructions() const;
  void check_invariants() const;  // throws InternalError

 private:
  static constexpr u32 entry_patch_size = 16;

  struct StoredSite {
    u32 block = 0;
    u32 point = 0;
  };

  void gather_slots(const Block& block, std::vector<PageSlots::Slot>& slots) const;
  void index_pages(Block& block, u64 second_page);
  void index_host(const Block& block);
  void unlink(u32 number);
  void remove_incoming(Block& block, u32 number);
  [[nodiscard]] bool links_to(const Block& block, u32 number) const;
  [[nodiscard]] BlockKey target_key(const Exit& exit) const;
  [[nodiscard]] u32 find_landing(const BlockKey& key) const;
  [[nodiscard]] static bool is_landing(ExitKind kind) { return kind == ExitKind::landing || kind == ExitKind::landing_in; }
  void join_landing(u32 number);
  void share_call(u32 number, u32 with);
  void patch32(u32 offset, u32 value);
  void keep_addresses(Block& block, const TranslatedBlock& translated);
  void move_code(const Block& block, u32 distance);

  CodeRegion& region_;
  Stubs stubs_;
  u32 next_ = 0;
  std::deque<Block> blocks_;  // in order of host_offset
  NumberTable by_key_;
  // Exits behind CALLs, by the key of the block that they lead to. A CALL that several blocks contain has one landing all the same: the
  // first block's, whose host CALL the others jump to.
  NumberTable landings_;
  PageIndex pages_;
  PageSlots slots_;
  std::vector<u32> by_host_;  // per KiB of host code: the first block that starts in it or behind it
  std::deque<Exit> exits_;
  std::deque<StoredSite> sites_;
  ByteArena points_;
  std::vector<u8> stream_;           // of the block that is being installed
  std::vector<u32> orphans_;         // calls that shared one of the block that is being killed
  std::vector<u32> moved_landings_;  // of the page that is being moved
  std::vector<u32> victims_;         // of the invalidation that is going on
  std::vector<u32> on_page_;         // scratch of `slots_beside`
  std::vector<PageSlots::Slot> own_slots_;
  std::vector<u64*> counter_of_;  // by block number, if executions are counted
  std::deque<std::array<u64, 2>> execution_counters_;
  CacheCounters counters_;
  u64 dead_instructions_ = 0;
  u64 generation_ = 0;
};

}  // namespace ring3
