#include "machine/host_check.h"

#include "base/error.h"
#include "base/file.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <cstdio>

namespace ring3 {
namespace {

constexpr unsigned long hwcap2_fsgsbase = 1u << 1;  // Linux uapi asm/hwcap2.h

}  // namespace

HostFacts read_host_facts() {
  HostFacts facts;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) facts.bmi2 = (b & bit_BMI2) != 0;
  facts.fsgsbase = (::getauxval(AT_HWCAP2) & hwcap2_fsgsbase) != 0;
  facts.memfd = Fd(::memfd_create("ring3-check", MFD_CLOEXEC)).valid();
  utsname name{};
  if (::uname(&name) == 0 && std::sscanf(name.release, "%u.%u", &facts.kernel_major, &facts.kernel_minor) != 2) facts.kernel_major = 0;
  return facts;
}

void check_host(const HostFacts& facts) {
  if (!facts.bmi2) throw UserError("this host's CPU lacks BMI2, which emitted code uses; run ring3 on Intel Haswell, AMD Zen or newer");
  if (facts.kernel_major < 5 || (facts.kernel_major == 5 && facts.kernel_minor < 9))
    throw UserError(
        fmt::format("this host runs Linux {}.{}, ring3 needs 5.9 or newer; upgrade the kernel", facts.kernel_major, facts.kernel_minor));
  if (!facts.fsgsbase)
    throw UserError("this host does not let programs use FSGSBASE; boot it without 'nofsgsbase', or use a CPU that has it");
  if (!facts.memfd) throw UserError("this host refuses memfd_create; allow that system call in the container's seccomp profile");
}

}  // namespace ring3
