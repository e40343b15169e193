#include "host_process.h"

#include "host_cpu.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>

namespace ring3::hostcpu {

namespace {

struct Request {
  u32 first = 0;
  u32 count = 0;
};

}  // namespace

struct HostProcess::Shared {
  Batch batch;
  volatile u32 progress = 0;
};

// Requests come in, the same requests go out when they are done; end of file ends the process.
void HostProcess::serve(int in, int out) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int status = 0;
  try {
    HostCpu host;
    Request request;
    while (read(in, &request, sizeof request) == sizeof request) {
      host.run(shared_->batch, request.first, request.count, shared_->progress);
      if (write(out, &request, sizeof request) != sizeof request) break;
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "hostcpu_test: {}\n", e.what());
    status = 1;
  }
  std::fflush(stderr);
  _exit(status);
}

HostProcess::HostProcess() {
  void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
  shared_ = new (memory) Shared;
  std::array<int, 2> in{};
  std::array<int, 2> out{};
  if (pipe(in.data()) != 0 || pipe(out.data()) != 0) throw std::runtime_error("pipe failed");
  std::fflush(stdout);
  child_ = fork();
  if (child_ < 0) throw std::runtime_error("fork failed");
  if (child_ == 0) {
    close(in[1]);
    close(out[0]);
    serve(in[0], out[1]);
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
  munmap(shared_, sizeof(Shared));
}

Batch& HostProcess::batch() { return shared_->batch; }

u32 HostProcess::progress() const { return shared_->progress; }

void HostProcess::run(u32 first, u32 count) {
  constexpr int patience = 30'000;  // ms; a batch takes some milliseconds
  const Request request{first, count};
  Request done;
  if (write(to_child_, &request, sizeof request) == sizeof request) {
    pollfd wait{from_child_, POLLIN, 0};
    const int ready = poll(&wait, 1, patience);
    if (ready == 0) {
      kill(child_, SIGKILL);
      throw std::runtime_error("a program does not end on the host CPU");
    }
    if (read(from_child_, &done, sizeof done) == sizeof done) return;
  }
  throw std::runtime_error("the process that runs programs on the host CPU has died");
}

}  // namespace ring3::hostcpu
