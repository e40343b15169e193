#include "blessed/snippets.h"

#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <sstream>
#include <string_view>

#include "base/error.h"
#include "guest/block_key.h"

namespace blessed {
namespace {

using namespace ring3;

constexpr u32 kernel_mode =
    mode::code32 | mode::stack32 | mode::cpl0 | mode::protected_mode | mode::cs_flat | mode::ds_es_ss_flat | mode::osfxsr;

u32 hex(const std::string& word) {
  u32 value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, 16);
  if (error != std::errc{} || end != word.data() + word.size()) throw UserError(fmt::format("'{}' is not a hexadecimal number", word));
  return value;
}

u32 change_mode(u32 bits, const std::string& word) {
  if (word == "kernel") return bits;
  if (word == "user") return (bits & ~mode::cpl0) | mode::user;
  if (word == "ring1") return bits & ~mode::cpl0;
  if (word == "limited") return bits & ~mode::ds_es_ss_flat;
  if (word == "expand-down") return (bits & ~mode::ds_es_ss_flat) | mode::expand_down;
  if (word == "limited-fs") return bits | mode::fs_gs_checked;
  if (word == "window") return bits | mode::window;
  if (word == "low-window") return bits | mode::window | mode::low_window;
  if (word == "stack16") return bits & ~mode::stack32;
  if (word == "nosse") return bits & ~mode::osfxsr;
  throw UserError(fmt::format("'{}' is not a mode word", word));
}

void read_line(Snippet& snippet, const std::string& line) {
  if (line.starts_with('|')) {
    snippet.text.push_back(line.size() > 2 ? line.substr(2) : std::string());
    return;
  }
  if (!snippet.text.empty()) {
    if (line.empty()) return;
    throw UserError("something stands between the blessed text and the next snippet");
  }
  if (!line.empty()) snippet.head.push_back(line);
  if (line.starts_with('#')) return;
  std::istringstream words(line);
  std::string first;
  words >> first;
  std::string word;
  if (first == "mode") {
    while (words >> word) snippet.mode = change_mode(snippet.mode, word);
  } else if (first == "at") {
    words >> word;
    snippet.at = hex(word);
  } else if (first == "code") {
    snippet.mode &= ~mode::cs_flat;
    words >> word;
    snippet.cs_base = hex(word);
    words >> word;
    snippet.cs_limit = hex(word);
  } else if (first == "calls") {
    while (words >> word) snippet.calling.push_back(hex(word));
  } else if (first == "misaligned") {
    while (words >> word) snippet.misaligned.push_back(hex(word));
  } else {
    for (std::istringstream bytes(line); bytes >> word;) snippet.bytes.push_back(static_cast<u8>(hex(word)));
  }
}

void put_lines(std::string& out, const std::vector<std::string>& lines, std::string_view mark) {
  for (const std::string& line : lines) out += fmt::format("{}{}\n", line.empty() ? mark.substr(0, mark.find(' ')) : mark, line);
}

}  // namespace

SnippetFile read_snippets(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw UserError(fmt::format("{}: cannot open", path));
  SnippetFile file;
  std::string line;
  for (u32 number = 1; std::getline(in, line); ++number) {
    try {
      if (line.starts_with("== ")) {
        Snippet& snippet = file.snippets.emplace_back();
        snippet.name = line.substr(3);
        snippet.mode = kernel_mode;
        snippet.head.push_back(line);
      } else if (file.snippets.empty()) {
        if (!line.empty()) file.head.push_back(line);
      } else {
        read_line(file.snippets.back(), line);
      }
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}:{}: {}", path, number, error.what()));
    }
  }
  return file;
}

std::string to_text(const SnippetFile& file) {
  std::string out;
  put_lines(out, file.head, "");
  for (const Snippet& snippet : file.snippets) {
    out += '\n';
    put_lines(out, snippet.head, "");
    put_lines(out, snippet.text, "| ");
  }
  return out;
}

}  // namespace blessed
