// A kernel file through the loader of Multiboot kernels, with address fields and as ELF.
#include "fuzz/load.h"

#include <cstddef>

extern "C" int LLVMFuzzerTestOneInput(const ring3::u8* data, std::size_t size) {
  const std::span<const ring3::u8> kernel(data, size);
  const auto header = ring3::find_multiboot_header(kernel);
  if (!header) return -1;
  ring3::fuzz::load_hostile(kernel, [&](const ring3::LoadContext& context) { return ring3::load_multiboot(context, *header); });
  return 0;
}
