#include "runtime/memory/memory.h"

#include "base/error.h"
#include "guest/breakpoints.h"
#include "runtime/memory/fetch_tlb.h"
#include "runtime/memory/page_walker.h"
#include "runtime/memory/physical.h"
#include "runtime/memory/ram.h"
#include "runtime/memory/soft_tables.h"

#include <algorithm>
#include <cstring>

namespace ring3 {

namespace {

// Pages filled at a miss beside the one that missed, in an aligned group. A miss in emitted code costs microseconds, a fill nanoseconds;
// eight entries of each table are one host cache line.
constexpr u32 group_small = 8;   // neighbours in the page table
constexpr u32 group_large = 16;  // neighbours in a large page: no entry to read

void copy(void* to, const void* from, unsigned size) {
  switch (size) {
    case 1: std::memcpy(to, from, 1); break;
    case 2: std::memcpy(to, from, 2); break;
    case 4: std::memcpy(to, from, 4); break;
    case 8: std::memcpy(to, from, 8); break;
    case 16: std::memcpy(to, from, 16); break;
    default: std::memcpy(to, from, size);
  }
}

u8* host(u64 entry, u32 linear) { return reinterpret_cast<u8*>(entry + linear); }

bool crosses(u32 linear, unsigned size) { return (linear & page_mask) + size > page_size; }

}  // namespace

struct Memory::Impl {
  Impl(CpuState& the_cpu, GuestRam& ram, Bus& bus)
      : cpu(the_cpu), physical(ram, bus), walker(the_cpu, physical), tables(ram, walker, stats, the_cpu.link.view) {}

  // An access cut at the page boundary; the second part may be empty.
  struct Parts {
    u32 first_linear = 0, second_linear = 0;
    unsigned first_size = 0, second_size = 0;
    Translation first, second;
  };

  // What may be kept of a walk: nothing if the page tables are not in RAM, because nobody could tell when they change.
  [[nodiscard]] std::optional<TableCopies::Source> source_of(const Walk& walk) const;
  void fill_from(const Walk& walk, u32 linear, bool user);
  // May the tables have an entry for reads, or for writes, of this linear page? Not where a data breakpoint must see them.
  [[nodiscard]] bool may_fill(u32 page, bool write) const { return data_breakpoints_in(cpu, page << page_shift, page_size, write) == 0; }
  void fill(Context& context, u32 page, u64 ram_page, bool writable, const TableCopies::Source& source, bool global) {
    if (!may_fill(page, false)) return;
    tables.enter(context, page, source, global, false);
    tables.fill(context, page, ram_page, writable && may_fill(page, true));
  }
  // Ahead of an access.
  void prefill(Context& context, u32 page, u64 ram_page, bool writable, const TableCopies::Source& source, bool global) {
    if (tables.adds(context, page, ram_page, writable)) fill(context, page, ram_page, writable, source, global);
  }
  // An access took place that no table entry served.
  void note_access(u32 linear, u32 size, bool write) { cpu.pending_debug |= data_breakpoints_in(cpu, linear, size, write); }
  [[nodiscard]] std::optional<Translation> translate(u32 linear, Access access, bool user, Fault& fault);
  [[nodiscard]] bool translate_parts(u32 linear, unsigned size, Access access, bool user, Parts& parts, Fault& fault);
  void page_fault(Fault& fault, const Walk& walk, u32 linear) {
    ++stats.page_faults;
    fault = {Vector::page, true, walk.error_code, linear};
  }

  CpuState& cpu;
  PhysicalMemory physical;
  WriteJournal* journal = nullptr;
  PageWalker walker;
  MemoryStats stats;
  SoftTables tables;
  FetchTlb fetch_tlb;
};

std::optional<TableCopies::Source> Memory::Impl::source_of(const Walk& walk) const {
  TableCopies::Source source{walk.directory_address,       walk.directory_entry, walk.entry_address, walk.entry,
                             walk.kind != PageKind::small, walker.format()};
  if (source.format == PagingFormat::none) return source;
  if (!physical.is_ram(walk.directory_address) || (!source.large && !physical.is_ram(walk.entry_address))) return std::nullopt;
  return source;
}

void Memory::Impl::fill_from(const Walk& walk, u32 linear, bool user) {
  if (!physical.is_ram(walk.page)) return;
  Context& context = tables.data(user);
  const u32 page = linear >> page_shift;
  const bool writable = walk.write_ready && !physical.is_code(walk.page);
  // A write to a code page comes here every time: nothing to add then.
  if (!writable && tables.reads(context, page, walk.page)) return;
  std::optional<TableCopies::Source> source = source_of(walk);
  if (!source) return;
  fill(context, page, walk.page, writable, *source, walk.global);

  if (walk.kind == PageKind::small) {
    const u32 own = page % group_small;
    const u64 group = walk.entry_address - u64{own} * walker.entry_size();
    for (u32 i = 0; i < group_small; ++i) {
      if (i == own) continue;
      source->entry_address = group + u64{i} * walker.entry_size();
      const Neighbour neighbour = walker.neighbour(walk, source->entry_address, user);
      if (!neighbour.ok || !physical.is_ram(neighbour.page)) continue;
      source->entry = neighbour.entry;
      prefill(context, page - own + i, neighbour.page, neighbour.write_ready && !physical.is_code(neighbour.page), *source,
              neighbour.global);
    }
    return;
  }
  const u32 own = page % group_large;
  const u64 group = walk.page - (u64{own} << page_shift);
  for (u32 i = 0; i < group_large; ++i) {
    const u64 at = group + (u64{i} << page_shift);
    if (i == own || !physical.is_ram(at)) continue;
    prefill(context, page - own + i, at, walk.write_ready && !physical.is_code(at), *source, walk.global);
  }
}

std::optional<Translation> Memory::Impl::translate(u32 linear, Access access, bool user, Fault& fault) {
  ++stats.data_walks;
  const Walk walk = walker.walk(linear, access, user, true);
  if (!walk.ok) {
    page_fault(fault, walk, linear);
    return std::nullopt;
  }
  if (access != Access::execute) fill_from(walk, linear, user);
  return Translation{{walk.page | (linear & page_mask)}, physical.is_ram(walk.page), 0};
}

bool Memory::Impl::translate_parts(u32 linear, unsigned size, Access access, bool user, Parts& parts, Fault& fault) {
  parts.first_linear = linear;
  parts.first_size = std::min(size, page_size - (linear & page_mask));
  parts.second_linear = linear + parts.first_size;
  parts.second_size = size - parts.first_size;
  if (parts.second_size != 0) {
    // Neither page's A and D flags may change if the other one faults (SDM vol. 3, 4.8: they tell of accesses that took place).
    for (const u32 part : {parts.first_linear, parts.second_linear}) {
      const Walk trial = walker.walk(part, access, user, false);
      if (trial.ok) continue;
      page_fault(fault, trial, part);
      return false;
    }
  }
  const std::optional<Translation> first = translate(parts.first_linear, access, user, fault);
  if (!first) return false;
  parts.first = *first;
  if (parts.second_size == 0) return true;
  const std::optional<Translation> second = translate(parts.second_linear, access, user, fault);
  if (!second) return false;
  parts.second = *second;
  return true;
}

Memory::Memory(CpuState& cpu, GuestRam& ram, Bus& bus) : ram_(ram), impl_(std::make_unique<Impl>(cpu, ram, bus)) {}

Memory::~Memory() = default;

void Memory::set_watcher(CodeWatcher* watcher) { impl_->physical.set_watcher(watcher); }

void Memory::set_journal(WriteJournal* journal) { impl_->journal = journal; }

void Memory::set_keep_views(bool keep) { impl_->tables.set_keep(keep); }

bool Memory::read(u32 linear, void* out, unsigned size, bool user, Fault& fault) {
  if (const Context& context = impl_->tables.data(user); !crosses(linear, size)) {
    if (const u64 entry = context.reads()[linear >> page_shift]; contract::present(entry)) {
      copy(out, host(entry, linear), size);
      return true;
    }
  }
  Impl::Parts parts;
  if (!impl_->translate_parts(linear, size, Access::read, user, parts, fault)) return false;
  impl_->note_access(linear, size, false);
  impl_->physical.read(parts.first.address.value, out, parts.first_size);
  if (parts.second_size != 0) impl_->physical.read(parts.second.address.value, static_cast<u8*>(out) + parts.first_size, parts.second_size);
  return true;
}

bool Memory::write(u32 linear, const void* in, unsigned size, bool user, Fault& fault) {
  if (const Context& context = impl_->tables.data(user); !crosses(linear, size)) {
    if (const u64 entry = context.writes()[linear >> page_shift]; contract::present(entry)) {
      if (impl_->journal != nullptr) [[unlikely]] {
        const u8* at = host(entry, linear);
        impl_->journal->record({static_cast<u64>(at - ram_.base())}, at, static_cast<const u8*>(in), size);
      }
      copy(host(entry, linear), in, size);
      return true;
    }
  }
  Impl::Parts parts;
  if (!impl_->translate_parts(linear, size, Access::write, user, parts, fault)) return false;
  impl_->note_access(linear, size, true);
  if (impl_->journal != nullptr) {
    const u8* bytes = static_cast<const u8*>(in);
    if (parts.first.ram) impl_->journal->record(parts.first.address, ram_.at(parts.first.address), bytes, parts.first_size);
    if (parts.second_size != 0 && parts.second.ram) {
      impl_->journal->record(parts.second.address, ram_.at(parts.second.address), bytes + parts.first_size, parts.second_size);
    }
  }
  impl_->physical.write(parts.first.address.value, in, parts.first_size);
  if (parts.second_size != 0) {
    impl_->physical.write(parts.second.address.value, static_cast<const u8*>(in) + parts.first_size, parts.second_size);
  }
  return true;
}

bool Memory::probe_write(u32 linear, unsigned size, bool user, Fault& fault) {
  if (const Context& context = impl_->tables.data(user); !crosses(linear, size)) {
    if (contract::present(context.writes()[linear >> page_shift])) return true;
  }
  Impl::Parts parts;
  return impl_->translate_parts(linear, size, Access::write, user, parts, fault);
}

u8* Memory::direct(u32 linear, Access access, bool user) {
  const u32 page = linear >> page_shift;
  if (access == Access::write && impl_->journal != nullptr) return nullptr;
  if (access == Access::execute) {
    const FetchTlb::Entry* known = impl_->fetch_tlb.find(page, fetch_tag(user));
    return known != nullptr && impl_->physical.is_ram(known->page) ? ram_.at({known->page | (linear & page_mask)}) : nullptr;
  }
  const Context& context = impl_->tables.data(user);
  const u64 entry = (access == Access::write ? context.writes() : context.reads())[page];
  return contract::present(entry) ? host(entry, linear) : nullptr;
}

unsigned Memory::fetch(u32 linear, u8* out, unsigned wanted, bool user, Fault& fault) {
  const std::optional<Translation> first = translate_fetch(linear, user, fault);
  if (!first) return 0;
  const unsigned in_first = std::min(wanted, page_size - (linear & page_mask));
  impl_->physical.read(first->address.value, out, in_first);
  if (in_first == wanted) return wanted;
  Fault not_reported;
  const std::optional<Translation> second = translate_fetch(linear + in_first, user, not_reported);
  if (!second) return in_first;
  impl_->physical.read(second->address.value, out + in_first, wanted - in_first);
  return wanted;
}

std::optional<Translation> Memory::translate_fetch(u32 linear, bool user, Fault& fault) {
  const u32 page = linear >> page_shift;
  Context& context = impl_->tables.data(user);
  const auto result = [&](u64 at, u64 tag) { return Translation{{at | (linear & page_mask)}, impl_->physical.is_ram(at), tag}; };
  if (const FetchTlb::Entry* known = impl_->fetch_tlb.find(page, context.fetch_tag())) return result(known->page, known->tag);
  ++impl_->stats.fetch_walks;
  const Walk walk = impl_->walker.walk(linear, Access::execute, user, true);
  if (!walk.ok) {
    impl_->page_fault(fault, walk, linear);
    return std::nullopt;
  }
  const auto source = impl_->source_of(walk);
  if (!source) return result(walk.page, 0);
  impl_->tables.enter(context, page, *source, walk.global, true);
  impl_->fetch_tlb.fill(page, context.fetch_tag(), walk.page);
  return result(walk.page, context.fetch_tag());
}

std::optional<Translation> Memory::translate(u32 linear, Access access, bool user, Fault& fault) {
  if (access == Access::execute) return translate_fetch(linear, user, fault);
  return impl_->translate(linear, access, user, fault);
}

std::optional<u64> Memory::fill(u32 linear, Access access, bool user, Fault& fault) {
  if (!impl_->translate(linear, access, user, fault)) return std::nullopt;
  const Context& context = impl_->tables.data(user);
  const u64* const entries = access == Access::write ? context.writes() : context.reads();
  const u64 entry = entries[linear >> page_shift];
  return contract::present(entry) ? entry : 0;
}

std::optional<Translation> Memory::peek(u32 linear) const {
  const Walk walk = impl_->walker.peek(linear);
  if (!walk.ok) return std::nullopt;
  return Translation{{walk.page | (linear & page_mask)}, impl_->physical.is_ram(walk.page), 0};
}

void Memory::read_physical(PhysAddr address, void* out, u32 size) { impl_->physical.read(address.value, out, size); }

void Memory::write_physical(PhysAddr address, const void* in, u32 size) { impl_->physical.write(address.value, in, size); }

void Memory::flush_all() {
  ++impl_->stats.mode_flushes;
  impl_->tables.change_mode();
}

void Memory::flush_global() {
  ++impl_->stats.global_flushes;
  impl_->tables.flush_global();
}

void Memory::flush_non_global() {
  ++impl_->stats.address_flushes;
  impl_->tables.flush_non_global();
}

void Memory::flush_page(u32 linear) {
  ++impl_->stats.page_flushes;
  impl_->tables.flush_page(linear >> page_shift);
}

bool Memory::load_pdptes(u32 cr3) { return impl_->walker.read_pdptes(cr3, impl_->cpu.pdpte); }

void Memory::set_a20(bool enabled) {
  if (impl_->walker.a20() == enabled) return;
  impl_->walker.set_a20(enabled);
  flush_all();
}

void Memory::set_paging_model(const PagingModel& model) {
  impl_->walker.set_model(model);
  flush_all();
}

void Memory::breakpoints_changed() {
  for (unsigned n = 0; n < 4; ++n) {
    const Breakpoint b = breakpoint(impl_->cpu, n);
    if (!b.enabled || b.on == BreakOn::io) continue;
    if (b.on != BreakOn::execute) {
      impl_->tables.drop_data(b.first >> page_shift);
    } else if (CodeWatcher* watcher = impl_->physical.watcher()) {
      watcher->code_breakpoint(b.first);
    }
  }
}

void Memory::watch_code(PhysAddr address) {
  if (!impl_->physical.is_ram(address.value) || impl_->physical.is_code(address.value)) return;
  impl_->physical.set_code(address.value, true);
  impl_->tables.drop_writes(address.value & ~u64{page_mask});
}

void Memory::unwatch_code(PhysAddr address) {
  if (impl_->physical.is_ram(address.value)) impl_->physical.set_code(address.value, false);
}

bool Memory::is_code_page(PhysAddr address) const { return impl_->physical.is_code(address.value); }

u64 Memory::select_context(u32 mode_bits, u32 cs_base, u32 cs_limit) {
  return impl_->tables.select({mode_bits, cs_base, cs_limit, 0}).base();
}

void Memory::follow_context(u64 base) { impl_->tables.follow(base); }

void Memory::limit_contexts(u64 bytes) { impl_->tables.limit(bytes); }

bool Memory::context_selected() const { return impl_->tables.current() != nullptr; }

u64 Memory::fetch_tag(bool user) { return impl_->tables.data(user).fetch_tag(); }

void Memory::set_windows(u32 after, bool low) { impl_->tables.set_windows(after, low); }

bool Memory::window_open() const { return impl_->tables.window_open(); }

bool Memory::window_low() const { return impl_->tables.window_low(); }

u64 Memory::window_base() const { return impl_->tables.window_base(); }

void Memory::met_at_work() { impl_->tables.met_at_work(); }

bool Memory::map_window(u32 linear, bool write) { return impl_->tables.map_window(linear >> page_shift, write); }

MemoryStats Memory::stats() const {
  MemoryStats stats = impl_->stats;
  stats.windows_emptied = impl_->tables.windows_emptied();
  return stats;
}

bool Memory::set_jump(u32 linear, u32 offset, std::span<const u32> further) { return impl_->tables.set_jump(linear, offset, further); }

void Memory::set_jumps(std::span<const PageSlots::Slot> slots) { impl_->tables.set_jumps(slots); }

void Memory::clear_jump(u32 linear) { impl_->tables.clear_jump(linear); }

bool Memory::code_in_use(u32 linear) const { return impl_->tables.code_in_use(linear >> page_shift); }

bool Memory::no_jumps(u32 linear) const { return impl_->tables.no_jumps(linear >> page_shift); }

void Memory::clear_jumps(u32 linear) { impl_->tables.clear_jumps(linear >> page_shift); }

void Memory::clear_all_jumps() { impl_->tables.clear_all_jumps(); }

}  // namespace ring3
