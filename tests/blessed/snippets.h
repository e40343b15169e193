// The files of blessed translations: guest code, and the host code it becomes.
//
//   # a comment, kept as it is
//   == name of the snippet
//   mode user limited        optional; words below, "kernel" is the default
//   at c0101ffd              optional: linear address, c0101000 by default
//   code 1000 ffff           optional: base and limit of CS, 0 and 4 GiB by default
//   calls 0 3                optional: those that look up by call, because they missed the tables
//   misaligned 0 3           optional: guest offsets of instructions that were seen to access memory misaligned
//   8b 03 c3                 guest bytes, on as many lines as they need
//   | mov eax, [r9+r8*1]     the blessed text, behind everything else
//
// Mode words: kernel (flat segments, 32-bit, CPL 0, SSE on), user (CPL 3), ring1 (CPL 1), limited (DS, ES and SS
// with base and limit), expand-down (one of them), limited-fs (FS or GS), window, stack16, nosse (CR4.OSFXSR clear).
#pragma once

#include <string>
#include <vector>

#include "base/types.h"

namespace blessed {

using ring3::u32;
using ring3::u8;

struct Snippet {
  std::string name;
  std::vector<std::string> head;  // the lines before the blessed text, as they stand in the file
  std::vector<std::string> text;  // the blessed text without its mark
  u32 mode = 0;
  u32 at = 0xC0101000;
  u32 cs_base = 0;
  u32 cs_limit = 0xFFFFFFFF;
  std::vector<u32> misaligned;
  std::vector<u32> calling;
  std::vector<u8> bytes;
};

struct SnippetFile {
  std::vector<std::string> head;  // before the first snippet
  std::vector<Snippet> snippets;
};

// Throws UserError with file and line.
[[nodiscard]] SnippetFile read_snippets(const std::string& path);
[[nodiscard]] std::string to_text(const SnippetFile& file);

}  // namespace blessed
