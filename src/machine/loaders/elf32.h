// ELF executables for i386 (System V ABI, chapters 4 and 5), as kernels.
#pragma once

#include "machine/loaders/loader.h"

namespace ring3 {

struct LoadedImage {
  u32 entry = 0;  // physical
  u64 end = 0;    // first physical address above everything loaded
};

// Loads the PT_LOAD segments at their physical addresses and zeroes what the file does not fill. Throws UserError.
[[nodiscard]] LoadedImage load_elf32(const LoadContext& context);

}  // namespace ring3
