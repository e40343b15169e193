// Descriptors, gates, task-state segment, registers.
#include "generator.h"

namespace ring3::streams {

namespace {

constexpr u8 present = 0x80, segment = 0x10, accessed = 1, readable = 2, conforming = 4, code = 8;

std::vector<u8> bytes_of(u64 value, unsigned size) {
  std::vector<u8> out;
  for (unsigned i = 0; i < size; ++i) out.push_back(static_cast<u8>(value >> (8 * i)));
  return out;
}

}  // namespace

u16 Generator::add_descriptor(u64 value, unsigned rpl) {
  const bool local = !free_ldt_.empty() && stream_.record.ldt != 0 && v_.one_in(3);
  std::vector<u32>& free = local ? free_ldt_ : free_gdt_;
  const std::size_t at = v_.below(static_cast<u32>(free.size()));
  const u32 index = free[at];
  free.erase(free.begin() + static_cast<std::ptrdiff_t>(at));
  stream_.pokes.push_back({(local ? ldt_offset : gdt_offset) + index * 8, bytes_of(value, 8)});
  return static_cast<u16>(index * 8 | (local ? 4u : 0u) | rpl);
}

// Anything but what leads into a task switch. QEMU does not mark CS and SS accessed in far transfers: only streams that it does not judge
// have code and stack segments without that bit.
u64 Generator::random_descriptor() {
  const u8 dpl = static_cast<u8>(v_.below(4) << 5);
  const u8 p = v_.one_in(8) ? 0 : present;
  const u32 base = v_.one_in(2) ? 0 : random();
  const u32 limit = limits_ && v_.one_in(2) ? v_.integer() & 0xFFFFF : 0xFFFFF;
  const u8 flags = static_cast<u8>(v_.one_in(8) ? v_.below(16) : 0xC);
  if (!v_.one_in(4)) {
    u8 type = static_cast<u8>(v_.below(16));
    // Outside of streams with limits: data that can be written, expand up; code that can be read.
    if (!limits_) type = static_cast<u8>((type & (code | accessed | conforming)) | readable);
    if (!limits_ && (type & code) == 0) type = static_cast<u8>(type & ~conforming);
    if (!limits_ && (type & code) != 0) type |= accessed;
    return descriptor(base, limit, static_cast<u8>(p | dpl | segment | type), static_cast<u8>(limits_ ? flags : flags | 8));
  }
  constexpr u8 types[] = {0, 2, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 3};  // no available TSS, no task gate
  const u8 type = types[v_.below(sizeof types)];
  if (type == 12 || type == 4) {
    const u16 selector = code_selectors_.empty() ? u16{harness_data} : code_selectors_[v_.below(static_cast<u32>(code_selectors_.size()))];
    return gate(selector, random(), static_cast<u8>(p | dpl | type), static_cast<u8>(v_.below(4)));
  }
  return descriptor(base, limit, static_cast<u8>(p | dpl | type), flags);
}

u16 Generator::some_selector() {
  switch (v_.below(8)) {
    case 0: return static_cast<u16>(v_.below(4));                   // NULL
    case 1: return static_cast<u16>(v_.below(gdt_count * 8 + 64));  // anything in the GDT, some behind it
    case 2: return static_cast<u16>(v_.below(ldt_count * 8 + 64) | 4);
    case 3: return static_cast<u16>(v_.below(7) * 8 + v_.below(4));
    default: break;
  }
  const u16 selector = selectors_[v_.below(static_cast<u32>(selectors_.size()))];
  return v_.one_in(4) ? static_cast<u16>((selector & ~3u) | v_.below(4)) : selector;
}

// A writable data segment of this ring with a base of its own, mostly 0.
u16 Generator::data_segment(bool stack, u32& base) {
  base = v_.one_in(3) ? (v_.one_in(2) ? random() & ~0xFFFu : random()) & ~15u : 0;
  if (stack && ring_ == 0) base &= ~3u;
  u8 access = static_cast<u8>(present | segment | 2 | ring_ << 5 | (limits_ || !stack ? v_.below(2) : 1u));
  u8 flags = static_cast<u8>(0xC | v_.below(2));
  u32 limit = 0xFFFFF;
  if (!stack) {
    if (v_.one_in(2)) access |= 0x60;
    if (v_.one_in(4)) flags &= 0xB;
    if (limits_) {
      // Around the data: the segment ends somewhere in it, from below or from above.
      base = space_->linear(page_data) - v_.below(0x2000);
      limit = v_.below(0x5000);
      flags &= 7;
      if (v_.one_in(3)) access |= conforming;  // expand down
      if (v_.one_in(6)) access &= static_cast<u8>(~2u);
    }
  }
  const u16 selector = add_descriptor(descriptor(base, limit, access, flags), ring_);
  selectors_.push_back(selector);
  return selector;
}

void Generator::make_code_segments() {
  cs_base_ = v_.one_in(4) ? random() : 0;
  stream_.code32 = !v_.one_in(24);
  const u8 flags = stream_.code32 ? 0xC : 0x8;
  // 16-bit code must lie below 64 KiB of its segment for near jumps.
  if (!stream_.code32) cs_base_ = space_->linear(page_code) - (v_.below(0xC000) & ~15u);
  const auto add = [&](u8 access) {
    const u16 s = add_descriptor(descriptor(cs_base_, 0xFFFFF, access, flags), 0);
    code_selectors_.push_back(s);
    selectors_.push_back(s);
    return s;
  };
  const u32 marked = limits_ ? v_.below(2) : u32{accessed};
  const u8 mine = static_cast<u8>(present | segment | code | readable | marked | ring_ << 5);
  stream_.record.state.cs = add(mine) | ring_;
  // Others that show the same code: conforming, of other rings, absent.
  for (unsigned n = v_.below(4); n > 0; --n) {
    u8 access = static_cast<u8>(present | segment | code | readable | marked | v_.below(4) << 5);
    if (v_.one_in(3)) access |= conforming;
    if (v_.one_in(8)) access &= static_cast<u8>(~present);
    static_cast<void>(add(access));
  }
}

u32 Generator::place_data(std::initializer_list<u32> words) {
  const u32 offset = 16 + v_.below(0x2F00) / 16 * 16 + (v_.one_in(4) ? v_.below(16) : 0);
  Poke poke{page_data * 4096 + offset, {}};
  for (const u32 w : words)
    for (unsigned i = 0; i < 4; ++i) poke.bytes.push_back(static_cast<u8>(w >> (8 * i)));
  stream_.pokes.push_back(std::move(poke));
  return offset;
}

u32 Generator::data_offset(u32 base, unsigned room) { return space_->linear(page_data) + 64 + v_.below(0x2F00 - room) / 16 * 16 - base; }

void Generator::make_tables() {
  StreamRecord& r = stream_.record;
  selectors_.clear();
  code_selectors_.clear();
  free_gdt_.clear();
  free_ldt_.clear();
  for (u32 i = first_free_selector / 8; i < gdt_count; ++i) free_gdt_.push_back(i);
  for (u32 i = 1; i < ldt_count; ++i) free_ldt_.push_back(i);
  r.ldt = 0;
  if (!v_.one_in(6)) {
    const u8 access = present | 2;
    r.ldt = add_descriptor(descriptor(arena_base + ldt_offset, ldt_count * 8 - 1, access, 0), 0);
    selectors_.push_back(static_cast<u16>(r.ldt));
  }
  r.gdt_base = arena_base + gdt_offset;
  r.gdt_limit = gdt_count * 8 - 1;
  r.idt_base = arena_base + idt_offset;
  r.idt_limit = idt_count * 8 - 1;

  make_code_segments();
  StreamState& s = r.state;
  s.ss = data_segment(true, ss_base_);
  s.ds = data_segment(false, ds_base_);
  if (v_.one_in(3)) {
    s.es = data_segment(false, es_base_);
  } else {
    s.es = s.ds;
    es_base_ = ds_base_;
  }
  u32 base = 0;
  s.fs = v_.one_in(2) ? s.ds : data_segment(false, base);
  s.gs = !judged_ && v_.one_in(4) ? 0 : s.ds;
  for (unsigned n = v_.below(6); n > 0; --n) selectors_.push_back(static_cast<u16>(add_descriptor(random_descriptor(), v_.below(4))));

  // Events: some gates open to ring 3 or to all, trap gates among them, a few absent.
  for (unsigned n = v_.below(5); n > 0; --n) {
    const u32 vector = v_.below(0x20);
    const u8 access = static_cast<u8>((v_.one_in(12) && vector != 8 && vector != 14 && vector != 13 ? 0 : present) | v_.below(4) << 5 |
                                      (v_.one_in(2) ? 0xF : 0xE));
    stream_.pokes.push_back({idt_offset + vector * 8 + 5, {access}});
  }
  stream_.pokes.push_back({idt_offset + 3 * 8 + 5, {static_cast<u8>(v_.one_in(4) ? 0x8E : 0xEE)}});
  stream_.pokes.push_back({idt_offset + 4 * 8 + 5, {static_cast<u8>(v_.one_in(4) ? 0x8F : 0xEF)}});
  // The I/O map.
  for (unsigned n = v_.below(8); n > 0; --n)
    stream_.pokes.push_back({tss_offset + 104 + (0x180 + v_.below(0x60)) / 8, {static_cast<u8>(v_.one_in(2) ? 0 : random())}});
}

void Generator::make_registers() {
  StreamRecord& r = stream_.record;
  StreamState& s = r.state;
  r.cr3 = space_->cr3();
  r.cr4 = space_->cr4();
  r.nxe = space_->nx() ? 1 : 0;
  r.cr0 = 0x80000033;
  if (v_.one_in(2)) r.cr0 |= 0x10000;  // WP
  if (v_.one_in(24)) r.cr0 |= 8;       // TS
  if (v_.one_in(48)) r.cr0 |= 4;       // EM
  if ((r.flags & stream_alignment) != 0) r.cr0 |= 0x40000;
  r.fpu_image = v_.below(fpu_images);
  for (u32& gpr : s.gpr) gpr = v_.integer();
  s.gpr[ebx] = data_offset(ds_base_, 512);
  s.gpr[esi] = data_offset(ds_base_, 512);
  s.gpr[edi] = data_offset(es_base_, 512);
  s.gpr[esp] = space_->linear(page_stack) + 0x700 + v_.below(0x180) * 4 - ss_base_;
  s.gpr[ebp] = space_->linear(page_stack) + 0x700 + v_.below(0x180) * 4 - ss_base_;
  if (ring_ == 3 && v_.one_in(16)) s.gpr[esp] += v_.below(4);
  s.eflags = 0x202 | (random() & 0x8D5);
  if (v_.one_in(10)) s.eflags |= 0x400;
  if (ring_ != 0) s.eflags |= v_.one_in(3) ? v_.below(4) << 12 : 0;
  if (v_.one_in(60)) s.eflags |= 0x100;
  if ((r.flags & stream_alignment) != 0) s.eflags |= 0x40000;
}

}  // namespace ring3::streams
