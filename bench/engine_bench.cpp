// Leaving emitted code and coming back, by small loops of guest code. Items are the loops' turns.
#include "devices/bus.h"
#include "runtime/bt/bt_engine.h"
#include "runtime/interp/native_stubs.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"

#include <benchmark/benchmark.h>

#include <initializer_list>
#include <new>

namespace ring3 {
namespace {

constexpr u32 code_at = 0x1000;
constexpr u32 turns = 10'000;

// A write to port F4h ends the run.
class StopBus : public Bus {
 public:
  u32 io_read(u16, unsigned) override { return ~0u; }
  void io_write(u16 port, unsigned, u32) override { stop |= port == 0xF4; }
  u64 mmio_read(PhysAddr, unsigned) override { return ~u64{0}; }
  void mmio_write(PhysAddr, unsigned, u64) override {}
  bool interrupt_requested() const override { return false; }
  u8 acknowledge_interrupt() override { return 0; }
  void service() override {}
  std::optional<Nanoseconds> next_deadline() const override { return {}; }
  void wait_for_event() override {}
  bool stop_requested() const override { return stop; }
  void set_ferr(bool) override {}
  bool stop = false;
};

// Flat 32-bit code at CPL 0, without paging.
struct Machine {
  Machine()
      : region(u64{4} << 20),
        cpu(*new (region.state_area()) CpuState),
        ram(u64{16} << 20),
        memory(cpu, ram, bus),
        model(CpuModel::make_default()),
        vcpu(cpu, memory, bus, model) {
    vcpu.native = &native;
    cpu.cr0 = cr0::pe | cr0::et;
    for (auto& segment : cpu.seg) segment = {0x10, 0xC093, 0, 0xFFFFFFFF};
    cpu.segment(Seg::cs) = {0x08, 0xC09B, 0, 0xFFFFFFFF};
    engine = std::make_unique<BtEngine>(vcpu, region, BtOptions{});
  }

  // mov ecx, turns; the body; dec ecx; jnz to the body; out F4h, al
  void loop(benchmark::State& state, std::initializer_list<u8> body) {
    u32 at = code_at;
    const auto put = [&](std::initializer_list<u8> bytes) {
      for (const u8 byte : bytes) *ram.at({at++}) = byte;
    };
    put({0xB9, turns & 0xFF, turns >> 8, 0, 0});
    put(body);
    put({0x49, 0x75, static_cast<u8>(-3 - static_cast<int>(body.size())), 0xE6, 0xF4});
    for (auto _ : state) {
      bus.stop = false;
      cpu.eip = code_at;
      benchmark::DoNotOptimize(engine->run());
    }
    state.SetItemsProcessed(state.iterations() * turns);
  }

  StopBus bus;
  CodeRegion region;
  CpuState& cpu;
  GuestRam ram;
  Memory memory;
  CpuModel model;
  Vcpu vcpu;
  NativeStubs native;
  std::unique_ptr<BtEngine> engine;
};

// The loop alone, to be taken off the others.
void empty_loop(benchmark::State& state) { Machine().loop(state, {}); }
BENCHMARK(empty_loop);

// IN AL, 80h: out of the block, one instruction interpreted, back into the block.
void exit_and_enter(benchmark::State& state) { Machine().loop(state, {0xE4, 0x80}); }
BENCHMARK(exit_and_enter);

// MOV AL, [F0000000h]: nothing is there, so that the table never has an entry.
void host_fault(benchmark::State& state) { Machine().loop(state, {0xA0, 0x00, 0x00, 0x00, 0xF0}); }
BENCHMARK(host_fault);

// MOV CR3, EAX; MOV AL, [5000h]: a flush and a miss in the soft table.
void flush_and_miss(benchmark::State& state) { Machine().loop(state, {0x31, 0xC0, 0x0F, 0x22, 0xD8, 0xA0, 0x00, 0x50, 0x00, 0x00}); }
BENCHMARK(flush_and_miss);

}  // namespace
}  // namespace ring3
