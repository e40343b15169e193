#include "codecache/code_cache.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "base/error.h"
#include "translator/contract.h"

namespace ring3 {

namespace {

constexpr unsigned host_shift = 10;
constexpr std::array<u8, 5> load_jump{0x4F, 0x8D, 0x8C, 0x0F, 0x00};  // the start of lea r9, [r15+r9+state_distance]
static_assert((contract::state_distance & 0xFF) == 0);

}  // namespace

CodeCache::CodeCache(CodeRegion& region) : region_(region) {
  std::vector<u8> code;
  stubs_ = emit_stubs(base(), code);
  std::memcpy(region_.writable(), code.data(), code.size());
  next_ = stubs_.end;
}

Block* CodeCache::find(const BlockKey& key) const {
  const u32 number = by_key_.find(key.hash(), [&](u32 n) { return blocks_[n].key == key; });
  return number == NumberTable::none ? nullptr : const_cast<Block*>(&blocks_[number]);
}

void CodeCache::patch32(u32 offset, u32 value) { std::memcpy(region_.writable() + offset, &value, sizeof value); }

u64* CodeCache::new_counter() { return execution_counters_.emplace_back().data(); }

Block& CodeCache::install(const GuestBlock& guest, u64 second_page, const TranslatedBlock& translated, u64* counter) {
  const u32 number = static_cast<u32>(blocks_.size());
  Block& block = blocks_.emplace_back();
  block.key = guest.key;
  block.number = number;
  block.host_offset = next_;
  block.host_size = std::max(static_cast<u32>(translated.code.size()), entry_patch_size);
  block.guest_length = guest.length;
  block.crosses_page = guest.crosses_page;
  block.uses_fpu = translated.uses_fpu;
  block.uses_x87 = translated.uses_x87;
  block.instructions = static_cast<u16>(translated.points.size() - 1);
  stream_.clear();
  encode_points(translated.points, stream_);
  keep_addresses(block, translated);
  block.points = points_.keep(stream_);
  std::memcpy(region_.writable() + next_, translated.code.data(), translated.code.size());
  block.first_exit = static_cast<u32>(exits_.size());
  for (const DirectExit& exit : translated.exits) {
    const bool has_stub = exit.kind != ExitKind::table_call;
    if (has_stub && exit.kind != ExitKind::landing_in) {
      patch32(next_ + exit.patch_offset, exit.stub_offset - (exit.patch_offset + 4));
      if (exit.number_offset == 0) continue;  // leads out of the page: never linked
      patch32(next_ + exit.number_offset, static_cast<u32>(exits_.size()));
    }
    const u32 stub = has_stub ? next_ + exit.stub_offset : Block::none;
    exits_.push_back({number, Block::none, Block::none, next_ + exit.patch_offset, stub, exit.target, exit.kind, exit.loop_offset});
    ++block.exit_count;
    if (is_landing(exit.kind)) join_landing(static_cast<u32>(exits_.size()) - 1);
  }
  for (const InterpretSite& site : translated.interpret_sites) {
    patch32(next_ + site.number_offset, static_cast<u32>(sites_.size()));
    sites_.push_back({number, site.point});
  }
  next_ = (next_ + block.host_size + 15u) & ~15u;
  by_key_.insert(number, block.key.hash());
  block.landing = find_landing(block.key);
  slots_.add(block.page_key());
  index_pages(block, second_page);
  index_host(block);
  if (counter != nullptr) {
    counter_of_.resize(number + 1);
    counter_of_[number] = counter;
  }
  ++counters_.installed;
  counters_.guest_bytes += block.guest_length;
  counters_.host_bytes += block.host_size;
  counters_.guest_insns += block.insn_count();
  return block;
}

// Both ends of an exit lie in the same page.
BlockKey CodeCache::target_key(const Exit& exit) const {
  BlockKey key = blocks_[exit.from].key;
  key.physical = (key.physical & ~u64{page_mask}) | (exit.target & page_mask);
  key.linear = exit.target;
  return key;
}

u32 CodeCache::find_landing(const BlockKey& key) const {
  return landings_.find(key.hash(), [&](u32 n) { return target_key(exits_[n]) == key; });
}

// A new landing, or one whose call shared that of a block which is dead now: it becomes the one of its return address if there is none;
// else its call gives way to the one that is there.
void CodeCache::join_landing(u32 number) {
  const BlockKey behind = target_key(exits_[number]);
  const u32 with = find_landing(behind);
  if (with == NumberTable::none) {
    landings_.insert(number, behind.hash());
    if (Block* block = find(behind)) block->landing = number;
  } else {
    share_call(number - 1, with - 1);
  }
}

// One landing behind an address means one host CALL in front of it. Two guest CALLs may end at the same address, one inside the other.
void CodeCache::share_call(u32 number, u32 with) {
  Exit& exit = exits_[number];
  const Exit& other = exits_[with];
  if (exit.kind != other.kind || exit.target != other.target || exit.to != Block::none) return;
  region_.writable()[exit.patch_offset - 1] = 0xE9;
  patch32(exit.patch_offset, other.patch_offset - 1 - (exit.patch_offset + 4));
  Block& to = blocks_[other.from];
  exit.shared = true;
  exit.to = to.number;
  exit.next = to.incoming;
  to.incoming = number;
}

u32 CodeCache::landing(const BlockKey& key) const {
  const u32 number = find_landing(key);
  return number == NumberTable::none ? 0 : exits_[number].patch_offset - 1;
}

u32 CodeCache::way_in(const Block& block) const {
  // The second page of a block that crosses into one may be another one when a link is taken: it is asked for by the jump table alone.
  return block.crosses_page || block.landing == Block::none ? block.host_offset : exits_[block.landing].patch_offset - 1;
}

// One that lies in two pages needs the translation of the second one too.
void CodeCache::gather_slots(const Block& block, std::vector<PageSlots::Slot>& slots) const {
  if (block.crosses_page) return;
  slots.push_back({block.key.linear, way_in(block)});
  for (const u32 exit_number : block.exits()) {
    const Exit& exit = exits_[exit_number];
    if (exit.kind == ExitKind::landing_in) slots.push_back({exit.target, exit.patch_offset - 1});
  }
}

std::span<const PageSlots::Slot> CodeCache::slots_beside(const Block& one) {
  const BlockKey key = one.page_key();
  if (slots_.at_most_one(key)) {
    own_slots_.clear();
    gather_slots(one, own_slots_);
    return own_slots_;
  }
  PageSlots::Page& page = slots_.of(key);
  // A landing lies in the page of its block, so it comes and goes with one of this page.
  const u32 changes = pages_.changes({key.physical});
  if (page.changes == changes) return page.slots;
  page.changes = changes;
  page.slots.clear();
  on_page_.clear();
  pages_.find({key.physical}, page_size, on_page_);
  for (const u32 number : on_page_) {
    const Block& block = blocks_[number];
    if (block.page_key() == key) gather_slots(block, page.slots);
  }
  return page.slots;
}

void CodeCache::index_pages(Block& block, u64 second_page) {
  const u32 first = static_cast<u32>(block.key.physical & page_mask);
  const u32 end = first + block.guest_length;
  const auto piece = [&](u64 physical, u32 from, u32 to) {
    return pages_.add({block.number, static_cast<u32>(physical >> page_shift), static_cast<u16>(from), static_cast<u16>(to - 1)});
  };
  block.first_piece = piece(block.key.physical, first, std::min(end, u32{page_size}));
  if (block.crosses_page) piece(second_page, 0, end - page_size);
}

void CodeCache::index_host(const Block& block) {
  while (by_host_.size() <= block.host_offset >> host_shift) by_host_.push_back(block.number);
}

void CodeCache::link(u32 number, Block& to) {
  Exit& exit = exits_[number];
  if (exit.to != Block::none || !blocks_[exit.from].valid || !to.valid) return;
  if (to.crosses_page) {
    u8* const stub = region_.writable() + exit.stub_offset;
    stub[0] = 0x66;  // a NOP of two bytes: the target stays where it was in `mov [eip], target`
    stub[1] = 0x90;
    stub[2] = 0x41;  // mov r8d, target
    stub[3] = 0xB8;
    patch32(exit.stub_offset + 4, exit.target);
    stub[8] = 0xE9;
    patch32(exit.stub_offset + 9, stubs_.jump - (exit.stub_offset + 13));
    return;
  }
  patch32(exit.patch_offset, to.host_offset + (exit.from == to.number ? exit.loop_offset : 0) - (exit.patch_offset + 4));
  exit.to = to.number;
  exit.next = to.incoming;
  to.incoming = number;
  ++counters_.linked;
}

// Its target's list is the caller's to mend.
void CodeCache::unlink(u32 number) {
  Exit& exit = exits_[number];
  if (exit.kind == ExitKind::table_call) {
    std::memcpy(region_.writable() + exit.patch_offset - 1, load_jump.data(), load_jump.size());
  } else {
    if (exit.kind == ExitKind::call) region_.writable()[exit.patch_offset - 1] = 0xE8;
    patch32(exit.patch_offset, exit.stub_offset - (exit.patch_offset + 4));
  }
  exit.to = exit.next = Block::none;
  if (!exit.shared) ++counters_.unlinked;
  exit.shared = false;
}

void CodeCache::remove_incoming(Block& block, u32 number) {
  u32* link = &block.incoming;
  while (*link != number) link = &exits_[*link].next;
  *link = exits_[number].next;
}

CodeCache::Site CodeCache::find_host(u64 host) {
  if (!region_.contains(host)) return {};
  const u32 offset = static_cast<u32>(host - base());
  const u32 unit = offset >> host_shift;
  u32 behind = unit < by_host_.size() ? by_host_[unit] : static_cast<u32>(blocks_.size());
  while (behind < blocks_.size() && blocks_[behind].host_offset <= offset) ++behind;
  if (behind == 0) return {};
  Block& block = blocks_[behind - 1];
  const u32 inside = offset - block.host_offset;
  if (inside >= block.host_size) return {};
  // Instructions without host code share their offset with the next one: the last of them is the one that runs.
  PointReader reader(block.points);
  u32 point = 0;
  for (u32 i = 0; i <= block.insn_count() && reader.next().host_offset <= inside; ++i) point = i;
  return {&block, point};
}

bool CodeCache::at_boundary(u64 host) {
  const Site site = find_host(host);
  // Behind the last instruction are ways out, whose EIP is another one each.
  if (site.block == nullptr || !site.block->valid || site.point >= site.block->insn_count()) return false;
  const InsnPoint point = site.block->point(site.point);
  return base() + site.block->host_offset + point.host_offset == host && !point.shadowed;
}

bool CodeCache::call_look_up(const Block& block, u32 point, u64 host) {
  // As Emitter::load_entry and look_up write them.
  static constexpr std::array<u8, 5> read{0x4F, 0x8B, 0x4C, 0xCD, 0x00};               // mov r9, [r13+r9*8+read_table]
  static constexpr std::array<u8, 8> write{0x4F, 0x8B, 0x8C, 0xCD, 0x00, 0x00, 0x80};  // mov r9, [r13+r9*8+write_table]
  static constexpr std::array<u8, 4> crossing{0x4F, 0x8D, 0x0C, 0x19};                 // lea r9, [r9+r11], in front of the load
  static constexpr std::array<u8, 3> nop{0x0F, 0x1F, 0x00};
  static_assert(contract::read_table == 0 && contract::write_table == 0x800000);
  if (!block.valid) return false;
  u8* const code = region_.writable();
  const u32 begin = block.host_offset + block.point(point).host_offset;
  // Between the load and its access lies nothing with bytes of the guest's choice, so the nearest one before the fault is meant.
  for (u32 at = static_cast<u32>(host - base()) + 1; at-- > begin;) {
    const bool writes = std::ranges::equal(write, std::span(code + at, write.size()));
    if (!writes && !std::ranges::equal(read, std::span(code + at, read.size()))) continue;
    const bool crosses =
        at >= begin + crossing.size() && std::ranges::equal(crossing, std::span(code + at - crossing.size(), crossing.size()));
    const u32 stub = (crosses ? stubs_.look_up_crossing : stubs_.look_up)[writes ? 1 : 0];
    code[at] = 0xE8;
    patch32(at + 1, stub - (at + 5));
    if (writes) std::ranges::copy(nop, code + at + 5);  // what is left
    return true;
  }
  return false;
}

void CodeCache::kill(Block& block) {
  if (!block.valid) return;
  block.valid = false;
  orphans_.clear();
  for (u32 number = block.incoming; number != Block::none;) {
    const u32 next = exits_[number].next;
    if (exits_[number].shared) orphans_.push_back(number);
    unlink(number);
    number = next;
  }
  block.incoming = Block::none;
  for (const u32 number : block.exits()) {
    if (is_landing(exits_[number].kind)) {
      const BlockKey behind = target_key(exits_[number]);
      if (find_landing(behind) == number) {
        landings_.remove(number, behind.hash());
        if (Block* led_to = find(behind)) led_to->landing = Block::none;
      }
    }
    const u32 to = exits_[number].to;
    if (to == Block::none) continue;
    remove_incoming(blocks_[to], number);
    unlink(number);
  }
  for (const u32 number : orphans_) {
    if (blocks_[exits_[number].from].valid) join_landing(number + 1);
  }
  // Jump tables may still lead to its landings: they lead on to the miss stub.
  for (const u32 number : block.exits()) {
    const Exit& exit = exits_[number];
    if (exit.kind != ExitKind::landing_in) continue;
    region_.writable()[exit.patch_offset - 1] = 0xE9;
    patch32(exit.patch_offset, exit.stub_offset - (exit.patch_offset + 4));
  }
  // And here: mov r8d, EIP; jmp miss.
  u8* entry = region_.writable() + block.host_offset;
  entry[0] = 0x41;
  entry[1] = 0xB8;
  std::memcpy(entry + 2, &block.key.linear, 4);
  entry[6] = 0xE9;
  const u32 displacement = stubs_.miss - (block.host_offset + 11);
  std::memcpy(entry + 7, &displacement, 4);
  by_key_.remove(block.number, block.key.hash());
  slots_.remove(block.page_key());
  pages_.remove(block.first_piece);
  if (block.crosses_page) pages_.remove(block.first_piece + 1);
  if (const u64* executions = counter(block)) {
    dead_instructions_ += executions[1];
    counter_of_[block.number] = nullptr;
  }
  ++counters_.invalidated;
  ++generation_;
}

void CodeCache::kill_at(u32 linear) {
  for (Block& block : blocks_)
    if (linear - block.key.linear < block.guest_length) kill(block);
}

bool CodeCache::invalidate(PhysAddr address, u32 size) {
  victims_.clear();
  pages_.find(address, size, victims_);
  for (const u32 number : victims_) kill(blocks_[number]);
  return !pages_.has_blocks(address);
}

u64 CodeCache::counted_instructions() const {
  u64 sum = dead_instructions_;
  for (const Block& block : blocks_) {
    if (const u64* executions = counter(block)) sum += executions[1];
  }
  return sum;
}

void CodeCache::flush() {
  dead_instructions_ = counted_instructions();
  blocks_.clear();
  by_key_.clear();
  landings_.clear();
  pages_.clear();
  slots_.clear();
  by_host_.clear();
  exits_.clear();
  sites_.clear();
  points_.clear();
  counter_of_.clear();
  execution_counters_.clear();
  next_ = stubs_.end;
  ++counters_.flushes;
  ++generation_;
}

void CodeCache::check_invariants() const {
  u64 last_end = stubs_.end;
  for (const Block& block : blocks_) {
    if (block.host_offset < last_end) throw InternalError("blocks overlap in the code cache");
    last_end = u64{block.host_offset} + block.host_size;
    if (!block.valid) continue;
    if (find(block.key) != &block) throw InternalError("a valid block is not in the key map");
    if (block.landing != find_landing(block.key)) throw InternalError("a block does not know its landing");
    for (u32 number = block.incoming; number != Block::none; number = exits_[number].next) {
      if (exits_[number].to != block.number || !blocks_[exits_[number].from].valid) throw InternalError("a link leads from a dead block");
    }
    for (const u32 number : block.exits()) {
      if (exits_[number].to != Block::none && !links_to(blocks_[exits_[number].to], number)) {
        throw InternalError("a link is not known to its target");
      }
    }
  }
}

bool CodeCache::links_to(const Block& block, u32 number) const {
  if (!block.valid) return false;
  u32 at = block.incoming;
  while (at != Block::none && at != number) at = exits_[at].next;
  return at == number;
}

}  // namespace ring3
