#include "base/error.h"
#include "base/file.h"
#include "base/signal.h"
#include "cli/exit_code.h"
#include "cli/options.h"
#include "cli/run.h"

#include <fmt/format.h>
#include <unistd.h>
#include <exception>

namespace {

int fail(int status, std::string_view kind, const std::exception& error) {
  static_cast<void>(ring3::write_all(STDERR_FILENO, fmt::format("ring3: {}{}\n", kind, error.what())));
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace ring3;
  reserve_standard_files();
  try {
    const std::optional<Options> options = parse_command_line(argc, argv);
    if (!options) return exit_code::power_off;
    const int status = run_machine(*options);
    if (status < 0) die_by_signal(-status);
    return status < 0 ? 128 - status : status;
  } catch (const UserError& error) {
    return fail(exit_code::usage, "", error);
  } catch (const std::exception& error) {
    return fail(exit_code::internal_error, "internal error: ", error);
  }
}
