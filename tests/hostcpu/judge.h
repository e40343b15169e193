// Runs programs on the host and in the engines and tells what differs.
#pragma once

#include "encodings.h"
#include "engine_executor.h"
#include "forms.h"
#include "generator.h"
#include "host_process.h"

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ring3::hostcpu {

struct Options {
  u64 seed = 1;
  u64 flat = 220;          // programs a row in flat segments
  u64 segmented = 150;     // programs a row in segments of all kinds
  u64 encodings = 450000;  // random byte strings
  u32 states = 32;         // a program
  std::string_view row;    // one row alone
  std::string_view engine = "both";
  u32 shown = 2;           // differences told per row
  bool rows = false;       // tell for each row where it ran
  bool trace = false;      // tell each program before it runs
  bool undefined = false;  // tell what flags that the manual leaves undefined do
  u32 jobs = 1;
  u32 job = 0;
};

class Judge {
 public:
  explicit Judge(const Options& options);
  // The exit status: 0 if there was no difference and every row marked as emitted ran emitted.
  int run();

 private:
  // Where a row's own instruction ran.
  struct Execution {
    u64 emitted = 0;
    u64 interpreted = 0;
    u64 interpreted_without_memory = 0;
  };

  class Comparison;
  class Repetition;
  void run_rows(bool segmented);
  void run_encodings();
  void flush();
  // Runs the program there and tells the first difference.
  bool differs(EngineExecutor& subject, u32 index);
  void locate_memory_difference(EngineExecutor& subject, u32 index);
  void count_execution(const Program& program, const State& state, const Outcome& expected, bool interpreted);
  void report(EngineExecutor& subject, const Program& program, u32 state, const std::string& text);
  void count_undefined_flags(const Program& program, const Outcome& expected, const Outcome& got);
  void tell_undefined_flags() const;
  [[nodiscard]] bool is_tested(Row row) const;
  [[nodiscard]] std::vector<Row> usable_rows() const;
  bool summary();

  Options options_;
  HostProcess host_;  // first: it forks
  Decoder decoder_;
  Forms forms_{decoder_};
  Assembler assembler_{decoder_, forms_};
  std::vector<std::unique_ptr<EngineExecutor>> subjects_;
  std::unique_ptr<Generator> generator_;
  std::string_view part_;
  bool flat_part_ = false;
  std::array<Execution, row_count> execution_{};
  // The last of these arrays' elements is for undefined encodings.
  using CountOfRows = std::array<u64, row_count + 1>;
  std::vector<CountOfRows> differences_;  // programs, for each subject
  CountOfRows programs_of_row_{};
  CountOfRows shown_of_row_{};
  // Runs of a row alone that did not fault, and how many of them left a flag, by its bit number, otherwise than the host.
  struct UndefinedFlags {
    u64 runs = 0;
    std::array<u64, 12> other{};
  };
  std::array<UndefinedFlags, row_count> undefined_flags_{};
  u64 cases_ = 0;
  u64 programs_ = 0;
  u64 faults_ = 0;
  u64 unannounced_ = 0;
  u64 system_calls_ = 0;
  u32 rows_ = 0;
  std::vector<u64> program_seed_;
};

}  // namespace ring3::hostcpu
