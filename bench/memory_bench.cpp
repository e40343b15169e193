// Page walk, soft-table fill, flush and the interpreter's fast path.
#include "devices/bus.h"
#include "guest/block_key.h"
#include "guest/cpu_state.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"

#include <benchmark/benchmark.h>

#include <cstring>

namespace ring3 {
namespace {

class NoBus : public Bus {
 public:
  u32 io_read(u16, unsigned) override { return ~0u; }
  void io_write(u16, unsigned, u32) override {}
  u64 mmio_read(PhysAddr, unsigned) override { return ~u64{0}; }
  void mmio_write(PhysAddr, unsigned, u64) override {}
  bool interrupt_requested() const override { return false; }
  u8 acknowledge_interrupt() override { return 0; }
  void service() override {}
  std::optional<Nanoseconds> next_deadline() const override { return std::nullopt; }
  void wait_for_event() override {}
  bool stop_requested() const override { return false; }
  void set_ferr(bool) override {}
};

// 64 MiB of RAM; linear 0x40000000 + n pages map to RAM from 16 MiB on, by small pages with A and D set.
struct Machine {
  static constexpr u32 base = 0x40000000;
  static constexpr u32 pages = 8192;

  Machine() : ram(u64{64} << 20), memory(cpu, ram, bus) {
    cpu.cr0 = cr0::pe | cr0::pg | cr0::wp;
    cpu.cr4 = cr4::pse | cr4::pge;
    cpu.cr3 = 0x10000;
    for (u32 page = 0; page < pages; ++page) {
      const u32 linear = base + page * page_size;
      put(0x10000 + (linear >> 22) * 4, (0x20000 + (page >> 10) * page_size) | 0x67);
      put(0x20000 + page * 4, (0x1000000 + page * page_size) | 0x67);
    }
    memory.select_context(mode::cpl0);
  }
  void put(u32 at, u32 value) { std::memcpy(ram.at({at}), &value, 4); }

  CpuState cpu;
  GuestRam ram;
  NoBus bus;
  Memory memory;
};

// A miss: walk, fill, fill ahead. Pages far apart, so that nothing was filled ahead.
void translate_and_fill(benchmark::State& state) {
  Machine m;
  Fault fault;
  const u32 count = static_cast<u32>(state.range(0));
  for (auto _ : state) {
    for (u32 i = 0; i < count; ++i)
      benchmark::DoNotOptimize(m.memory.translate(Machine::base + i * 8 * page_size, Access::write, false, fault));
    state.PauseTiming();
    m.memory.flush_all();
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * count);
}
BENCHMARK(translate_and_fill)->Arg(32)->Arg(1024);

// Miss and flush together: the price of one page group across a change of the mode.
void fill_and_flush(benchmark::State& state) {
  Machine m;
  Fault fault;
  const u32 count = static_cast<u32>(state.range(0));
  for (auto _ : state) {
    for (u32 i = 0; i < count; ++i)
      benchmark::DoNotOptimize(m.memory.translate(Machine::base + i * 8 * page_size, Access::write, false, fault));
    m.memory.flush_all();
  }
  state.SetItemsProcessed(state.iterations() * count);
}
BENCHMARK(fill_and_flush)->Arg(32)->Arg(1024);

void walk_only(benchmark::State& state) {
  Machine m;
  Fault fault;
  u32 i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.memory.translate_fetch(Machine::base + (i++ * 257 % Machine::pages) * page_size, false, fault));
  }
}
BENCHMARK(walk_only);

void read_hit(benchmark::State& state) {
  Machine m;
  Fault fault;
  u32 value = 0, i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.memory.read(Machine::base + (i++ * 64 & 0x1FFFF), &value, 4, false, fault));
    benchmark::DoNotOptimize(value);
  }
}
BENCHMARK(read_hit);

void write_on_code_page(benchmark::State& state) {
  Machine m;
  Fault fault;
  m.memory.watch_code({0x1000000});
  const u32 value = 0;
  for (auto _ : state) benchmark::DoNotOptimize(m.memory.write(Machine::base, &value, 4, false, fault));
}
BENCHMARK(write_on_code_page);

void watch_and_unwatch(benchmark::State& state) {
  Machine m;
  Fault fault;
  const u32 value = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.memory.write(Machine::base, &value, 4, false, fault));
    m.memory.watch_code({0x1000000});
    m.memory.unwatch_code({0x1000000});
  }
}
BENCHMARK(watch_and_unwatch);

void switch_contexts(benchmark::State& state) {
  Machine m;
  for (auto _ : state) {
    benchmark::DoNotOptimize(m.memory.select_context(mode::user));
    benchmark::DoNotOptimize(m.memory.select_context(mode::cpl0));
  }
}
BENCHMARK(switch_contexts);

}  // namespace
}  // namespace ring3
