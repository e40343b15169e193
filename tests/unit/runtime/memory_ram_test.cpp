// Guest RAM: sizes, refusals, cost of untouched memory.
#include "base/error.h"
#include "memory_fixture.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <string>

namespace ring3::test {
namespace {

std::string refusal(u64 bytes) {
  try {
    GuestRam ram(bytes);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(GuestRamTest, SizesOutOfRangeAreRefusedInOneLine) {
  for (const u64 bytes : {u64{0}, u64{1}, (u64{1} << 20) - 1, (u64{1} << 20) + 4096, (u64{3} << 30) + (u64{1} << 20), ~u64{0}}) {
    const std::string message = refusal(bytes);
    EXPECT_NE(message.find("--memory"), std::string::npos) << bytes;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(GuestRamTest, ThreeGiBCostNothingUntilTouched) {
  GuestRam ram(u64{3} << 30);
  Mapping other;
  struct stat before {
  }, after{};
  ASSERT_EQ(fstat(ram.fd(), &before), 0);
  EXPECT_EQ(before.st_blocks, 0);
  CpuState cpu;
  ByteBus bus;
  Memory memory(cpu, ram, bus);
  Fault fault;
  const u32 last = 0xBFFFFFFC;
  u32 value = 0x12345678;
  ASSERT_TRUE(memory.write(last, &value, 4, false, fault));
  EXPECT_EQ(std::memcmp(ram.base() + last, &value, 4), 0);
  ASSERT_TRUE(memory.read(last + 4, &value, 4, false, fault));
  EXPECT_EQ(value, ~0u);
  EXPECT_EQ(bus.log.size(), 1u);
  ASSERT_EQ(fstat(ram.fd(), &after), 0);
  EXPECT_LE(after.st_blocks * 512, 2 << 20);  // one page, or one huge page where the host prefers those
}

TEST(GuestRamTest, GuardsSurroundTheMapping) {
  GuestRam ram(1 << 20);
  unsigned char resident[1];
  // Reserved (mincore knows the range), but no access is possible: reading it through a system call fails instead of killing the test.
  for (u8* guard : {ram.base() - 4096, ram.base() - GuestRam::guard_size, ram.base() + ram.size(),
                    ram.base() + ram.size() + GuestRam::guard_size - 4096}) {
    EXPECT_EQ(mincore(guard, 4096, resident), 0);
    EXPECT_NE(memfd_create(reinterpret_cast<const char*>(guard), 0), 0);
    EXPECT_EQ(errno, EFAULT);
  }
}

TEST(GuestRamTest, HostLimitsAreNamed) {
  const auto with_limit = [](int which, rlim_t value) {
    rlimit old{};
    getrlimit(static_cast<__rlimit_resource_t>(which), &old);
    rlimit low = old;
    low.rlim_cur = value;
    setrlimit(static_cast<__rlimit_resource_t>(which), &low);
    const std::string message = refusal(u64{1} << 30);
    setrlimit(static_cast<__rlimit_resource_t>(which), &old);
    return message;
  };
  EXPECT_NE(with_limit(RLIMIT_FSIZE, 1 << 20).find("ulimit -f"), std::string::npos);
  EXPECT_NE(with_limit(RLIMIT_NOFILE, 0).find("ulimit -n"), std::string::npos);
#ifndef __SANITIZE_ADDRESS__  // its shadow alone is above any limit
  EXPECT_NE(with_limit(RLIMIT_AS, u64{512} << 20).find("ulimit -v"), std::string::npos);
#endif
}

#ifndef __SANITIZE_ADDRESS__
TEST_F(MemoryTest, AContextThatFindsNoAddressSpaceIsAUserError) {
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &old), 0);
  rlimit low = old;
  low.rlim_cur = u64{1} << 30;
  ASSERT_EQ(setrlimit(RLIMIT_AS, &low), 0);
  std::string message;
  try {
    memory.select_context(0);
  } catch (const UserError& error) {
    message = error.what();
  }
  ASSERT_EQ(setrlimit(RLIMIT_AS, &old), 0);
  EXPECT_NE(message.find("ulimit -v"), std::string::npos);
  EXPECT_NE(memory.select_context(0), 0u);
}
#endif

}  // namespace
}  // namespace ring3::test
