// Lockstep checking: what the interpreter says about a block, kept until emitted code has run the same block on the same state.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/types.h"
#include "guest/cpu_state.h"
#include "runtime/memory/memory.h"

namespace ring3 {

class GuestRam;

class LockstepRecord final : public WriteJournal {
 public:
  explicit LockstepRecord(GuestRam& ram) : ram_(ram) {}

  void clear();
  // State before the next instruction (after the last one: the end state). `with_fpu`: compare the FPU image too.
  void snapshot(const CpuState& s, bool with_fpu);
  [[nodiscard]] u32 snapshots() const { return static_cast<u32>(snapshots_.size()); }
  // Takes all recorded writes back.
  void roll_back();
  void record(PhysAddr address, const u8* before, const u8* after, unsigned size) override;

  // Compares state (with `eip` for its EIP, without the MXCSR bits `mxcsr_ignored`) and memory with what they were before instruction
  // `index`. Empty: no difference; else one line each, of memory for 64 bytes at most. Memory is as it was afterwards.
  [[nodiscard]] std::string compare(u32 index, const CpuState& s, u32 eip, u32 mxcsr_ignored);

 private:
  [[nodiscard]] std::string compare_memory(u32 index);

  static constexpr std::size_t largest_write = 16;
  struct Snapshot {
    std::array<u32, 8> gpr{};
    u32 eip = 0;
    u32 eflags = 0;
  };
  struct Write {
    u64 address = 0;
    u32 index = 0;  // of the instruction
    u8 size = 0;
    std::array<u8, largest_write> before{};
    std::array<u8, largest_write> after{};
  };

  GuestRam& ram_;
  std::vector<Snapshot> snapshots_;
  std::vector<FxImage> fpu_;  // beside snapshots_, for blocks with FPU code
  std::vector<Write> writes_;
  std::vector<std::array<u8, largest_write>> emitted_;  // scratch: what memory holds at each of them
};

}  // namespace ring3
