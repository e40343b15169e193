#include "cli/run.h"

#include "base/duration.h"
#include "base/error.h"
#include "base/terminal.h"
#include "cli/exit_code.h"
#include "inspect/cache_listing.h"
#include "inspect/state_report.h"
#include "inspect/stats_report.h"
#include "machine/host_check.h"

#include <fmt/format.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace ring3 {
namespace {

// A reader of stdout that makes no progress for this long at the end of a run has lost interest.
constexpr u64 drain_patience = 2'000'000'000;

struct Ending {
  int status;
  std::string_view text;
  bool abnormal;  // the last guest state is worth showing
};

Ending describe(const RunResult& result) {
  switch (result.end) {
    case RunEnd::power_off: return {exit_code::power_off, "power-off", false};
    case RunEnd::debug_exit: return {static_cast<int>(result.value & 0xFF), "debug exit", false};
    case RunEnd::reset: return {exit_code::reset, "the guest reset the machine", false};
    case RunEnd::triple_fault: return {exit_code::triple_fault, "triple fault", true};
    case RunEnd::halted_for_good: return {exit_code::halted, "halted for good: HLT with interrupts off", true};
    case RunEnd::timeout: return {exit_code::timeout, "timeout", true};
    case RunEnd::missing_feature: return {exit_code::missing_feature, "the guest needs something that ring3 does not have", true};
    case RunEnd::lockstep_difference: return {exit_code::lockstep_difference, "the engines differ", true};
    case RunEnd::quit_key: return {exit_code::quit_key, "quit", false};
    case RunEnd::signal: return {-static_cast<int>(result.value), "ended by a signal", false};
  }
  return {exit_code::internal_error, "unknown ending", true};
}

void to_stderr(std::string_view text) { static_cast<void>(write_all(STDERR_FILENO, text)); }

void report_state(const Machine& machine) {
  to_stderr(state_report(machine.cpu(), machine.memory(), machine.ram(), machine.stats().last_exceptions));
}

void report(const RunResult& result, const Machine& machine) {
  const Ending ending = describe(result);
  if (result.end == RunEnd::power_off || result.end == RunEnd::debug_exit) return;
  to_stderr(fmt::format("ring3: {}{}{}\n", ending.text, result.detail.empty() ? "" : ": ", result.detail));
  if (const Block* block = machine.difference()) to_stderr(block_listing(*block, *machine.code_cache(), machine.ram()));
  if (ending.abnormal) report_state(machine);
}

void dump_cache(const Machine& machine, NewFile& file) {
  // Blocks are small: some thousand of them a write.
  constexpr size_t write_at = size_t{1} << 20;
  std::string text;
  bool good = true;
  write_cache_listing(*machine.code_cache(), machine.ram(), [&](std::string_view piece) {
    text += piece;
    if (text.size() < write_at) return true;
    good = file.write(text);
    text.clear();
    return good;
  });
  if (!good || !file.write(text) || !file.commit())
    to_stderr(fmt::format("ring3: --dump-cache: {}; there is no listing\n", std::strerror(errno)));
}

}  // namespace

int run_machine(const Options& options) {
  check_host(read_host_facts());
  TraceLog trace(options.trace, options.trace_file);
  MachineConfig config = options.machine;
  config.board.console = {STDIN_FILENO, STDOUT_FILENO, ::isatty(STDIN_FILENO) == 1};
  std::optional<NewFile> dump;
  if (!options.dump_cache.empty()) dump.emplace(options.dump_cache, "--dump-cache");
  Machine machine(config, trace);

  RunResult result;
  const u64 started = monotonic_now();
  {
    RawTerminal terminal(STDIN_FILENO);
    machine.board().on_suspend([&terminal] { terminal.suspend(); }, [&terminal] { terminal.resume(); });
    try {
      result = machine.run([&](const RunResult& why) {
        terminal.suspend();  // a raw terminal shows line feeds as such
        report(why, machine);
        to_stderr("ring3: starting the guest again\n");
        terminal.resume();
      });
    } catch (const UserError&) {
      throw;  // a file that changed before a reboot
    } catch (const std::exception& error) {
      machine.board().drain_console(drain_patience);
      terminal.suspend();
      to_stderr(fmt::format("ring3: internal error: {}\n", error.what()));
      report_state(machine);
      return exit_code::internal_error;
    }
    if (!machine.board().drain_console(drain_patience)) to_stderr("ring3: output was lost: nobody reads stdout\n");
  }
  trace.flush();
  report(result, machine);
  if (dump) dump_cache(machine, *dump);
  if (options.stats) {
    const BoardCounts counts{machine.board().unknown_ports(), machine.board().unknown_memory(), machine.board().debug_bytes_lost()};
    to_stderr(stats_report(machine.stats(), counts, static_cast<double>(monotonic_now() - started) / 1e9));
  }
  return describe(result).status;
}

}  // namespace ring3
