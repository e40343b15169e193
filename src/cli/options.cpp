#include "cli/options.h"

#include "base/duration.h"
#include "base/error.h"
#include "base/file.h"
#include "base/sanitizer.h"
#include "base/size.h"
#include "cli/exit_code.h"
#include "frontend/family_names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <iostream>
#include <vector>

namespace ring3 {
namespace {

constexpr const char* version = "ring3 " RING3_VERSION;

// Texts as they stand on the command line, before they are understood.
struct Texts {
  std::string memory = "256M";
  std::string cpu = "core";
  std::string timeout;
  std::string debug_exit;
  std::string engine;
  std::string check;
  std::string cache_size;
  std::string contexts_size;
  std::string max_block;
  std::string windows_after;
  std::string interpret;
  std::string opt;
  std::vector<std::string> modules;
  bool no_reboot = false;
  bool no_chain = false;
};

constexpr u64 smallest_cache = u64{256} << 10;
constexpr u64 largest_cache = u64{1} << 30;
constexpr u64 largest_contexts = u64{4} << 30;

std::string exit_statuses() {
  using namespace exit_code;
  return fmt::format(
      "Exit status:\n"
      "  {:<4} the guest switched the machine off\n"
      "  odd  the guest wrote v to the --debug-exit port: (v << 1) | 1, of which the system keeps 8 bits\n"
      "  {:<4} wrong usage or unusable input\n"
      "  {:<4} reset, with --no-reboot\n"
      "  {:<4} triple fault, with --no-reboot\n"
      "  {:<4} halted for good: HLT with interrupts off\n"
      "  {:<4} the guest needs something that ring3 does not have\n"
      "  {:<4} internal error\n"
      "  {:<4} quit by Ctrl-A x\n"
      "  {:<4} --check found a difference\n"
      "  {:<4} --timeout passed\n"
      "A run that a signal ends, ends by that signal.\n\n"
      "On a terminal: Ctrl-A x quits, Ctrl-A h helps, Ctrl-A Ctrl-A sends Ctrl-A.",
      power_off, usage, reset, triple_fault, halted, missing_feature, internal_error, quit_key, lockstep_difference, timeout);
}

u16 parse_port(const std::string& text) {
  const bool hex = text.starts_with("0x") || text.starts_with("0X");
  const char* begin = text.data() + (hex ? 2 : 0);
  const char* end = text.data() + text.size();
  u16 port = 0;
  const auto [stop, error] = std::from_chars(begin, end, port, hex ? 16 : 10);
  if (error != std::errc{} || stop != end || port > 0xFFFC)
    throw UserError(fmt::format("--debug-exit {}: not a port; write a number up to 0xfffc, like 0x501", in_quotes(text)));
  return port;
}

u32 parse_max_block(const std::string& text) {
  constexpr u32 largest = BtOptions{}.max_block;
  u32 number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || stop != text.data() + text.size() || number < 1 || number > largest)
    throw UserError(fmt::format("--max-block {}: not a number of instructions from 1 to {}", in_quotes(text), largest));
  return number;
}

u32 parse_windows_after(const std::string& text) {
  constexpr u32 largest = 1'000'000;
  u32 number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || stop != text.data() + text.size() || number > largest)
    throw UserError(fmt::format("--windows-after {}: not a number of timer ticks from 0 to {}", in_quotes(text), largest));
  return number;
}

u64 parse_cache_size(const std::string& text) {
  const u64 bytes = parse_size(text, "--cache-size");
  if (bytes < smallest_cache || bytes > largest_cache)
    throw UserError(fmt::format("--cache-size {}: must lie between {} and {}", in_quotes(text), format_size(smallest_cache),
                                format_size(largest_cache)));
  return bytes;
}

u64 parse_contexts_size(const std::string& text) {
  const u64 bytes = parse_size(text, "--contexts-size");
  if (bytes > largest_contexts)
    throw UserError(fmt::format("--contexts-size {}: must be at most {}", in_quotes(text), format_size(largest_contexts)));
  return bytes;
}

CpuName parse_cpu(const std::string& text) {
  const std::optional<CpuName> name = find_cpu(text);
  if (!name) throw UserError(fmt::format("--cpu {}: no such CPU model; choose {}, or list", in_quotes(text), cpu_names()));
  return *name;
}

// Names separated by commas, to a bit per Family.
u32 parse_families(std::string_view list) {
  u32 families = 0;
  for (;;) {
    const std::string_view name = list.substr(0, list.find(','));
    const auto found = std::ranges::find(family_names, name);
    if (found == family_names.end())
      throw UserError(fmt::format("--interpret {}: no such instruction family; choose from {}", in_quotes(std::string(name)),
                                  fmt::join(family_names, ",")));
    families |= 1u << (found - family_names.begin());
    if (name.size() == list.size()) return families;
    list.remove_prefix(name.size() + 1);
  }
}

constexpr std::string_view off_prefix = "no-";

std::string optimization_names() {
  std::vector<std::string> names;
  names.reserve(optimization_table.size());
  for (const OptimizationInfo& info : optimization_table) names.push_back(fmt::format("{}{}", off_prefix, info.name));
  return fmt::format("{}", fmt::join(names, ","));
}

std::string optimization_list() {
  std::string text;
  for (const OptimizationInfo& info : optimization_table) text += fmt::format("no-{:<14} {}\n", info.name, info.text);
  return text;
}

// no-NAME, separated by commas.
Optimizations parse_optimizations(std::string_view list) {
  Optimizations out;
  for (;;) {
    const std::string_view name = list.substr(0, list.find(','));
    const auto found = std::ranges::find_if(optimization_table, [name](const OptimizationInfo& info) {
      return name.starts_with(off_prefix) && name.substr(off_prefix.size()) == info.name;
    });
    if (found == optimization_table.end())
      throw UserError(fmt::format("--opt {}: nothing that can be switched off; choose from {}, or list", in_quotes(std::string(name)),
                                  optimization_names()));
    out.switch_off(static_cast<Optimization>(found - optimization_table.begin()));
    if (name.size() == list.size()) return out;
    list.remove_prefix(name.size() + 1);
  }
}

// The options that mean something to one engine only.
void understand_engine(const Texts& texts, Options& options) {
  MachineConfig& machine = options.machine;
  const std::pair<const char*, bool> translating[] = {{"--check", !texts.check.empty()},
                                                      {"--cache-size", !texts.cache_size.empty()},
                                                      {"--max-block", !texts.max_block.empty()},
                                                      {"--windows-after", !texts.windows_after.empty()},
                                                      {"--no-chain", texts.no_chain},
                                                      {"--interpret", !texts.interpret.empty()},
                                                      {"--opt", !texts.opt.empty()},
                                                      {"--dump-cache", !options.dump_cache.empty()}};
  const auto given = [](const auto& option) { return option.second; };
  if (texts.engine == "interp") {
    machine.engine = EngineKind::interp;
  } else if (texts.engine == "bt" || (texts.engine.empty() && std::any_of(std::begin(translating), std::end(translating), given))) {
    machine.engine = EngineKind::bt;
  } else if (!texts.engine.empty()) {
    throw UserError(fmt::format("--engine {}: no such engine; choose bt or interp", in_quotes(texts.engine)));
  }
  if (!texts.check.empty() && texts.check != "lockstep")
    throw UserError(fmt::format("--check {}: no such check; choose lockstep", in_quotes(texts.check)));
  if (machine.engine == EngineKind::interp) {
    for (const auto& [name, present] : translating) {
      if (present) throw UserError(fmt::format("{}: has no meaning with --engine interp; leave one of them out", name));
    }
  }
  machine.bt.lockstep = !texts.check.empty();
  machine.bt.chain = !texts.no_chain;
  machine.bt.count = options.stats || !options.dump_cache.empty();
  if (!texts.cache_size.empty()) machine.cache_bytes = parse_cache_size(texts.cache_size);
  if (!texts.interpret.empty()) machine.bt.translator.interpreted_families = parse_families(texts.interpret);
  if (!texts.opt.empty()) machine.bt.translator.optimizations = parse_optimizations(texts.opt);
  if (!texts.windows_after.empty()) machine.bt.window_after = parse_windows_after(texts.windows_after);
  if (!texts.max_block.empty()) machine.bt.max_block = parse_max_block(texts.max_block);
}

void define(CLI::App& run, Options& options, Texts& texts) {
  BootOptions& boot = options.machine.boot;
  // The last of several values counts, so that a script can put the user's options behind its own.
  const auto option = [&run](const char* name, auto& value, const char* help) { return run.add_option(name, value, help)->take_last(); };
  option("--kernel", boot.kernel, "Linux bzImage or Multiboot 1 kernel, 32-bit x86")->required()->type_name("FILE");
  option("--initrd", boot.initrd, "initial RAM disk of a Linux kernel")->type_name("FILE");
  run.add_option("--module", texts.modules, "Multiboot module, again for more; arguments may follow the name after a space")
      ->type_name("FILE")
      ->expected(1)
      ->take_all();
  option("--append", boot.append, "kernel command line")->type_name("STRING");
  option("--memory", texts.memory, "guest memory, 2M to 3G (256M)")->type_name("SIZE");
  option("--cpu", texts.cpu, "CPU model: 486, pentium, pentium2, pentium3 or core (the default); list shows them")
      ->type_name("NAME")
      ->each([](const std::string& name) {
        if (name != "list") return;
        std::cout << cpu_list();
        throw CLI::Success();
      });
  option("--timeout", texts.timeout, "end the run after this time, like 60s or 2m")->type_name("TIME");
  run.add_flag("--no-reboot", texts.no_reboot, "end the run at a reset or triple fault instead of starting the guest again");
  option("--debug-exit", texts.debug_exit, "isa-debug-exit at this port and the three after it")->type_name("PORT");
  option("--engine", texts.engine,
         address_sanitizer ? "interp (interprets); this build cannot run bt" : "bt (translates; the default) or interp (interprets)")
      ->type_name("NAME");
  option("--check", texts.check, "lockstep: run every block in both engines and stop at the first difference")->type_name("NAME");
  option("--cache-size", texts.cache_size, "memory for translated code (32M)")->type_name("SIZE");
  option("--contexts-size", texts.contexts_size,
         "memory for tables of address spaces that are not at work (a quarter of the guest's, 24M to 128M)")
      ->type_name("SIZE");
  option("--windows-after", texts.windows_after,
         "map guest memory for real for code that was running at this many timer ticks (3; 0: for all code)")
      ->type_name("N");
  option("--max-block", texts.max_block, "translate at most this many guest instructions at a time")->type_name("N");
  run.add_flag("--no-chain", texts.no_chain, "return to the runtime after every block");
  option("--interpret", texts.interpret,
         "interpret these instruction families, like string,x87, wherever they occur: to find a wrong translation")
      ->type_name("LIST");
  option("--opt", texts.opt, "switch mechanisms off that make the run faster, like no-sensitive; list shows them")
      ->type_name("LIST")
      ->each([](const std::string& names) {
        if (names != "list") return;
        std::cout << optimization_list();
        throw CLI::Success();
      });
  run.add_flag("--stats", options.stats, "print figures about the run to stderr at its end");
  option("--trace", options.trace, fmt::format("write traces: all, or some of {}", fmt::join(trace_names, ",")).c_str())->type_name("LIST");
  option("--trace-file", options.trace_file, "where traces go (stderr)")->type_name("FILE");
  option("--dump-cache", options.dump_cache, "write every translated block, guest and host code side by side, at the end")
      ->type_name("FILE");
  run.footer(exit_statuses());
}

void understand(const Texts& texts, Options& options) {
  MachineConfig& machine = options.machine;
  machine.ram_bytes = parse_size(texts.memory, "--memory");
  if (!texts.contexts_size.empty()) machine.contexts_bytes = parse_contexts_size(texts.contexts_size);
  machine.reboot = !texts.no_reboot;
  machine.cpu = parse_cpu(texts.cpu);
  understand_engine(texts, options);
  if (!texts.timeout.empty()) machine.board.timeout = parse_duration(texts.timeout, "--timeout");
  if (!texts.debug_exit.empty()) machine.board.debug_exit = parse_port(texts.debug_exit);
  for (const std::string& text : texts.modules) machine.boot.modules.push_back({text.substr(0, text.find(' ')), text});
  if (!options.trace_file.empty() && options.trace.empty())
    throw UserError(fmt::format("--trace-file {}: nothing is traced; say what with --trace", in_quotes(options.trace_file)));
}

}  // namespace

std::optional<Options> parse_command_line(int argc, char** argv) {
  Options options;
  Texts texts;
  CLI::App app{"ring3 runs unmodified 32-bit x86 kernels in a user process, by dynamic binary translation.", "ring3"};
  app.set_version_flag("--version", version);
  app.require_subcommand(1);
  CLI::App& run = *app.add_subcommand("run", "Run a guest; its serial port is this terminal (stdin and stdout).");
  define(run, options, texts);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    app.exit(help_or_version);
    return std::nullopt;
  } catch (const CLI::ParseError& wrong) {
    std::string what = wrong.what();
    std::replace(what.begin(), what.end(), '\n', ' ');
    throw UserError(what + "; see 'ring3 run --help'");
  }
  understand(texts, options);
  return options;
}

}  // namespace ring3
