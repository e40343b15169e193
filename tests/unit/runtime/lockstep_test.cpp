// What lockstep compares memory with (runtime/bt/lockstep.h): the interpreter's writes, taken back and made again as far as emitted code
// came.
#include "runtime/bt/lockstep.h"

#include "guest/cpu_state.h"
#include "runtime/memory/ram.h"

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace ring3 {
namespace {

class Lockstep : public ::testing::Test {
 protected:
  // The interpreter's next instruction begins.
  void begin() { record.snapshot(*cpu, false); }
  // It writes.
  void interpret(u64 address, std::initializer_list<u8> bytes) {
    const std::vector<u8> before(ram.at({address}), ram.at({address}) + bytes.size());
    put(address, bytes);
    record.record({address}, before.data(), std::vector<u8>(bytes).data(), static_cast<unsigned>(bytes.size()));
  }
  // Two instructions whose writes overlap.
  void rehearse_two() {
    begin();
    interpret(0x100, {11, 12, 13, 14});
    begin();
    interpret(0x102, {23, 24, 25, 26});
    begin();
    record.roll_back();
  }
  void put(u64 address, std::initializer_list<u8> bytes) { std::memcpy(ram.at({address}), std::vector<u8>(bytes).data(), bytes.size()); }
  [[nodiscard]] std::string differences(u32 index) { return record.compare(index, *cpu, cpu->eip, 0); }
  [[nodiscard]] std::vector<u8> bytes(u64 address, u32 count) { return {ram.at({address}), ram.at({address}) + count}; }

  GuestRam ram{u64{1} << 20};
  std::unique_ptr<CpuState> cpu = std::make_unique<CpuState>();
  LockstepRecord record{ram};
};

TEST_F(Lockstep, TakesBackWhatWasWrittenSeveralTimes) {
  put(0x100, {1, 2, 3, 4, 5, 6});
  rehearse_two();
  EXPECT_EQ(bytes(0x100, 6), (std::vector<u8>{1, 2, 3, 4, 5, 6}));
}

TEST_F(Lockstep, ComparesAsFarAsEmittedCodeCame) {
  rehearse_two();
  EXPECT_EQ(differences(0), "");
  put(0x100, {11, 12, 13, 14});
  EXPECT_EQ(differences(1), "");
  EXPECT_EQ(bytes(0x100, 6), (std::vector<u8>{11, 12, 13, 14, 0, 0})) << "memory is as it was";
  EXPECT_NE(differences(0), "");
  EXPECT_NE(differences(2), "");
  put(0x102, {23, 24, 25, 26});
  EXPECT_EQ(differences(2), "");
  EXPECT_NE(differences(1), "");
}

TEST_F(Lockstep, TellsEachByteOnce) {
  begin();
  interpret(0x100, {1, 2, 3, 4});
  interpret(0x100, {5, 6, 7, 8});
  begin();
  record.roll_back();
  put(0x100, {5, 6, 9, 8});
  EXPECT_EQ(differences(1), "  memory at physical 000000102: interpreted 07  emitted 09\n");
  EXPECT_EQ(bytes(0x100, 4), (std::vector<u8>{5, 6, 9, 8}));
}

// A REP that moves a kernel's image: the comparison must not take the square of that.
TEST_F(Lockstep, ComparesMillionsOfWrites) {
  begin();
  for (u32 i = 0; i < 1'000'000; ++i) interpret(i, {static_cast<u8>(i)});
  begin();
  record.roll_back();
  EXPECT_NE(differences(1), "");
  for (u32 i = 0; i < 1'000'000; ++i) put(i, {static_cast<u8>(i)});
  EXPECT_EQ(differences(1), "");
}

TEST_F(Lockstep, ComparesRegisters) {
  begin();
  cpu->gpr[ebx] = 5;
  begin();
  EXPECT_EQ(differences(1), "");
  EXPECT_EQ(differences(0), "  ebx     interpreted 00000000  emitted 00000005\n");
}

}  // namespace
}  // namespace ring3
