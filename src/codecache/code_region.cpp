#include "codecache/code_region.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"
#include "translator/contract.h"

namespace ring3 {

namespace {

[[noreturn]] void refuse(const char* what) {
  throw UserError(std::string("cannot set up the translation cache: ") + what + ": " + std::strerror(errno) +
                  "; give a smaller --cache-size, or raise the limits on memory (ulimit -v)");
}

}  // namespace

CodeRegion::CodeRegion(u64 bytes) : state_size_(contract::state_distance), size_((bytes + 0xFFFF) & ~u64{0xFFFF}) {
  fd_ = memfd_create("ring3-code", MFD_CLOEXEC);
  if (fd_ < 0) refuse("memfd_create");
  if (ftruncate(fd_, static_cast<off_t>(size_)) != 0) refuse("ftruncate");
  void* region = mmap(nullptr, state_size_ + size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (region == MAP_FAILED) refuse("mmap");
  region_ = static_cast<u8*>(region);
  if (mmap(code(), size_, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd_, 0) == MAP_FAILED) refuse("mmap of executable memory");
  if (mprotect(region_ + contract::limit_guard, page_size, PROT_NONE) != 0) refuse("mprotect");
  void* alias = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (alias == MAP_FAILED) refuse("mmap");
  writable_ = static_cast<u8*>(alias);
}

CodeRegion::~CodeRegion() {
  if (region_ != nullptr) munmap(region_, state_size_ + size_);
  if (writable_ != nullptr) munmap(writable_, size_);
  if (fd_ >= 0) close(fd_);
}

}  // namespace ring3
