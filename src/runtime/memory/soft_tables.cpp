#include "runtime/memory/soft_tables.h"

#include "base/error.h"
#include "guest/block_key.h"
#include "runtime/memory/ram.h"
#include "translator/contract.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ring3 {

namespace {

Mapping sparse_or_throw(u64 size) {
  Mapping mapping = Mapping::sparse(size);
  if (mapping) return mapping;
  throw UserError(
      fmt::format("memory tables: cannot reserve {} MiB of address space: {}; raise the limit (ulimit -v) or allow overcommit "
                  "(vm.overcommit_memory)",
                  size >> 20, std::strerror(errno)));
}

}  // namespace

Context::Context(unsigned number, const ContextKey& key)
    : number_(number),
      key_(key),
      tables_(sparse_or_throw(contract::context_size)),
      note_mapping_(sparse_or_throw(u64{linear_page_count} * sizeof(Note))),
      read_(reinterpret_cast<u64*>(tables_.data() + contract::read_table)),
      write_(reinterpret_cast<u64*>(tables_.data() + contract::write_table)),
      notes_(reinterpret_cast<Note*>(note_mapping_.data())),
      jumps_(tables_, contract::jump_table) {}

SoftTables::SoftTables(GuestRam& ram) : ram_(ram), writers_(ram.size() >> page_shift) {}

Context& SoftTables::select(const ContextKey& key) {
  const bool user = (key.mode & mode::user) != 0;
  // The way between a kernel and its processes: one mode of each privilege, again and again.
  if (Context* same = data_[user]; same != nullptr && same->key_ == key) {
    same->last_selected_ = ++selections_;
    current_ = same;
    return *same;
  }
  Context* found = nullptr;
  Context* oldest = nullptr;
  unsigned count = 0;
  for (; count < contexts_.size() && contexts_[count] != nullptr; ++count) {
    Context* context = contexts_[count].get();
    if (context->key_ == key) {
      found = context;
      break;
    }
    if (oldest == nullptr || context->last_selected_ < oldest->last_selected_) oldest = context;
  }
  if (found == nullptr && count < contexts_.size()) {
    contexts_[count] = std::make_unique<Context>(count, key);
    found = contexts_[count].get();
  }
  if (found == nullptr) {
    found = oldest;
    empty(*found);
    ++reused_;
    found->key_ = key;
    for (Context*& context : data_)
      if (context == found) context = nullptr;
  }
  found->last_selected_ = ++selections_;
  data_[user] = found;
  current_ = found;
  return *found;
}

Context& SoftTables::select_data(bool user) {
  Context* const before = current_;
  Context& made = select({user ? mode::user : 0});
  if (before != nullptr) current_ = before;
  return made;
}

void SoftTables::log(Context& context, u32 page, bool global) {
  Context::Note& n = context.notes_[page];
  if (global && n.logged_global == 0) {
    n.logged_global = 1;
    context.global_.push_back(page);
  }
  if (!global && n.logged_non_global == 0) {
    n.logged_non_global = 1;
    context.non_global_.push_back(page);
  }
}

void SoftTables::link_write(Context& context, u32 page, u64 ram_page) {
  u32& head = writers_[ram_page >> page_shift];
  Context::Note& n = context.notes_[page];
  const u32 self = link(context.number_, page);
  n.previous = 0;
  n.next = head;
  if (head != 0) note(head).previous = self & 0xFFFFFF;
  head = self;
}

void SoftTables::unlink_write(Context& context, u32 page) {
  Context::Note& n = context.notes_[page];
  if (n.previous != 0) {
    note(n.previous).next = n.next;
  } else {
    const u64 host = context.write_[page] + (u64{page} << page_shift);
    writers_[(host - reinterpret_cast<u64>(ram_.base())) >> page_shift] = n.next;
  }
  if (n.next != 0) note(n.next).previous = n.previous;
  context.write_[page] = 0;
}

void SoftTables::fill(Context& context, u32 page, u64 ram_page, bool writable, bool global) {
  const u64 value = entry(page, ram_page);
  if (context.write_[page] != 0 && (!writable || context.write_[page] != value)) unlink_write(context, page);
  context.read_[page] = value;
  if (writable && context.write_[page] == 0) {
    context.write_[page] = value;
    link_write(context, page, ram_page);
  }
  log(context, page, global);
  ++filled_;
}

void SoftTables::prefill(Context& context, u32 page, u64 ram_page, bool writable, bool global) {
  const u64 value = entry(page, ram_page);
  const u64 old = context.read_[page];
  if (old != 0 && (old != value || !writable || context.write_[page] != 0)) return;
  fill(context, page, ram_page, writable, global);
}

void SoftTables::drop(Context& context, u32 page) {
  context.read_[page] = 0;
  if (context.write_[page] != 0) unlink_write(context, page);
}

void SoftTables::flush_non_global() {
  for (const std::unique_ptr<Context>& context : contexts_) {
    if (context == nullptr) break;
    for (const u32 page : context->non_global_) {
      drop(*context, page);
      context->notes_[page].logged_non_global = 0;
    }
    context->non_global_.clear();
    context->jumps_.clear_non_global();
  }
}

void SoftTables::empty(Context& context) {
  for (std::vector<u32>* pages : {&context.non_global_, &context.global_}) {
    for (const u32 page : *pages) {
      drop(context, page);
      context.notes_[page].logged_non_global = 0;
      context.notes_[page].logged_global = 0;
    }
    pages->clear();
  }
  context.jumps_.clear_all();
}

void SoftTables::flush_all() {
  for (const std::unique_ptr<Context>& context : contexts_)
    if (context != nullptr) empty(*context);
}

void SoftTables::flush_pages(u32 first, u32 count) {
  for (const std::unique_ptr<Context>& context : contexts_) {
    if (context == nullptr) break;
    context->jumps_.clear_page((first - 1) & (linear_page_count - 1));
    for (u32 page = first; page < first + count; ++page) {
      if (context->read_[page] != 0) drop(*context, page);
      context->jumps_.clear_page(page);
    }
  }
}

void SoftTables::drop_page(u32 page) {
  for (const std::unique_ptr<Context>& context : contexts_)
    if (context != nullptr && context->read_[page] != 0) drop(*context, page);
}

void SoftTables::drop_writes(u64 ram_page) {
  u32& head = writers_[ram_page >> page_shift];
  while (head != 0) {
    const u32 at = head - 1;
    unlink_write(*contexts_[at >> 20], at & 0xFFFFF);
  }
}

void SoftTables::clear_jump(u32 linear) {
  for (const std::unique_ptr<Context>& context : contexts_)
    if (context != nullptr) context->jumps_.clear(linear);
}

void SoftTables::clear_all_jumps() {
  for (const std::unique_ptr<Context>& context : contexts_)
    if (context != nullptr) context->jumps_.clear_all();
}

}  // namespace ring3
