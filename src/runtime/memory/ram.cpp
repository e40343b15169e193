#include "runtime/memory/ram.h"

#include "base/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace ring3 {

namespace {

[[noreturn]] void refuse(u64 bytes, const char* what, int reason) {
  const char* advice = "use less --memory";
  if (reason == EFBIG) advice = "raise the file size limit (ulimit -f) or use less --memory";
  if (reason == EMFILE || reason == ENFILE) advice = "raise the limit of open files (ulimit -n)";
  if (reason == ENOMEM) advice = "raise the address space limit (ulimit -v), allow overcommit (vm.overcommit_memory), or use less --memory";
  throw UserError(fmt::format("guest memory: cannot {} {} MiB: {}; {}", what, bytes >> 20, std::strerror(reason), advice));
}

}  // namespace

GuestRam::GuestRam(u64 bytes) : size_(bytes) {
  if (bytes == 0 || bytes > max_size || bytes % granule != 0) {
    throw UserError(
        fmt::format("guest memory: {} bytes is not a multiple of 1 MiB from 1 MiB to 3 GiB; choose --memory in that range", bytes));
  }
  file_ = MemFd::create("guest-ram", bytes);
  if (!file_) refuse(bytes, "create a file of", errno);
  mapping_ = Mapping::reserve(bytes + 2 * guard_size);
  if (!mapping_) refuse(bytes, "reserve address space for", errno);
  if (!mapping_.map_file(guard_size, bytes, file_.fd(), 0)) refuse(bytes, "map", errno);
  base_ = mapping_.data() + guard_size;
}

}  // namespace ring3
