#include "runtime/bt/low_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/types.h"

namespace ring3 {

namespace {

constexpr u64 first = u64{64} * 1024;  // vm.mmap_min_addr keeps everybody off the pages below
constexpr u64 end = (u64{4} << 30) + u64{64} * 1024;

bool reserve() {
  void* const wanted = reinterpret_cast<void*>(first);
  void* const p = mmap(wanted, end - first, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (p == wanted) return true;
  if (p != MAP_FAILED) munmap(p, end - first);
  const int reason = p == MAP_FAILED ? errno : EEXIST;
  throw UserError(std::string("cannot keep the host's low 4 GiB free for translated code: ") +
                  (reason == EEXIST ? "something is mapped there (a program that is not position independent, or setarch -L?)"
                                    : std::strerror(reason)) +
                  "; use --engine interp");
}

}  // namespace

void reserve_low_memory() {
  static const bool done = reserve();
  static_cast<void>(done);
}

}  // namespace ring3
