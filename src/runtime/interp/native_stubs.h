// Runs single x87, MMX and SSE instructions on the host's own FPU, on a guest FPU image.
//
// The guest's instruction is legacy-encoded and means the same in 64-bit mode, so the host is the interpreter: each distinct encoding
// becomes one stub (opcode, registers and immediate as in the guest; the memory operand becomes a bounce buffer; a general register
// becomes EAX). The number of encodings a guest can make is large, so the arena is bounded and starts again when full.
#pragma once

#include "base/types.h"
#include "frontend/insn.h"
#include "guest/cpu_state.h"

#include <array>
#include <unordered_map>

namespace ring3 {

// What a stub reads and writes besides the FPU image.
struct alignas(64) NativeFrame {
  std::array<u8, 128> memory{};  // the memory operand: up to 108 bytes (FNSAVE)
  u64 flags = 0;                 // in and out: EFLAGS status bits, for rows that read or write them
  u32 eax = 0;                   // in and out: the explicit general register, whatever its number; implicit EAX
  u32 edx = 0;                   // in: implicit EDX (PCMPESTRx)
  u32 ecx = 0;                   // out: implicit ECX (PCMPxSTRI)
  u32 host_mxcsr = 0;            // the stub's own use
};

class NativeStubs {
 public:
  // Throws UserError when the host refuses executable memory.
  NativeStubs();
  ~NativeStubs();
  NativeStubs(const NativeStubs&) = delete;
  NativeStubs& operator=(const NativeStubs&) = delete;

  // Executes `insn` (a row of family x87, mmx or sse whose memory operand, if any, is in `frame().memory`) on `image`.
  // The caller guarantees that the instruction cannot trap on the host: every exception is masked in `image.mxcsr`, and with an x87
  // exception pending in `image.fsw` only non-waiting x87 instructions are run (unmasked x87 exceptions that the instruction itself
  // raises become pending in the image and do not trap). FIP, FDP and FOP of the image are undefined after x87 and MMX instructions.
  // About 25 ns for rows on XMM registers, 150 ns for x87 and MMX (FXRSTOR and FXSAVE).
  void run(const Insn& insn, FxImage& image);

  // Passes `image` through the host's registers, so that bits the silicon does not keep become what it keeps.
  void normalize(FxImage& image);

  // XMM registers alone, or also x87 registers (MMX ones included), in which case FIP, FDP and FOP are lost.
  [[nodiscard]] bool needs_whole_fpu(const Insn& insn) const;

  [[nodiscard]] NativeFrame& frame() { return frame_; }

  // Bytes of the arena, for tests of its exhaustion.
  static constexpr u32 arena_size = 1u << 20;
  [[nodiscard]] u64 generations() const { return generations_; }

 private:
  using Stub = void (*)(NativeFrame*, FxImage*);
  void probe_cvtpi2ps();
  [[nodiscard]] Stub find(u64 key, const Insn* insn);

  NativeFrame frame_;
  std::unordered_map<u64, Stub> stubs_;
  u8* writable_ = nullptr;
  u8* executable_ = nullptr;
  u32 used_ = 0;
  u64 generations_ = 1;
  bool cvtpi2ps_enters_mmx_ = false;  // also with a memory operand: CPUs differ
};

}  // namespace ring3
