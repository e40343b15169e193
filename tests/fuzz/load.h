// Hostile kernel files through a loader into small guest memory, and what must hold afterwards.
#pragma once

#include "base/error.h"
#include "fuzz/invariant.h"
#include "machine/loaders/loader.h"
#include "machine/memory_map.h"
#include "runtime/memory/ram.h"

#include <sys/mman.h>
#include <unistd.h>
#include <string_view>

namespace ring3::fuzz {

// `load` is one of the formats' functions. A kernel file is loaded into RAM, or refused by one line.
template <typename Load>
void load_hostile(std::span<const u8> kernel, Load load) {
  using namespace low_memory;
  static GuestRam ram(u64{4} << 20);
  static const BootOptions options{.kernel = "fuzz", .initrd = {}, .modules = {}, .append = "console=ttyS0"};
  // Pages that nobody touched are holes of the memfd: much quicker than to look at every byte.
  const auto untouched = [&](u64 from, u64 to) {
    const off_t data = ::lseek(ram.fd(), static_cast<off_t>(from), SEEK_DATA);
    return data < 0 || static_cast<u64>(data) >= to;
  };
  Placement placement(ram.size());
  try {
    const EntryState entry = load(LoadContext{ram, placement, options, kernel, "kernel 'fuzz'"});
    require(entry.eip < ram.size(), "the kernel is entered in memory");
    require(entry.esi < ram.size() && entry.ebx < ram.size(), "its parameters lie in memory");
  } catch (const UserError& error) {
    const std::string_view text = error.what();
    require(!text.empty() && text.find('\n') == std::string_view::npos, "one line says what is wrong");
  }
  require(untouched(0, first_free) && untouched(video_hole, extended), "loaders keep off the vectors and the firmware");
  require(::madvise(ram.base(), ram.size(), MADV_REMOVE) == 0, "memory can be emptied");
}

}  // namespace ring3::fuzz
