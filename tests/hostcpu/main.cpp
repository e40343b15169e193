// Runs random and boundary cases of every user-level row on the host CPU and in the interpreter, and compares.
#include "compare.h"
#include "generator.h"
#include "host_cpu.h"
#include "interpreter.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string_view>
#include <vector>

namespace ring3::hostcpu {
namespace {

struct Options {
  u64 seed = 1;
  u32 cases = 1000;
  std::string_view row;  // one row alone
  u32 shown = 2;         // differences told per row
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

class Judge {
 public:
  explicit Judge(const Options& options) : options_(options) {}

  // Number of differences.
  u64 run_row(Row row) {
    generator_.seed(options_.seed * 0x10001u + static_cast<u64>(row));
    std::vector<u8> data(data_size);
    u64 differences = 0;
    for (u32 i = 0; i < options_.cases; ++i) {
      generator_.make(row, case_, data);
      std::memcpy(host_.data(), data.data(), data_size);
      std::memcpy(interpreter_.data(), data.data(), data_size);
      host_.run(case_, expected_);
      interpreter_.run(case_, got_);
      faults_ += expected_.faulted ? 1 : 0;
      const std::span<u8> host_data(host_.data(), data_size);
      const std::span<u8> got_data(interpreter_.data(), data_size);
      mask_pointers(case_, host_data);
      mask_pointers(case_, got_data);
      const std::string text = difference(case_, expected_, got_, host_data, got_data);
      if (text.empty()) continue;
      if (differences++ < options_.shown) {
        fmt::print("{} seed {} case {}: {} differs from the host\n{}{}", row_name(row), options_.seed, i, interpreter_.name(),
                   describe(case_, data), text);
      }
    }
    if (differences > 0) fmt::print("{}: {} of {} cases differ\n", row_name(row), differences, options_.cases);
    return differences;
  }

  int run() {
    u64 differences = 0;
    u32 rows = 0;
    std::string skipped;
    for (unsigned i = 0; i < row_count; ++i) {
      const Row row = static_cast<Row>(i);
      if (!is_tested(row) || (!options_.row.empty() && row_name(row) != options_.row)) continue;
      if (!interpreter_.has(row) || forms_.of(row).empty()) {
        skipped += fmt::format(" {}", row_name(row));
        continue;
      }
      differences += run_row(row);
      ++rows;
    }
    if (!skipped.empty()) fmt::print("not tested (no handler, no encoding, or the host lacks it):{}\n", skipped);
    fmt::print("host CPU against {}: {} rows, {} cases each, {} in all, {} faults, {} differences, seed {}\n", interpreter_.name(), rows,
               options_.cases, u64{rows} * options_.cases, faults_, differences, options_.seed);
    return differences == 0 && rows > 0 ? 0 : 1;
  }

 private:
  Options options_;
  Decoder decoder_;
  Forms forms_{decoder_};
  Generator generator_{decoder_, forms_};
  HostCpu host_;
  Interpreter interpreter_;
  Case case_;
  Outcome expected_;
  Outcome got_;
  u64 faults_ = 0;
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
