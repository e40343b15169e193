// Runs random and boundary cases of every user-level row, in flat and other segments, and random encodings on the host CPU, in the
// interpreter and translated, and compares.
// Options: --seed N, --flat N and --segmented N (programs a row), --encodings N, --states N (of each program), --row NAME,
// --engine interp|bt|both, --show N (differences told a row), --rows 1 (where each row ran), --undefined 1 (what undefined flags do),
// --trace 1 (each program before it runs), --jobs N (processes).
#include "judge.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>

namespace ring3::hostcpu {
namespace {

u64 number(const char* text) { return std::strtoull(text, nullptr, 0); }

Options parse(int argc, char** argv) {
  Options options;
  if (const char* seed = std::getenv("RING3_HOSTCPU_SEED")) options.seed = number(seed);
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    const char* const value = argv[i + 1];
    if (name == "--seed") options.seed = number(value);
    if (name == "--flat") options.flat = number(value);
    if (name == "--segmented") options.segmented = number(value);
    if (name == "--encodings") options.encodings = number(value);
    if (name == "--states") options.states = std::clamp(static_cast<u32>(number(value)), 1u, 256u);
    if (name == "--row") options.row = value;
    if (name == "--engine") options.engine = value;
    if (name == "--rows") options.rows = number(value) != 0;
    if (name == "--undefined") options.undefined = number(value) != 0;
    if (name == "--trace") options.trace = number(value) != 0;
    if (name == "--show") options.shown = static_cast<u32>(number(value));
    if (name == "--jobs") options.jobs = std::max(1u, static_cast<u32>(number(value)));
  }
  return options;
}

int main_with(const Options& options) {
  try {
    return Judge(options).run();
  } catch (const std::exception& e) {
    fmt::print(stderr, "hostcpu_test: {}\n", e.what());
    return 1;
  }
}

int split(Options options) {
  for (u32 job = 0; job < options.jobs; ++job) {
    const pid_t child = fork();
    if (child < 0) {
      fmt::print(stderr, "hostcpu_test: fork failed\n");
      return 1;
    }
    if (child != 0) continue;
    options.job = job;
    const int status = main_with(options);
    std::fflush(stdout);
    _exit(status);
  }
  int result = 0;
  for (int status = 0; wait(&status) > 0;) result |= WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  return result;
}

}  // namespace
}  // namespace ring3::hostcpu

int main(int argc, char** argv) {
  using namespace ring3::hostcpu;
  const Options options = parse(argc, argv);
  return options.jobs > 1 ? split(options) : main_with(options);
}
