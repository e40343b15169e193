// One installed block as text, guest instruction by guest instruction.
#pragma once

#include "base/types.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace ring3 {

class CodeCache;
struct Block;

struct HostLine {
  u32 offset = 0;  // from the block's first host byte
  std::string text;
};

// A guest instruction with the host code that belongs to it.
struct ListedInsn {
  std::string guest;  // linear address, bytes, text; "(entry)" and "(exits)" for what belongs to no instruction
  std::vector<HostLine> host;
};

// Names the block that starts at a host address; empty if none does.
using NameOfBlock = std::function<std::string(u64 host)>;

// `guest` are the bytes that stand at the block's guest address now (fewer if they are not in RAM). If they do not make up the
// instructions that were translated any more, the text says so. Host places appear by name: stubs, "+0x40" inside the block,
// "exit c0101234" for the way out to that address, and what `name_of_block` knows.
[[nodiscard]] std::vector<ListedInsn> list_block(const Block& block, const CodeCache& cache, std::span<const u8> guest,
                                                 const NameOfBlock& name_of_block);

// The names of the mode bits, separated by spaces; unknown bits in hexadecimal.
[[nodiscard]] std::string mode_names(u32 bits);

}  // namespace ring3
