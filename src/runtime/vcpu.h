// One guest CPU with everything an instruction needs to execute: state, memory, bus, CPU model. The interpreter's rows are free functions
// over it; they return a `Flow` and never throw for guest faults.
#pragma once

#include "base/log.h"
#include "base/types.h"
#include "devices/bus.h"
#include "frontend/insn.h"
#include "guest/cpu_state.h"
#include "guest/fault.h"
#include "runtime/memory/memory.h"

#include <string>

namespace ring3 {

class CpuModel;
class NativeStubs;

// What the run loop does after one interpreted instruction.
enum class Flow : u8 {
  next,     // done: EIP += length (the caller adds it)
  jumped,   // done: the row set EIP (and perhaps CS, CPL, modes)
  again,    // REP made progress and yields for interrupts: EIP stays on the instruction
  fault,    // `Vcpu::fault` describes it; registers are as before the instruction (REP: as after the last full iteration)
  halt,     // HLT: done, EIP already advanced by the caller's rule for `next`
  missing,  // something this version does not have: `Vcpu::missing` says what; the run ends
};

class Vcpu {
 public:
  Vcpu(CpuState& state, Memory& memory, Bus& the_bus, const CpuModel& cpu_model) : s(state), mem(memory), bus(the_bus), model(cpu_model) {}

  CpuState& s;
  Memory& mem;
  Bus& bus;
  const CpuModel& model;
  Fault fault;          // valid after Flow::fault or a false return
  std::string missing;  // valid after Flow::missing
  // Runs x87, MMX and SSE instructions on the host's FPU (runtime/interp/native_stubs.h). Whoever constructs the Vcpu owns and sets it.
  NativeStubs* native = nullptr;
  // Transfers of the usual kind may be done the short way (runtime/system/flat_transfers.h); the engine decides.
  bool shortcuts = false;
  // Where traces go; null: nothing is traced. Set like `native`.
  TraceLog* trace = nullptr;
  [[nodiscard]] bool traces(Trace what) const { return trace != nullptr && trace->on(what); }

  // --- raising ---
  Flow raise(Vector vector) {
    fault = {vector, false, 0, 0};
    return Flow::fault;
  }
  Flow raise(Vector vector, u32 error_code) {
    fault = {vector, true, error_code, 0};
    return Flow::fault;
  }

  // --- segmented memory (runtime/system/segmented.cpp) ---
  // Checks limit, type and rights of the cached descriptor, then paging at the current CPL. False: `fault` is set (#GP(0), #SS(0), #PF).
  [[nodiscard]] bool load_bytes(Seg segment, u32 offset, void* out, unsigned size);
  [[nodiscard]] bool store_bytes(Seg segment, u32 offset, const void* in, unsigned size);
  // For read-modify-write: after success the following store to the same bytes cannot fault.
  [[nodiscard]] bool probe_store(Seg segment, u32 offset, unsigned size);
  // #AC unless the linear address is a multiple of `alignment` (a power of two) or alignment checks are off. The accesses above check their
  // own size; this is for operands that are accessed in pieces.
  [[nodiscard]] bool check_alignment(Seg segment, u32 offset, unsigned alignment);
  // Segment check alone; on success `linear` is the linear address.
  [[nodiscard]] bool linear_address(Seg segment, u32 offset, unsigned size, Access access, u32& linear);

  template <typename T>
  [[nodiscard]] bool load(Seg segment, u32 offset, T& out) {
    return load_bytes(segment, offset, &out, sizeof(T));
  }
  template <typename T>
  [[nodiscard]] bool store(Seg segment, u32 offset, T value) {
    return store_bytes(segment, offset, &value, sizeof(T));
  }

  // Effective address (offset) of the instruction's memory operand, wrapped to the address size.
  [[nodiscard]] u32 effective_address(const Insn& insn) const {
    u32 a = insn.mem.displacement;
    if (insn.mem.base != no_reg) a += s.gpr[insn.mem.base];
    if (insn.mem.index != no_reg) a += s.gpr[insn.mem.index] * insn.mem.scale;
    return insn.address_size == 2 ? (a & 0xFFFFu) : a;
  }

  // --- implicit supervisor accesses: descriptor tables, TSS, inner stacks (linear address, rights of CPL 0 whatever the CPL is) ---
  [[nodiscard]] bool load_system(u32 linear, void* out, unsigned size) { return mem.read(linear, out, size, false, fault); }
  [[nodiscard]] bool store_system(u32 linear, const void* in, unsigned size) { return mem.write(linear, in, size, false, fault); }

  // --- registers ---
  [[nodiscard]] u8 reg8(unsigned n) const { return static_cast<u8>(n < 4 ? s.gpr[n] : s.gpr[n - 4] >> 8); }
  void set_reg8(unsigned n, u8 v) {
    if (n < 4)
      s.gpr[n] = (s.gpr[n] & ~0xFFu) | v;
    else
      s.gpr[n - 4] = (s.gpr[n - 4] & ~0xFF00u) | (u32{v} << 8);
  }
  [[nodiscard]] u16 reg16(unsigned n) const { return static_cast<u16>(s.gpr[n]); }
  void set_reg16(unsigned n, u16 v) { s.gpr[n] = (s.gpr[n] & ~0xFFFFu) | v; }
  [[nodiscard]] u32 reg32(unsigned n) const { return s.gpr[n]; }
  void set_reg32(unsigned n, u32 v) { s.gpr[n] = v; }
  // ESP or SP by SS.B.
  [[nodiscard]] u32 stack_pointer() const { return s.segment(Seg::ss).big() ? s.gpr[esp] : s.gpr[esp] & 0xFFFFu; }
  void set_stack_pointer(u32 v) {
    if (s.segment(Seg::ss).big())
      s.gpr[esp] = v;
    else
      set_reg16(esp, static_cast<u16>(v));
  }
};

// A row's interpreter. Registered per family in runtime/interp/handlers.h.
using Handler = Flow (*)(Vcpu&, const Insn&);

}  // namespace ring3
