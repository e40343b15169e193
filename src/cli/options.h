// The command line as values.
#pragma once

#include "machine/machine.h"

#include <optional>
#include <string>

namespace ring3 {

struct Options {
  MachineConfig machine;
  std::string trace;       // names, empty: none
  std::string trace_file;  // empty: stderr
  bool stats = false;
  std::string dump_cache;  // empty: no dump
};

// Empty: help or version was printed, exit with 0. Throws UserError for everything that is wrong.
[[nodiscard]] std::optional<Options> parse_command_line(int argc, char** argv);

}  // namespace ring3
