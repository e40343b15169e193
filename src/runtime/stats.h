// What an engine can tell about a run: the figures behind --stats and the history in the last-state report. Plain values, filled on demand.
#pragma once

#include "base/types.h"
#include "frontend/rows.h"

#include <array>
#include <string>
#include <vector>

namespace ring3 {

// One exception delivered to the guest, as the report of an abnormal end lists it.
struct ExceptionRecord {
  u8 vector = 0;
  bool has_error_code = false;
  u32 error_code = 0;
  u32 cs = 0;  // selector and EIP of the instruction that raised it
  u32 eip = 0;
  u32 address = 0;  // CR2 of a page fault
};

// The last exceptions delivered, oldest first when read. No allocation per exception.
class ExceptionLog {
 public:
  static constexpr unsigned capacity = 16;

  void add(const ExceptionRecord& record) { records_[count_++ % capacity] = record; }
  [[nodiscard]] std::vector<ExceptionRecord> last() const {
    std::vector<ExceptionRecord> out;
    for (u64 i = count_ > capacity ? count_ - capacity : 0; i < count_; ++i) out.push_back(records_[i % capacity]);
    return out;
  }

 private:
  std::array<ExceptionRecord, capacity> records_{};
  u64 count_ = 0;
};

struct ExitCount {
  std::string reason;
  u64 count = 0;
};

struct EngineStats {
  // --- instructions executed ---
  u64 emitted = 0;                                      // guest instructions that ran as emitted code
  std::array<u64, row_count + 1> interpreted_by_row{};  // the last element counts invalid opcodes
  // --- the cache ---
  u64 blocks = 0;              // translated so far
  u64 guest_instructions = 0;  // translated so far
  u64 guest_bytes = 0;         // guest code behind them
  u64 host_bytes = 0;          // host code made from it
  u64 cache_used = 0;          // bytes in use now
  u64 cache_size = 0;
  u64 cache_flushes = 0;       // times the full cache was emptied
  u64 blocks_moved = 0;        // to another linear address
  u64 blocks_invalidated = 0;  // by writes to code pages
  // --- ways from block to block ---
  u64 chained_jumps = 0;         // direct exits patched to their target
  u64 indirect_lookups = 0;      // indirect jumps that missed the jump table
  std::vector<ExitCount> exits;  // from emitted code to the runtime, by reason
  // --- memory tables: what happened to them, by name ---
  std::vector<ExitCount> memory;
  // --- exceptions and interrupts delivered to the guest ---
  std::array<u64, 256> delivered{};
  std::vector<ExceptionRecord> last_exceptions;  // oldest first
  // --- host time in nanoseconds; 0: not measured ---
  u64 time_in_cache = 0;
  u64 time_translating = 0;
  u64 time_in_runtime = 0;

  [[nodiscard]] u64 interpreted() const {
    u64 sum = 0;
    for (const u64 n : interpreted_by_row) sum += n;
    return sum;
  }
};

}  // namespace ring3
