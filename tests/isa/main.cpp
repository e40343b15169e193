// isa_doc PROOFS: prints docs/isa.md. isa_doc --check PROOFS FILE: compares it with FILE.
#include "base/error.h"
#include "frontend/family_names.h"
#include "isa/declined.h"
#include "isa/proofs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace ring3;

constexpr std::string_view introduction = R"(# Instructions

Made by `scripts/isa-doc` from the rows in `src/frontend/`, from the translator and from `tests/isa/proofs.txt`; a test compares. One line
for each row of the instruction table, in the table's families.

**Runs**: *copied* is the guest's own instruction, re-encoded; *expanded* is other host code with the same effect; *in-cache* is sensitive,
but done without leaving emitted code; *interpreted* leaves it for the interpreter, one instruction long.

**But interpreted**: forms of the row that the translator declines, found by translating every encoding alone, first in flat 32-bit code at
CPL 0, then with one thing changed. A column that says nothing means that every form is emitted. What no row's code is ever translated in
is told in [architecture.md](architecture.md#what-is-not-there). The numbers of `--stats` tell how often it matters.

**Needs** names what the CPU model must have (`base`: i386, `p6`: Pentium Pro); with several, the forms of the row differ.

**Proved by**: `hostcpu` is the host's CPU as judge, on random and boundary cases, interpreted and emitted; `guest.NAME` is
`tests/guests/NAME.c` in every mode; other names are unit tests.
)";

constexpr std::array<std::string_view, static_cast<std::size_t>(Feature::count)> feature_names{
    "base",   "i486",  "cr4", "p6",        "rdpmc",   "cmov",   "cmov, x87", "x87",    "tsc",       "msr",
    "cx8",    "sep",   "mmx", "fxsr",      "sse",     "sse2",   "sse3",      "ssse3",  "sse4.1",    "sse4.2",
    "popcnt", "movbe", "aes", "pclmulqdq", "clflush", "rdtscp", "rdrand",    "rdseed", "prefetchw", "monitor"};
static_assert(feature_names[static_cast<std::size_t>(Feature::sse42)] == "sse4.2");
static_assert(feature_names[static_cast<std::size_t>(Feature::monitor)] == "monitor");

std::string_view emission_name(Emission emission) {
  switch (emission) {
    case Emission::copy: return "copied";
    case Emission::expand: return "expanded";
    case Emission::in_cache: return "in-cache";
    case Emission::runtime: return "interpreted";
  }
  return "?";
}

// As people write it: without the mark that keeps C++ keywords apart.
std::string shown(std::string_view name) {
  if (name.ends_with('_')) name.remove_suffix(1);
  return std::string(name);
}

std::string document(const isa::Proofs& proofs) {
  isa::Declined declined;
  std::string out(introduction);
  std::array<unsigned, 4> counts{};
  for (const RowInfo& info : row_table) ++counts[static_cast<unsigned>(info.emission)];
  out += fmt::format("\n{} rows: {} copied, {} expanded, {} in-cache, {} interpreted.\n", row_count, counts[0], counts[1], counts[2],
                     counts[3]);
  for (std::size_t family = 0; family < family_names.size(); ++family) {
    out += fmt::format("\n## {}\n\n| row | needs | runs | but interpreted | proved by |\n|---|---|---|---|---|\n", family_names[family]);
    for (unsigned n = 0; n < row_count; ++n) {
      const RowInfo& info = row_table[n];
      if (static_cast<std::size_t>(info.family) != family) continue;
      const Row row = static_cast<Row>(n);
      std::vector<std::string_view> needs;
      for (const Feature f : declined.features(row)) needs.push_back(feature_names[static_cast<std::size_t>(f)]);
      const std::string but = info.emission == Emission::runtime ? "" : declined.describe(row);
      std::vector<std::string> tests;
      for (const std::string& test : proofs[n])
        tests.push_back(test.find('.') != std::string::npos && !test.starts_with("guest.") ? "`" + test + "`" : test);
      out += fmt::format("| {} | {} | {} | {} | {} |\n", shown(info.name), fmt::join(needs, ", "), emission_name(info.emission), but,
                         fmt::join(tests, ", "));
    }
  }
  return out;
}

int run(const std::vector<std::string>& arguments) {
  const bool check = arguments.size() == 3 && arguments[0] == "--check";
  if (!check && arguments.size() != 1) {
    fmt::print(stderr, "usage: isa_doc PROOFS | isa_doc --check PROOFS FILE\n");
    return 2;
  }
  const std::string now = document(isa::read_proofs(arguments[check ? 1 : 0]));
  if (!check) {
    fmt::print("{}", now);
    return 0;
  }
  std::ifstream in(arguments[2]);
  const std::string then{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (then == now) return 0;
  std::istringstream old_lines(then);
  std::istringstream new_lines(now);
  std::string old_line;
  std::string new_line;
  while (std::getline(new_lines, new_line)) {
    if (!std::getline(old_lines, old_line)) old_line.clear();
    if (old_line == new_line) continue;
    fmt::print("{} is not what the rows say; scripts/isa-doc writes it anew\n- {}\n+ {}\n", arguments[2], old_line, new_line);
    break;
  }
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "isa_doc: {}\n", error.what());
    return 2;
  }
}
