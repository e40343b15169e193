// blessed_test FOLDER: translates the snippets of every .txt file there and compares with the blessed text.
// blessed_test --bless FOLDER: writes what the translator makes now into the files.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "blessed/snippets.h"
#include "codecache/code_cache.h"
#include "inspect/block_listing.h"
#include "translator/translator.h"

namespace {

using namespace ring3;
using blessed::Snippet;
using blessed::SnippetFile;

// What a snippet becomes: a line of sizes, then each guest instruction with its host code indented below it.
std::vector<std::string> translate(const Snippet& snippet) {
  CodeRegion region(64 << 10);
  CodeCache cache(region);
  const TranslatorOptions options;
  Translator translator(options, cache.stubs(), cache.base());
  const Decoder decoder;

  const BlockKey key{snippet.at, snippet.at, snippet.mode, snippet.cs_base, snippet.cs_limit};
  const u32 size = static_cast<u32>(snippet.bytes.size());
  GuestBlock guest;
  build_block(
      decoder, key, snippet.bytes, std::min(size, page_size - (snippet.at & page_mask)), 64, [](const Insn&, u32) { return true; }, guest);
  if (guest.length != size) throw UserError(fmt::format("'{}': only {} of {} bytes make up a block", snippet.name, guest.length, size));
  SiteForms forms;
  for (const u32 offset : snippet.misaligned) forms.at(key.physical + offset).unaligned = true;
  for (const u32 offset : snippet.calling) forms.at(key.physical + offset).calls = true;
  TranslatedBlock translated;
  translator.translate(guest, forms, cache.next_offset(), nullptr, translated);
  const u64 second_page = (key.physical & ~u64{page_mask}) + page_size;
  const Block& block = cache.install(guest, second_page, translated, nullptr);

  std::vector<std::string> out;
  out.push_back(fmt::format("{} bytes to {}{}{}", size, translated.code.size(), block.uses_fpu ? ", uses the FPU" : "",
                            block.crosses_page ? ", crosses the page" : ""));
  for (const ListedInsn& insn : list_block(block, cache, snippet.bytes, [](u64) { return std::string(); })) {
    out.push_back(insn.guest);
    for (const HostLine& line : insn.host) out.push_back(fmt::format("  {:4x}  {}", line.offset, line.text));
  }
  return out;
}

void show_difference(const std::string& file, const Snippet& snippet, const std::vector<std::string>& now) {
  const std::vector<std::string>& then = snippet.text;
  fmt::print("{}: '{}' became other code; scripts/bless accepts it\n", file, snippet.name);
  const auto [old_stop, new_stop] = std::mismatch(then.begin(), then.end(), now.begin(), now.end());
  constexpr long shown = 8;
  for (auto it = old_stop; it != then.end() && it - old_stop < shown; ++it) fmt::print("  - {}\n", *it);
  for (auto it = new_stop; it != now.end() && it - new_stop < shown; ++it) fmt::print("  + {}\n", *it);
}

std::vector<std::string> snippet_files(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) throw UserError(fmt::format("{}: no snippets", folder));
  return files;
}

int run(const std::string& folder, bool bless) {
  unsigned snippets = 0;
  unsigned changed = 0;
  for (const std::string& path : snippet_files(folder)) {
    SnippetFile file = blessed::read_snippets(path);
    for (Snippet& snippet : file.snippets) {
      ++snippets;
      std::vector<std::string> now = translate(snippet);
      if (now == snippet.text) continue;
      ++changed;
      if (!bless) show_difference(path, snippet, now);
      snippet.text = std::move(now);
    }
    if (bless) std::ofstream(path, std::ios::trunc) << blessed::to_text(file);
  }
  fmt::print("{} snippets, {} {}\n", snippets, changed, bless ? "blessed anew" : "differ");
  return bless || changed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool bless = !arguments.empty() && arguments.front() == "--bless";
  if (arguments.size() != (bless ? 2u : 1u)) {
    fmt::print(stderr, "usage: blessed_test [--bless] FOLDER\n");
    return 2;
  }
  try {
    return run(arguments.back(), bless);
  } catch (const std::exception& error) {
    fmt::print(stderr, "blessed_test: {}\n", error.what());
    return 2;
  }
}
