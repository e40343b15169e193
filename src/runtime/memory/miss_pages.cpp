#include "runtime/memory/miss_pages.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "translator/contract.h"

namespace ring3 {

MissPages::MissPages() : pages_(MemFd::create("ring3-misses", stretch)) {
  constexpr u64 piece = u64{64} * 1024;
  const std::vector<u64> entries(piece / sizeof(u64), contract::no_entry);
  bool done = static_cast<bool>(pages_);
  for (u64 at = 0; done && at < stretch; at += piece)
    done = pwrite(pages_.fd(), entries.data(), piece, static_cast<off_t>(at)) == static_cast<ssize_t>(piece);
  if (!done) throw UserError(std::string("memory tables: cannot make a file of 1 MiB in memory: ") + std::strerror(errno));
}

bool MissPages::map(const Mapping& mapping, u64 offset, u64 size) const {
  for (u64 at = 0; at < size; at += stretch)
    if (!mapping.map_copy(offset + at, stretch, pages_.fd(), 0)) return false;
  return true;
}

}  // namespace ring3
