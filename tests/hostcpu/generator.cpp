#include "generator.h"

#include "base/sanitizer.h"
#include "segments.h"
#include "tolerance.h"

#include <algorithm>
#include <cstring>

namespace ring3::hostcpu {

namespace {

bool is_branch(Row row) {
  switch (row) {
    case Row::bound:
    case Row::int_:
    case Row::int1:
    case Row::int3:
    case Row::into: return false;
    default: return row_info(row).family == Family::control;
  }
}

// Whether `before` writes a register that `insn` may make an address of. Where addresses are implicit, every register counts.
bool changes_addresses(const Insn& before, const Insn& insn) {
  switch (before.row) {
    case Row::cwd:
    case Row::cdq:
    case Row::cbw:
    case Row::cwde:
    case Row::lahf:
    case Row::salc:
    case Row::cmpxchg: return true;  // implicit registers
    default: break;
  }
  const Family family = insn.info().family;
  const bool plain = family == Family::alu || family == Family::shift || family == Family::muldiv || family == Family::mov ||
                     family == Family::x87 || family == Family::mmx || family == Family::sse;
  for (unsigned i = 0; i < before.operand_count; ++i) {
    const Operand& o = before.operand[i];
    if (o.kind != OperandKind::reg || !o.written) continue;
    const u8 reg = o.reg_class == RegClass::gpr8 ? o.reg & 3 : o.reg;
    if (!plain || insn.row == Row::xlat || insn.row == Row::maskmovq || insn.row == Row::maskmovdqu) return true;
    if (reg == insn.mem.base || reg == insn.mem.index) return true;
  }
  return false;
}

constexpr u32 largest_patches_of_a_state = 2048;  // bytes

}  // namespace

Generator::Generator(const Assembler& assembler, const std::vector<Row>& usable) : assembler_(assembler) {
  for (const Row row : usable) {
    switch (row_info(row).family) {
      case Family::alu:
      case Family::shift:
      case Family::bit:
      case Family::mov:
      case Family::flag: break;
      default: continue;
    }
    if (row != Row::cli && row != Row::sti && row != Row::xlat && !assembler.forms().of(row).empty()) neighbour_rows_.push_back(row);
  }
}

void Generator::prepare(Batch& batch, u64 seed) {
  Values values(seed);
  batch.clear();
  make_ldt(values, batch.ldt);
  values.fill(batch.background);
}

bool Generator::has_room(const Batch& batch, u32 states) {
  return batch.programs < Batch::max_programs && batch.states + states <= Batch::max_states &&
         batch.patches + 8 * states <= Batch::max_patches &&
         batch.patch_bytes_used + states * largest_patches_of_a_state <= Batch::max_patch_bytes;
}

void Generator::add_row(Batch& batch, Row row, u64 seed, bool segmented, u32 states) {
  values_ = Values(seed);
  batch_ = &batch;
  do {
    while (!make_program(batch, row, segmented, batch.program[batch.programs])) continue;
  } while (!finish_program(batch, states));
}

bool Generator::add_encoding(Batch& batch, std::span<const u8> bytes, const Insn* insn, u64 seed, bool segmented, bool at_page_end,
                             u32 states) {
  values_ = Values(seed);
  batch_ = &batch;
  Program& program = batch.program[batch.programs];
  program = Program{};
  program.defined = insn != nullptr;
  if (insn != nullptr) {
    program.insn = *insn;
    program.row = insn->row;
  } else {
    std::copy(bytes.begin(), bytes.end(), program.insn.bytes.begin());
    program.insn.length = static_cast<u8>(bytes.size());
  }
  (void)segmented;
  flat_segments(program);
  program.start = code_start + values_.below(64);
  if (at_page_end) program.start = code_end - program.insn.length;
  if (program.defined) {
    const Family family = program.insn.info().family;
    program.fpu = family == Family::x87 || family == Family::mmx || family == Family::sse;
    program.jumps = is_branch(program.row);
    program.isolated = needs_isolation(program.insn);
    for (unsigned i = 0; i < segment_count; ++i) segments_[i] = cache_of(batch.ldt, program.selector[i]);
    (void)fix_operand(program);
    fix_branch(program);
    if (!assembler_.refresh(program.insn, program.code32)) program.defined = false;
  }
  program.length = program.insn.length;
  std::copy_n(program.insn.bytes.begin(), program.insn.length, program.code.begin());
  return finish_program(batch, states);
}

bool Generator::make_program(Batch& batch, Row row, bool segmented, Program& program) {
  program = Program{};
  flat_segments(program);
  if (segmented) choose_segments(values_, batch.ldt, program);
  for (unsigned i = 0; i < segment_count; ++i) segments_[i] = cache_of(batch.ldt, program.selector[i]);
  Assembler::Wish wish;
  wish.code32 = program.code32;
  if (segmented) {
    wish.segment_prefix = 3;
    wish.address_prefix = 8;
    wish.far_segments = true;
  }
  if (!assembler_.assemble(row, wish, values_, program.insn)) return false;
  program.row = row;
  program.start = code_start + values_.below(64);
  if (program.start - segment(Seg::cs).base > segment(Seg::cs).limit) return false;  // a program must be able to start
  const Family family = program.insn.info().family;
  program.fpu = family == Family::x87 || family == Family::mmx || family == Family::sse;
  program.jumps = is_branch(row);
  program.isolated = needs_isolation(program.insn);
  if (row == Row::int_ && program.insn.imm == 0x80) return false;  // the way out of the guest, and a system call of the host
  if (!fix_operand(program)) return false;
  fix_branch(program);
  if (!assembler_.refresh(program.insn, program.code32)) return false;

  std::array<u8, 16> head{};
  std::array<u8, 32> tail{};
  u32 tail_length = 0;
  add_neighbours(program, head, tail, tail_length);
  auto out = std::copy_n(head.begin(), program.head, program.code.begin());
  out = std::copy_n(program.insn.bytes.begin(), program.insn.length, out);
  const u32 room = static_cast<u32>(program.code.end() - out);
  if (tail_length > room) tail_length = 0;
  out = std::copy_n(tail.begin(), tail_length, out);
  program.length = static_cast<u8>(out - program.code.begin());
  return true;
}

// A few instructions on registers around the one under test. Those behind it read its results and flags, or make its flags dead, which
// changes what a translator may emit for it; those before it move it away from the start of its block.
void Generator::add_neighbours(Program& program, std::array<u8, 16>& head, std::array<u8, 32>& tail, u32& tail_length) {
  if (program.jumps || !program.code32 || values_.one_in(2)) return;
  switch (program.row) {
    case Row::rdtsc:
    case Row::rdtscp:
    case Row::rdrand:
    case Row::rdseed: return;  // different every time
    default: break;
  }
  if (program.insn.info().family == Family::decimal) return;  // undefined flags that do not agree
  Insn other;
  const auto next = [&](std::size_t room) {
    const Row row = neighbour_rows_[values_.below(static_cast<u32>(neighbour_rows_.size()))];
    return assembler_.assemble(row, {}, values_, other) && !other.has_memory && !other.lock && other.length <= room;
  };
  for (u32 tries = 1 + values_.below(4); tries > 0; --tries) {
    if (!next(tail.size() - tail_length)) continue;
    std::copy_n(other.bytes.begin(), other.length, tail.begin() + tail_length);
    tail_length += other.length;
  }
  for (u32 tries = values_.below(4); tries > 0; --tries) {
    if (!next(head.size() - program.head) || changes_addresses(other, program.insn)) continue;
    std::copy_n(other.bytes.begin(), other.length, head.begin() + program.head);
    program.head = static_cast<u8>(program.head + other.length);
  }
}

// False, and nothing is appended: all of its states touch what must not be touched, as those of an operand without registers may.
bool Generator::finish_program(Batch& batch, u32 states) {
  constexpr u32 patience = 1000;
  Program& program = batch.program[batch.programs];
  batch_ = &batch;
  program_ = &program;
  for (unsigned i = 0; i < segment_count; ++i) segments_[i] = cache_of(batch.ldt, program.selector[i]);
  if (program.isolated) states = 1;
  program.first_state = batch.states;
  program.states = states;
  const u32 patches = batch.patches;
  const u32 patch_bytes_used = batch.patch_bytes_used;
  data_.assign(batch.background.begin(), batch.background.end());
  for (u32 i = 0; i < states; ++i) {
    State& state = batch.state[program.first_state + i];
    u32 tries = 0;
    do {
      if (++tries > patience) {
        batch.patches = patches;
        batch.patch_bytes_used = patch_bytes_used;
        return false;
      }
      touched_.clear();
    } while (!make_state(state));
    emit_patches(state);
  }
  batch.states += states;
  ++batch.programs;
  return true;
}

// An operand without registers is aimed once for all states. False: it must not be as it is.
bool Generator::fix_operand(Program& program) {
  Insn& insn = program.insn;
  if (!insn.has_memory || insn.mem.base != no_reg || insn.mem.index != no_reg) return true;
  const Displacement d = displacement_of(insn);
  if (d.size == 0) return true;
  const u32 size = operand_size(insn);
  u32 offset = offset_in(segment(insn.mem.segment), size);
  if (must_be_aligned(insn)) offset -= (segment(insn.mem.segment).base + offset) & (size - 1);
  if (size == 16 || size == 512) offset -= values_.one_in(16) ? 0 : (segment(insn.mem.segment).base + offset) & 15u;
  const u32 linear = segment(insn.mem.segment).base + offset;
  if (linear - code_base < code_size) return false;
  std::memcpy(insn.bytes.data() + d.offset, &offset, d.size);
  return true;
}

// Relative branches lead to HLTs away from the instruction, or to absent pages.
void Generator::fix_branch(Program& program) {
  Insn& insn = program.insn;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    if (insn.operand[i].kind == OperandKind::far_pointer) {
      const u16 selector = code_target(values_);
      const u32 offset = hlt_address() - cache_of(batch_->ldt, selector).base;
      std::memcpy(insn.bytes.data() + insn.imm_offset, &offset, insn.operand_size);
      std::memcpy(insn.bytes.data() + insn.imm_offset + insn.operand_size, &selector, sizeof selector);
    }
    if (insn.operand[i].kind != OperandKind::rel) continue;
    i32 relative = static_cast<i32>(hlt_address() - (program.start + insn.length));
    if (insn.imm_size == 1)
      relative = values_.one_in(2) ? static_cast<i32>(16 + values_.below(112)) : -static_cast<i32>(32 + values_.below(97));
    std::memcpy(insn.bytes.data() + insn.imm_offset, &relative, insn.imm_size);
  }
}

bool Generator::make_state(State& state) {
  registers(state);
  if (!program_->defined) return true;
  implicit_addresses(state);
  if (!memory_operand(state)) return false;
  if (program_->jumps) jump_target(state);
  selectors(state);
  return !touches_differing_bytes(state);
}

void Generator::emit_patches(State& state) {
  state.first_patch = batch_->patches;
  state.patches = 0;
  for (const Touched& t : touched_) {
    if (t.first == t.last) continue;
    const u32 size = t.last - t.first;
    batch_->patch[batch_->patches++] = {static_cast<u16>(t.first), static_cast<u16>(size), batch_->patch_bytes_used};
    std::copy_n(data_.begin() + t.first, size, batch_->patch_bytes.begin() + batch_->patch_bytes_used);
    batch_->patch_bytes_used += size;
    ++state.patches;
  }
}

u32 Generator::hlt_address() {
  if (values_.one_in(8)) return data_end + 0x2000 + values_.below(0x10000);
  if (values_.one_in(16)) return data_base + values_.below(data_size);
  return values_.one_in(2) ? code_base + values_.below(0x700) : code_start + 0xC0 + values_.below(0x700);
}

u32 Generator::address(u32 size) {
  const u32 back = values_.below(size) + (size > 1 ? 0 : 1);  // how much of the operand lies before a border
  switch (values_.below(32)) {
    case 0: return data_base - back;
    case 1: return data_end - back;
    case 2: return read_only_base - back;
    case 3: return data_base + page - back;
    case 4: return read_only_base + values_.below(page - 16);
    case 5: return data_end + 0x1000 + values_.below(0x100000);
    case 6: return values_.one_in(2) ? values_.below(0x8000) : 0xFFFFF000 + values_.below(0x1000);
    default: break;
  }
  const u32 a = data_base + values_.below(writable_size - size);
  return values_.one_in(2) ? a : a & ~15u;
}

u32 Generator::offset_in(const SegmentCache& s, u32 size) {
  if (s.base == 0 && s.limit == 0xFFFFFFFF) return address(size);
  const u32 back = values_.below(size + 2);
  switch (values_.below(16)) {
    case 0:
    case 1:
    case 2:
    case 3: return s.limit + 1 - back;
    case 4: return 0u - back;
    case 5: return s.big() ? values_.below(4) : 0x10000u - back;
    default: return address(size) - s.base;
  }
}

u32 Generator::stack_address(const State& state, u32 above) const {
  const SegmentCache& ss = segment(Seg::ss);
  const u32 pointer = state.gpr[esp] + above;
  return ss.base + (ss.big() ? pointer : pointer & 0xFFFFu);
}

u32 Generator::memory_address(const State& state) const { return operand_address(*batch_, *program_, state.gpr); }

std::span<u8> Generator::window(u32 linear, u32 size) {
  constexpr i64 around = 48;  // bytes refreshed on each side of an operand
  const i64 first = std::clamp<i64>(i64{linear} - data_base - around, 0, data_size);
  const i64 last = std::clamp<i64>(i64{linear} - data_base + size + around, first, data_size);
  touched_.push_back({static_cast<u32>(first), static_cast<u32>(last)});
  return std::span(data_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
}

void Generator::put(u32 linear, u32 value, u32 size) {
  const u32 at = linear - data_base;
  if (at >= data_size || at + size > data_size) return;
  std::memcpy(data_.data() + at, &value, size);
  touched_.push_back({at, at + size});
}

}  // namespace ring3::hostcpu
