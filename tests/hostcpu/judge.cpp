#include "judge.h"

#include "base/sanitizer.h"
#include "compare.h"
#include "tolerance.h"
#include "unannounced.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace ring3::hostcpu {

namespace {

constexpr u32 programs_in_batch = 64;  // that share an LDT

u64 mix(u64 seed, u64 part, u64 what, u64 number) {
  Values values(seed);
  const u64 a = values.bits() ^ (part << 56) ^ (what << 40) ^ number;
  return Values(a).bits();
}

bool is_emitted(Row row) { return row_info(row).emission == Emission::copy || row_info(row).emission == Emission::expand; }

bool touches_memory(const Insn& insn) {
  const Family family = insn.info().family;
  return insn.has_memory || family == Family::stack || family == Family::string || family == Family::control || insn.row == Row::xlat ||
         insn.row == Row::maskmovq || insn.row == Row::maskmovdqu;
}

// Where AddressSanitizer has its shadow on the host, nothing is absent there. (States avoid it for memory operands; this is about stacks
// and targets of jumps.)
bool meets_shadow(const Outcome& outcome) {
  constexpr u32 shadow = 0x7FFF7000;
  return address_sanitizer && outcome.vector == static_cast<u16>(Vector::page) && outcome.address >= shadow;
}

}  // namespace

Judge::Judge(const Options& options) : options_(options) {
  if (options_.engine != "bt") subjects_.push_back(std::make_unique<EngineExecutor>(EngineExecutor::Kind::interpreter));
  if (address_sanitizer && options_.engine != "interp") {
    fmt::print("translator: skipped, emitted code does not run beside AddressSanitizer\n");
  } else if (options_.engine != "interp") {
    subjects_.push_back(std::make_unique<EngineExecutor>(EngineExecutor::Kind::translator));
    subjects_.push_back(std::make_unique<EngineExecutor>(EngineExecutor::Kind::windows));
    subjects_.push_back(std::make_unique<EngineExecutor>(EngineExecutor::Kind::low_window));
  }
  if (subjects_.empty()) throw std::runtime_error("nothing to judge");
  generator_ = std::make_unique<Generator>(assembler_, usable_rows());
  differences_.resize(subjects_.size());
}

// Not: what shows the host instead of the guest (CPUID; the tables' addresses, which Linux makes up under UMIP), and system calls.
bool Judge::is_tested(Row row) const {
  if (!subjects_[0]->model().has(row_info(row).feature) || forms_.of(row).empty()) return false;
  switch (row) {
    case Row::cpuid:
    case Row::sgdt:
    case Row::sidt:
    case Row::sldt:
    case Row::smsw:
    case Row::str:
    case Row::sysenter: return false;
    default: return true;
  }
}

std::vector<Row> Judge::usable_rows() const {
  std::vector<Row> out;
  for (unsigned i = 0; i < row_count; ++i) {
    if (subjects_[0]->model().has(row_info(static_cast<Row>(i)).feature)) out.push_back(static_cast<Row>(i));
  }
  return out;
}

int Judge::run() {
  if (options_.flat != 0) run_rows(false);
  if (options_.segmented != 0 && !address_sanitizer) run_rows(true);
  if (options_.encodings != 0 && options_.row.empty() && !address_sanitizer) run_encodings();
  return summary() ? 0 : 1;
}

void Judge::run_rows(bool segmented) {
  part_ = segmented ? "segmented" : "flat";
  flat_part_ = !segmented;
  const u64 programs = segmented ? options_.segmented : options_.flat;
  std::string skipped;
  rows_ = 0;
  for (unsigned i = 0; i < row_count; ++i) {
    const Row row = static_cast<Row>(i);
    if (!options_.row.empty() && row_name(row) != options_.row) continue;
    if (!is_tested(row)) {
      skipped += fmt::format(" {}", row_name(row));
      continue;
    }
    ++rows_;
    for (u64 n = 0; n < programs; ++n) {
      const u64 chunk = n / programs_in_batch;
      if (chunk % options_.jobs != options_.job) continue;
      Batch& batch = host_.batch();
      if (n % programs_in_batch == 0 || !Generator::has_room(batch, options_.states)) {
        flush();
        Generator::prepare(batch, mix(options_.seed, segmented ? 1 : 0, i, chunk));
      }
      program_seed_.push_back(n);
      generator_->add_row(batch, row, mix(options_.seed, segmented ? 3 : 2, i, n), segmented, options_.states);
    }
    flush();
  }
  if (!skipped.empty() && !segmented) fmt::print("not tested (no encoding, the host lacks it, or it shows the host):{}\n", skipped);
}

void Judge::run_encodings() {
  part_ = "encodings";
  flat_part_ = false;
  Batch& batch = host_.batch();
  constexpr u32 states_of_known = 4;
  for (u64 n = 0; n < options_.encodings; ++n) {
    if (n / 1024 % options_.jobs != options_.job) continue;
    if (n % 256 == 0 || !Generator::has_room(batch, states_of_known)) {
      flush();
      Generator::prepare(batch, mix(options_.seed, 4, 0, n / 256));
    }
    Values values(mix(options_.seed, 5, 0, n));
    Encoding e = make_encoding(values, decoder_);
    if (e.known && !subjects_[0]->model().has(e.insn.feature)) e.known = false;
    if (leaves_the_host(e.bytes)) continue;
    const UnannouncedInfo info = unannounced(std::span(e.bytes).first(e.length));
    if (info.kind == Unannounced::older || (e.known && !is_tested(e.insn.row))) continue;
    if (generator_->add_encoding(batch, std::span(e.bytes).first(e.length), e.known ? &e.insn : nullptr, values.bits(), false,
                                 e.at_page_end, e.known ? states_of_known : 1))
      program_seed_.push_back(n);
  }
  flush();
}

void Judge::flush() {
  Batch& batch = host_.batch();
  if (batch.programs == 0) return;
  if (options_.trace) {
    for (u32 i = 0; i < batch.programs; ++i) {
      const Program& p = batch.program[i];
      fmt::print("{} {} program {}\n{}", part_, row_name(p.row), program_seed_[i],
                 describe(batch, p, batch.state[p.first_state], batch.background));
    }
    std::fflush(stdout);
  }
  try {
    host_.run(0, batch.programs);
  } catch (...) {
    const Program& p = batch.program[host_.progress()];
    fmt::print("{} {} program {}:\n{}", part_, row_name(p.row), program_seed_[host_.progress()],
               describe(batch, p, batch.state[p.first_state], batch.background));
    throw;
  }
  for (const auto& subject : subjects_) subject->load_ldt(batch.ldt);
  for (u32 i = 0; i < batch.programs; ++i) {
    const unsigned row = static_cast<unsigned>(batch.program[i].row);
    ++programs_of_row_[row];
    for (std::size_t k = 0; k < subjects_.size(); ++k) differences_[k][row] += differs(*subjects_[k], i) ? 1 : 0;
  }
  cases_ += batch.states;
  programs_ += batch.programs;
  for (u32 i = 0; i < batch.states; ++i) faults_ += batch.expected[i].vector != no_vector ? 1 : 0;
  batch.clear();
  program_seed_.clear();
}

// Applies patches and compares, state by state.
class Judge::Comparison final : public StateObserver {
 public:
  Comparison(Judge& judge, EngineExecutor& subject, const Program& program)
      : judge_(judge), batch_(judge.host_.batch()), subject_(subject), program_(program) {}

  void before(u32 state) override {
    batch_.apply_patches(batch_.state[state], subject_.data());
    interpreted_ = subject_.interpreted(program_.row);
  }

  bool after(u32 n, const Outcome& got) override {
    const State& state = batch_.state[n];
    const Outcome& expected = batch_.expected[n];
    const bool interpreted = subject_.interpreted(program_.row) != interpreted_;
    if (judge_.flat_part_ && subject_.translates()) judge_.count_execution(program_, state, expected, interpreted);
    mask_pointers(batch_, program_, state.gpr, subject_.data());
    if (expected.vector == system_call) {
      ++judge_.system_calls_;
      comparable_ = false;
      return true;
    }
    const std::string text = compare(state, expected, got);
    if (text.empty()) return true;
    judge_.report(subject_, program_, n, text);
    differs_ = true;
    return false;
  }

  [[nodiscard]] bool differs() const { return differs_; }
  // Whether what the program left in memory must be equal.
  [[nodiscard]] bool comparable() const { return comparable_ && !differs_; }

 private:
  std::string compare(const State& state, const Outcome& expected, const Outcome& got) {
    if (got.vector == not_run) return fmt::format("  not executed: {}\n", subject_.failure());
    if ((expected.vector == endless && got.vector == endless) || meets_shadow(expected) || meets_shadow(got)) {
      comparable_ = false;
      return {};
    }
    std::string text = expected.vector == endless ? "  does not end on the host\n" : difference(batch_, program_, state, expected, got);
    if (expected.vector == endless && program_.defined) return text;
    if (text.empty()) judge_.count_undefined_flags(program_, expected, got);
    const Tolerance tolerance = tolerance_of(batch_, program_, state, expected, got);
    if (tolerance.anything || tolerance.memory) comparable_ = false;
    if (!program_.defined && !text.empty()) {
      const UnannouncedInfo info = unannounced(program_.bytes());
      if (info.kind != Unannounced::undefined) return text;
      ++judge_.unannounced_;
      comparable_ = false;
      if (got.vector == static_cast<u16>(Vector::invalid_opcode)) return {};
      return fmt::format("  expected #UD: {}\n{}", info.reason, text);
    }
    for (unsigned i = 0; i < segment_count && text.empty(); ++i) {
      const Seg seg = static_cast<Seg>(i);
      if (seg == Seg::cs || seg == Seg::ss) continue;  // the kernel's
      if (subject_.segments()[i] != cache_of(batch_.ldt, got.selector[i]))
        text = fmt::format("  the cache of segment register {} is not its descriptor\n", i);
    }
    return text;
  }

  Judge& judge_;
  Batch& batch_;
  EngineExecutor& subject_;
  const Program& program_;
  u64 interpreted_ = 0;
  bool comparable_ = true;
  bool differs_ = false;
};

// Runs without comparing.
class Judge::Repetition final : public StateObserver {
 public:
  Repetition(const Batch& batch, EngineExecutor& subject, const Program& program) : batch_(batch), subject_(subject), program_(program) {}
  void before(u32 state) override { batch_.apply_patches(batch_.state[state], subject_.data()); }
  bool after(u32 state, const Outcome&) override {
    mask_pointers(batch_, program_, batch_.state[state].gpr, subject_.data());
    return true;
  }

 private:
  const Batch& batch_;
  EngineExecutor& subject_;
  const Program& program_;
};

bool Judge::differs(EngineExecutor& subject, u32 index) {
  Batch& batch = host_.batch();
  const Program& program = batch.program[index];
  std::memcpy(subject.data(), batch.background.data(), data_size);
  subject.place(program);
  Comparison comparison(*this, subject, program);
  subject.run(batch, program, program.first_state, program.states, comparison);
  if (!comparison.comparable() || std::memcmp(batch.memory[index].data(), subject.data(), data_size) == 0) return comparison.differs();
  locate_memory_difference(subject, index);
  return true;
}

// Runs the program's first states alone, more and more of them, until memory differs.
void Judge::locate_memory_difference(EngineExecutor& subject, u32 index) {
  Batch& batch = host_.batch();
  Program& program = batch.program[index];
  const u32 all = program.states;
  for (u32 n = 1; n <= all; ++n) {
    program.states = n;
    host_.run(index, 1);
    std::memcpy(subject.data(), batch.background.data(), data_size);
    subject.place(program);
    Repetition repetition(batch, subject, program);
    subject.run(batch, program, program.first_state, n, repetition);
    const std::string text = difference(batch.memory[index], std::span<const u8>(subject.data(), data_size));
    if (text.empty()) continue;
    report(subject, program, program.first_state + n - 1, text);
    break;
  }
  program.states = all;
}

// Not counted: runs that fault, which end in the interpreter by design, those under alignment checks, where nothing is translated, and
// those with an unmasked x87 exception, where x87 and MMX are not.
void Judge::count_execution(const Program& program, const State& state, const Outcome& expected, bool interpreted) {
  const bool faulted = expected.vector != no_vector && expected.eip == program.address();
  constexpr u32 x87_masks = 0x3F;
  const bool unmasked = program.fpu && (state.fpu.fcw & x87_masks) != x87_masks;
  if (faulted || unmasked || (state.eflags & flag::ac) != 0) return;
  Execution& e = execution_[static_cast<unsigned>(program.row)];
  if (!interpreted) {
    ++e.emitted;
    return;
  }
  ++e.interpreted;
  if (!touches_memory(program.insn)) ++e.interpreted_without_memory;
}

void Judge::count_undefined_flags(const Program& program, const Outcome& expected, const Outcome& got) {
  if (!options_.undefined || !program.defined || expected.vector != no_vector || program.length != program.insn.length) return;
  const u32 undefined = program.insn.info().flags_undefined;
  if (undefined == 0) return;
  UndefinedFlags& flags = undefined_flags_[static_cast<unsigned>(program.row)];
  ++flags.runs;
  for (unsigned bit = 0; bit < flags.other.size(); ++bit) flags.other[bit] += ((expected.eflags ^ got.eflags) & undefined) >> bit & 1u;
}

void Judge::tell_undefined_flags() const {
  constexpr std::array<const char*, 12> names{"CF", "", "PF", "", "AF", "", "ZF", "SF", "", "", "", "OF"};
  for (unsigned i = 0; i < row_count; ++i) {
    const UndefinedFlags& flags = undefined_flags_[i];
    if (flags.runs == 0) continue;
    std::string text;
    for (unsigned bit = 0; bit < names.size(); ++bit) {
      if ((row_table[i].flags_undefined >> bit & 1u) != 0) text += fmt::format(" {} {}", names[bit], flags.other[bit]);
    }
    fmt::print("{}: {} runs, undefined flags other than the host's:{}\n", row_table[i].name, flags.runs, text);
  }
}

void Judge::report(EngineExecutor& subject, const Program& program, u32 state, const std::string& text) {
  const Batch& batch = host_.batch();
  const u32 index = static_cast<u32>(&program - batch.program.data());
  if (shown_of_row_[static_cast<unsigned>(program.row)]++ >= options_.shown) return;
  fmt::print("{} {} seed {} program {} state {}: {} differs from the host\n{}{}", part_, row_name(program.row), options_.seed,
             program_seed_[index], state - program.first_state, subject.name(),
             describe(batch, program, batch.state[state], std::span<const u8>(subject.data(), data_size)), text);
  std::fflush(stdout);
}

bool Judge::summary() {
  u64 differences = 0;
  u32 broken = 0;
  u64 emitted = 0;
  u64 interpreted = 0;
  for (unsigned i = 0; i < row_count; ++i) {
    const Row row = static_cast<Row>(i);
    const Execution& e = execution_[i];
    emitted += e.emitted;
    interpreted += e.interpreted;
    if (options_.rows && e.emitted + e.interpreted != 0)
      fmt::print("{}: {} emitted, {} interpreted\n", row_name(row), e.emitted, e.interpreted);
    // Register forms always are emitted, and memory forms unless they need a slow path (across pages, misaligned).
    if (!is_emitted(row) || (e.interpreted_without_memory == 0 && (e.emitted != 0 || e.interpreted == 0))) continue;
    ++broken;
    fmt::print("{}: marked as emitted, but {} runs were interpreted ({} of them without memory operand), {} emitted\n", row_name(row),
               e.interpreted, e.interpreted_without_memory, e.emitted);
  }
  tell_undefined_flags();
  if (subjects_.back()->translates())
    fmt::print("translator, flat segments: {} runs of rows marked as emitted without fault ran emitted, {} interpreted\n", emitted,
               interpreted);
  for (std::size_t k = 0; k < subjects_.size(); ++k) {
    u64 sum = 0;
    for (unsigned i = 0; i <= row_count; ++i) {
      const u64 n = differences_[k][i];
      sum += n;
      if (n != 0)
        fmt::print("{}: {} differs in {} of {} programs\n", row_name(static_cast<Row>(i)), subjects_[k]->name(), n, programs_of_row_[i]);
    }
    fmt::print("host CPU against {}: {} differences\n", subjects_[k]->name(), sum);
    if (!subjects_[k]->windows_as_wanted()) {
      ++broken;
      fmt::print("{}: ran with windows, or without them, where it should not\n", subjects_[k]->name());
    }
    differences += sum;
  }
  fmt::print("{} encodings are not the guest's, {} system calls\n", unannounced_, system_calls_);
  fmt::print("{} rows, {} programs, {} cases, {} of them faults, seed {}: {} differences\n", rows_, programs_, cases_, faults_,
             options_.seed, differences);
  return differences == 0 && broken == 0 && cases_ > 0;
}

}  // namespace ring3::hostcpu
