#include "runtime/bt/lockstep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "runtime/bt/bt_engine.h"
#include "runtime/memory/ram.h"

namespace ring3 {

namespace {

constexpr std::array<const char*, 8> register_names{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
constexpr std::size_t x87_register_bytes = 10;
constexpr u32 mxcsr_flags = 0x3F;
constexpr std::size_t most_differences = 64;  // bytes of memory that are reported

std::string hex(const u8* bytes, std::size_t n) {
  std::string out;
  for (std::size_t i = 0; i < n; ++i) out += fmt::format("{}{:02x}", i == 0 ? "" : " ", bytes[i]);
  return out;
}

std::string compare_fpu(const FxImage& want, const FxImage& got, u32 mxcsr_ignored) {
  std::string out;
  const auto line = [&](const char* name, u32 w, u32 g) {
    if (w != g) out += fmt::format("  {:7} interpreted {:08x}  emitted {:08x}\n", name, w, g);
  };
  line("fcw", want.fcw, got.fcw);
  line("fsw", want.fsw, got.fsw);
  line("ftw", want.ftw, got.ftw);
  line("fip", static_cast<u32>(want.fip), static_cast<u32>(got.fip));
  line("fdp", static_cast<u32>(want.fdp), static_cast<u32>(got.fdp));
  line("fop", want.fop, got.fop);
  line("mxcsr", want.mxcsr & ~mxcsr_ignored, got.mxcsr & ~mxcsr_ignored);
  for (unsigned i = 0; i < want.st.size(); ++i) {
    if (std::memcmp(want.st[i].data(), got.st[i].data(), x87_register_bytes) != 0) {
      out += fmt::format("  st{}     interpreted {}  emitted {}\n", i, hex(want.st[i].data(), 10), hex(got.st[i].data(), 10));
    }
  }
  for (unsigned i = 0; i < 8; ++i) {
    if (want.xmm[i] != got.xmm[i]) {
      out += fmt::format("  xmm{}    interpreted {}  emitted {}\n", i, hex(want.xmm[i].data(), 16), hex(got.xmm[i].data(), 16));
    }
  }
  return out;
}

bool is_string(Row row) { return row != Row::invalid && row_info(row).family == Family::string; }

}  // namespace

void LockstepRecord::clear() {
  snapshots_.clear();
  fpu_.clear();
  writes_.clear();
}

void LockstepRecord::snapshot(const CpuState& s, bool with_fpu) {
  Snapshot& shot = snapshots_.emplace_back();
  shot.gpr = s.gpr;
  shot.eip = s.eip;
  shot.eflags = s.eflags;
  if (with_fpu) fpu_.push_back(s.fpu);
}

void LockstepRecord::record(PhysAddr address, const u8* before, const u8* after, unsigned size) {
  Write& w = writes_.emplace_back();
  w.address = address.value;
  w.index = snapshots() - 1;
  w.size = static_cast<u8>(size);
  std::memcpy(w.before.data(), before, size);
  std::memcpy(w.after.data(), after, size);
}

void LockstepRecord::roll_back() {
  for (auto w = writes_.rbegin(); w != writes_.rend(); ++w) std::memcpy(ram_.at({w->address}), w->before.data(), w->size);
}

std::string LockstepRecord::compare(u32 index, const CpuState& s, u32 eip, u32 mxcsr_ignored) {
  const Snapshot& want = snapshots_[index];
  std::string out;
  const auto line = [&](const char* name, u32 w, u32 g) {
    if (w != g) out += fmt::format("  {:7} interpreted {:08x}  emitted {:08x}\n", name, w, g);
  };
  for (unsigned i = 0; i < want.gpr.size(); ++i) line(register_names[i], want.gpr[i], s.gpr[i]);
  line("eip", want.eip, eip);
  line("eflags", want.eflags, s.eflags);
  if (!fpu_.empty()) out += compare_fpu(fpu_[index], s.fpu, mxcsr_ignored);

  return out + compare_memory(index);
}

// Writes may overlap, and a REP makes millions: what memory should hold is made there, for as long as it is compared.
std::string LockstepRecord::compare_memory(u32 index) {
  emitted_.resize(writes_.size());
  for (std::size_t i = 0; i < writes_.size(); ++i) std::memcpy(emitted_[i].data(), ram_.at({writes_[i].address}), writes_[i].size);
  roll_back();
  for (const Write& w : writes_) {
    if (w.index >= index) break;
    std::memcpy(ram_.at({w.address}), w.after.data(), w.size);
  }
  std::map<u64, std::string> differences;  // by address: places that were written twice are reported once
  for (std::size_t i = 0; i < writes_.size(); ++i) {
    const u8* const want = ram_.at({writes_[i].address});
    for (unsigned k = 0; k < writes_[i].size; ++k) {
      const u64 address = writes_[i].address + k;
      if (want[k] != emitted_[i][k] && differences.size() < most_differences)
        differences[address] =
            fmt::format("  memory at physical {:09x}: interpreted {:02x}  emitted {:02x}\n", address, want[k], emitted_[i][k]);
    }
  }
  for (std::size_t i = 0; i < writes_.size(); ++i) std::memcpy(ram_.at({writes_[i].address}), emitted_[i].data(), writes_[i].size);
  std::string out;
  for (const auto& [address, text] : differences) out += text;
  return out;
}

// Interprets `block` as far as emitted code would go, takes everything back, and leaves the record for `check_lockstep`.
// False: the block changed itself or its mode; what was interpreted stands.
bool BtEngine::rehearse(Block& block) {
  CpuState& s = v_.s;
  // Without FPU code in the block, the FPU image at the end of CpuState does not change: most of the copy is saved.
  static_assert(offsetof(CpuState, fpu) + sizeof(FxImage) == sizeof(CpuState));
  const std::size_t kept = block.uses_fpu ? sizeof(CpuState) : offsetof(CpuState, fpu);
  std::memcpy(saved_state_.get(), &s, kept);
  const u64 generation = cache_.generation();
  record_->clear();
  v_.mem.set_journal(record_.get());
  bool changed = false;
  PointReader points(block.points);
  InsnPoint point = points.next();
  for (u32 k = 0; k < block.insn_count() && point.emitted; ++k) {
    record_->snapshot(s, block.uses_fpu);
    const u64 deliveries = stepper_.deliveries();
    const u32 eip = s.eip;
    StepOutcome outcome = StepOutcome::ok;
    do {
      outcome = stepper_.step();
    } while (outcome == StepOutcome::ok && s.eip == eip && is_string(stepper_.last_row()) && stepper_.deliveries() == deliveries);
    changed = cache_.generation() != generation;
    if (changed || outcome != StepOutcome::ok || stepper_.deliveries() != deliveries) break;
    // Emitted code leaves before an instruction that changes the mode.
    const bool stays = mode_is(block.key);
    point = points.next();
    const bool falls_through = stays && s.eip == block.key.linear + point.guest_offset - block.key.cs_base;
    // A call of the next instruction leaves all the same.
    if (!falls_through || stepper_.last_row() == Row::call || k + 1 == block.insn_count() || !point.emitted) {
      record_->snapshot(s, block.uses_fpu);
      break;
    }
  }
  v_.mem.set_journal(nullptr);
  if (changed) return false;
  record_->roll_back();
  const EmittedLink link = s.link;
  std::memcpy(static_cast<void*>(&s), saved_state_.get(), kept);
  s.link = link;
  return true;
}

BtEngine::Next BtEngine::enter_lockstep(Block& block) {
  using contract::ExitReason;
  CpuState& s = v_.s;
  if (block.point(0).emitted && !rehearse(block)) return Next::go_on;
  const u64 generation = cache_.generation();
  run_emitted(cache_.base() + block.host_offset, false);
  if (block.point(0).emitted) {
    u32 index = record_->snapshots() - 1;
    u32 eip = s.eip;
    const auto reason = static_cast<ExitReason>(s.link.exit_reason);
    CodeCache::Site site{&block, index};
    if (reason == ExitReason::interpret) site = cache_.interpret_site(static_cast<u32>(s.link.exit_argument));
    if (reason == ExitReason::host_fault) site = cache_.find_host(guard_->last().pc);
    if (reason == ExitReason::miss) site = cache_.find_host(s.link.exit_argument - 1);
    if (reason == ExitReason::interpret || reason == ExitReason::host_fault || reason == ExitReason::miss) {
      index = site.point;
      eip = guest_eip(block, index);
    }
    const bool in_window = reason == ExitReason::host_fault && (block.key.mode & mode::window) != 0;
    std::string difference;
    if (site.block != &block || index >= record_->snapshots()) {
      difference = fmt::format("  emitted code left at instruction {}, the interpreter before {}\n", index, record_->snapshots());
    } else if (!block.point(index).rep_string || !(reason == ExitReason::interpret || in_window)) {
      // (A REP may be handed over, or fault in a window, in the middle; the interpreter finishes it.)
      // An unmasked SIMD exception has set its flags when it faults (SDM vol. 1, 11.5.2); the interpreter is still before it.
      const bool simd = reason == ExitReason::host_fault && guard_->last().signal == SIGFPE;
      difference = record_->compare(index, s, eip, simd ? mxcsr_flags : 0);
    }
    if (!difference.empty()) {
      stop_ = {StopReason::lockstep_difference, fmt::format("block at {:08x}, before its instruction {} of {}:\n{}", block.key.linear,
                                                            index, block.insn_count(), difference)};
      difference_ = &block;
      return Next::stop;
    }
    ++counters_.lockstep_blocks;
  }
  const Next next = handle_exit();
  if (cache_.generation() == generation) drop_resume();
  resume_ = 0;
  return next;
}

}  // namespace ring3
