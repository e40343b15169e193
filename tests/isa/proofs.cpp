#include "isa/proofs.h"

#include "base/error.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

namespace ring3::isa {

namespace {

Row row_of(const std::string& name) {
  for (unsigned n = 0; n < row_count; ++n) {
    if (row_table[n].name == name) return static_cast<Row>(n);
  }
  throw UserError(fmt::format("no row '{}'", name));
}

}  // namespace

bool judged_by_host(Row row) {
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

Proofs read_proofs(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw UserError(fmt::format("cannot read {}", path));
  Proofs proofs;
  std::string line;
  while (std::getline(in, line)) {
    const std::size_t colon = line.find(':');
    if (line.empty() || line[0] == '#') continue;
    if (colon == std::string::npos) throw UserError(fmt::format("{}: '{}' has no colon", path, line));
    std::istringstream rows(line.substr(0, colon));
    std::istringstream tests(line.substr(colon + 1));
    std::vector<std::string> names;
    for (std::string test; tests >> test;) names.push_back(test);
    for (std::string row; rows >> row;) {
      std::vector<std::string>& out = proofs[static_cast<unsigned>(row_of(row))];
      out.insert(out.end(), names.begin(), names.end());
    }
  }
  for (unsigned n = 0; n < row_count; ++n) {
    const Row row = static_cast<Row>(n);
    if (judged_by_host(row)) proofs[n].insert(proofs[n].begin(), "hostcpu");
    if (proofs[n].empty()) throw UserError(fmt::format("{}: row '{}' has no test", path, row_name(row)));
  }
  return proofs;
}

}  // namespace ring3::isa
