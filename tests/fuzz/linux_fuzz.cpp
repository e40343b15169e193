// A kernel file through the loader of Linux images.
#include "fuzz/load.h"

#include <cstddef>

extern "C" int LLVMFuzzerTestOneInput(const ring3::u8* data, std::size_t size) {
  const std::span<const ring3::u8> kernel(data, size);
  if (!ring3::is_linux_image(kernel)) return -1;
  ring3::fuzz::load_hostile(kernel, ring3::load_linux);
  return 0;
}
