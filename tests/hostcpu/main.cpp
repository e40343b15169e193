// Runs random and boundary cases of every user-level row on the host CPU, in the interpreter and translated, and compares.
// Options: --seed N, --cases N (a row), --row NAME, --engine interp|bt|both, --show N (differences a row),
// --rows 1 (where each row ran), --trace 1 (each case before it runs).
#include "compare.h"
#include "engine_executor.h"
#include "generator.h"
#include "host_process.h"
#include "interpreter.h"

#include "base/sanitizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string_view>
#include <vector>

namespace ring3::hostcpu {
namespace {

struct Options {
  u64 seed = 1;
  u32 cases = 1000;
  std::string_view row;              // one row alone
  std::string_view engine = "both";  // interp, bt
  u32 shown = 2;                     // differences told per row
  bool rows = false;                 // tell for each row where it ran
  bool shown_all = false;            // tell each case before it runs
};

// Not user-level, or with an effect outside the process (INT 80h is a system call of the host).
bool is_tested(Row row) {
  switch (row_info(row).family) {
    case Family::io:
    case Family::segment:
    case Family::system: return false;
    default: break;
  }
  switch (row) {
    case Row::call_far:
    case Row::jmp_far:
    case Row::ret_far:
    case Row::int1:
    case Row::int3:
    case Row::int_:
    case Row::into:
    case Row::iret: return false;
    default: return true;
  }
}

// One executor under judgement, and what came of it.
struct Subject {
  Executor* executor = nullptr;
  EngineExecutor* engine = nullptr;  // when it translates
  u64 differences = 0;
};

bool is_emitted(Row row) { return row_info(row).emission == Emission::copy || row_info(row).emission == Emission::expand; }

// How often a row's own instruction ran where at the last try, not counting cases that fault: those end in the interpreter by design.
struct Execution {
  u32 emitted = 0;
  u32 interpreted = 0;
  u32 interpreted_without_memory = 0;

  void add(const Case& test, bool was_interpreted) {
    if (!was_interpreted) {
      ++emitted;
      return;
    }
    ++interpreted;
    const Family family = test.insn.info().family;
    const bool memory = test.insn.has_memory || family == Family::stack || family == Family::string || family == Family::control ||
                        test.insn.row == Row::xlat || test.insn.row == Row::maskmovq || test.insn.row == Row::maskmovdqu;
    if (!memory) ++interpreted_without_memory;
  }
  // A row marked as emitted: register forms always are, and memory forms unless they need a slow path (across pages, misaligned).
  [[nodiscard]] bool breaks_promise(Row row) const {
    return is_emitted(row) && (interpreted_without_memory > 0 || (emitted == 0 && interpreted > 0));
  }
};

class Judge {
 public:
  explicit Judge(const Options& options) : options_(options) {
    if (options_.engine != "bt") subjects_.push_back({&interpreter_, nullptr, 0});
    if (address_sanitizer && options_.engine != "interp") {
      fmt::print("translator: skipped, emitted code does not run beside AddressSanitizer\n");
    } else if (options_.engine != "interp") {
      engine_ = std::make_unique<EngineExecutor>();
      subjects_.push_back({engine_.get(), engine_.get(), 0});
    }
  }

  int run() {
    u32 rows = 0;
    std::string skipped;
    for (unsigned i = 0; i < row_count; ++i) {
      const Row row = static_cast<Row>(i);
      if (!is_tested(row) || (!options_.row.empty() && row_name(row) != options_.row)) continue;
      if (!interpreter_.has(row) || forms_.of(row).empty()) {
        skipped += fmt::format(" {}", row_name(row));
        continue;
      }
      run_row(row);
      ++rows;
    }
    if (!skipped.empty()) fmt::print("not tested (no handler, no encoding, or the host lacks it):{}\n", skipped);
    u64 differences = 0;
    for (const Subject& s : subjects_) differences += s.differences;
    if (engine_ != nullptr) {
      fmt::print("translator: {} cases without fault ran emitted, {} interpreted; {} rows marked as emitted broke the promise\n", emitted_,
                 interpreted_, broken_promises_);
    }
    for (const Subject& s : subjects_) fmt::print("host CPU against {}: {} differences\n", s.executor->name(), s.differences);
    fmt::print("{} rows, {} cases each, {} in all, {} of them faults, seed {}: {} differences\n", rows, options_.cases,
               u64{rows} * options_.cases, faults_, options_.seed, differences);
    return differences == 0 && broken_promises_ == 0 && rows > 0 ? 0 : 1;
  }

 private:
  void run_row(Row row) {
    generator_.seed(options_.seed * 0x10001u + static_cast<u64>(row));
    data_.assign(data_size, 0);
    Execution execution;
    std::vector<u64> differences(subjects_.size());
    for (u32 first = 0; first < options_.cases; first += HostProcess::batch) {
      const std::span<Slot> slots = host_.slots().first(std::min(HostProcess::batch, options_.cases - first));
      for (Slot& slot : slots) {
        generator_.make(row, slot.test, data_);
        std::copy(data_.begin(), data_.end(), slot.before.begin());
      }
      host_.run(static_cast<u32>(slots.size()));
      for (std::size_t i = 0; i < slots.size(); ++i) {
        faults_ += slots[i].expected.faulted ? 1 : 0;
        mask_pointers(slots[i].test, slots[i].after);
        for (std::size_t k = 0; k < subjects_.size(); ++k) {
          if (options_.shown_all) fmt::print("{} case {}\n{}", row_name(row), first + i, describe(slots[i].test, slots[i].before));
          const std::string text = judge(slots[i], subjects_[k], execution);
          if (text.empty()) continue;
          if (differences[k]++ >= options_.shown) continue;
          fmt::print("{} seed {} case {}: {} differs from the host\n{}{}", row_name(row), options_.seed, first + i,
                     subjects_[k].executor->name(), describe(slots[i].test, slots[i].before), text);
        }
      }
    }
    for (std::size_t k = 0; k < subjects_.size(); ++k) {
      if (differences[k] > 0) {
        fmt::print("{}: {} differs in {} of {} cases\n", row_name(row), subjects_[k].executor->name(), differences[k], options_.cases);
      }
      subjects_[k].differences += differences[k];
    }
    emitted_ += execution.emitted;
    interpreted_ += execution.interpreted;
    if (options_.rows) fmt::print("{}: {} emitted, {} interpreted\n", row_name(row), execution.emitted, execution.interpreted);
    if (execution.breaks_promise(row)) {
      ++broken_promises_;
      fmt::print("{}: marked as emitted, but {} cases ran interpreted ({} of them without memory operand), {} emitted\n", row_name(row),
                 execution.interpreted, execution.interpreted_without_memory, execution.emitted);
    }
  }

  std::vector<Row> usable_rows() const {
    std::vector<Row> out;
    for (unsigned i = 0; i < row_count; ++i) {
      if (interpreter_.has(static_cast<Row>(i))) out.push_back(static_cast<Row>(i));
    }
    return out;
  }

  // Empty: equal.
  std::string judge(const Slot& slot, const Subject& subject, Execution& execution) {
    std::memcpy(subject.executor->data(), slot.before.data(), data_size);
    subject.executor->run(slot.test, got_);
    std::string text = compare(slot, *subject.executor);
    if (subject.engine == nullptr || slot.expected.faulted || !text.empty()) return text;
    if (subject.engine->interpreted() && is_emitted(slot.test.insn.row)) {
      std::memcpy(subject.executor->data(), slot.before.data(), data_size);
      subject.engine->run_again(slot.test, got_);
      text = compare(slot, *subject.executor);
      if (!text.empty()) text = "  at the second try:\n" + text;
    }
    execution.add(slot.test, subject.engine->interpreted());
    return text;
  }

  std::string compare(const Slot& slot, Executor& executor) {
    const std::span<u8> data(executor.data(), data_size);
    mask_pointers(slot.test, data);
    return difference(slot.test, slot.expected, got_, slot.after, data);
  }

  Options options_;
  HostProcess host_;  // first: it forks
  Decoder decoder_;
  Forms forms_{decoder_};
  Interpreter interpreter_;
  Generator generator_{decoder_, forms_, usable_rows()};
  std::unique_ptr<EngineExecutor> engine_;
  std::vector<Subject> subjects_;
  std::vector<u8> data_;
  Outcome got_;
  u64 faults_ = 0;
  u64 emitted_ = 0;
  u64 interpreted_ = 0;
  u32 broken_promises_ = 0;
};

u64 number(const char* text) { return std::strtoull(text, nullptr, 0); }

int main_with(int argc, char** argv) {
  Options options;
  if (const char* seed = std::getenv("RING3_HOSTCPU_SEED")) options.seed = number(seed);
  if (const char* cases = std::getenv("RING3_HOSTCPU_CASES")) options.cases = static_cast<u32>(number(cases));
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--seed") options.seed = number(argv[i + 1]);
    if (name == "--cases") options.cases = static_cast<u32>(number(argv[i + 1]));
    if (name == "--row") options.row = argv[i + 1];
    if (name == "--engine") options.engine = argv[i + 1];
    if (name == "--rows") options.rows = number(argv[i + 1]) != 0;
    if (name == "--trace") options.shown_all = number(argv[i + 1]) != 0;
    if (name == "--show") options.shown = static_cast<u32>(number(argv[i + 1]));
  }
  return Judge(options).run();
}

}  // namespace
}  // namespace ring3::hostcpu

int main(int argc, char** argv) {
  try {
    return ring3::hostcpu::main_with(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "hostcpu_test: {}\n", e.what());
    return 1;
  }
}
