#include "host_process.h"

#include "host_cpu.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>

namespace ring3::hostcpu {

namespace {

// Counts of cases come in, the same counts go out when they are done; end of file ends the process.
[[noreturn]] void serve(Slot* slots, int in, int out) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int status = 0;
  try {
    HostCpu host;
    u32 count = 0;
    while (read(in, &count, sizeof count) == sizeof count) {
      for (u32 i = 0; i < count; ++i) {
        Slot& slot = slots[i];
        std::memcpy(host.data(), slot.before.data(), data_size);
        host.run(slot.test, slot.expected);
        std::memcpy(slot.after.data(), host.data(), data_size);
      }
      if (write(out, &count, sizeof count) != sizeof count) break;
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "hostcpu_test: {}\n", e.what());
    status = 1;
  }
  std::fflush(stderr);
  _exit(status);
}

}  // namespace

HostProcess::HostProcess() {
  constexpr std::size_t bytes = sizeof(Slot) * batch;
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  slots_ = static_cast<Slot*>(memory);
  std::uninitialized_default_construct_n(slots_, batch);
  std::array<int, 2> in{};
  std::array<int, 2> out{};
  if (pipe(in.data()) != 0 || pipe(out.data()) != 0) throw std::runtime_error("pipe failed");
  child_ = fork();
  if (child_ < 0) throw std::runtime_error("fork failed");
  if (child_ == 0) {
    close(in[1]);
    close(out[0]);
    serve(slots_, in[0], out[1]);
  }
  close(in[0]);
  close(out[1]);
  to_child_ = in[1];
  from_child_ = out[0];
  std::signal(SIGPIPE, SIG_IGN);  // a dead child is reported by `run`
}

HostProcess::~HostProcess() {
  close(to_child_);
  close(from_child_);
  waitpid(child_, nullptr, 0);
  munmap(slots_, sizeof(Slot) * batch);
}

void HostProcess::run(u32 count) {
  u32 done = 0;
  if (write(to_child_, &count, sizeof count) == sizeof count && read(from_child_, &done, sizeof done) == sizeof done && done == count)
    return;
  throw std::runtime_error("the process that runs cases on the host CPU has died");
}

}  // namespace ring3::hostcpu
