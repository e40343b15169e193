// A flat protected-mode guest whose instructions are given as bytes and run through decoder and handler, one at a time.
#pragma once

#include "frontend/decoder.h"
#include "guest/cpu_state.h"
#include "runtime/interp/handlers.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"
#include "runtime/vcpu.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <initializer_list>
#include <vector>

namespace ring3::test {

// Ports that remember what was written and answer from a list; an interrupt line to set by hand.
class PortBus : public Bus {
 public:
  struct Access {
    u16 port;
    unsigned size;
    u32 value;
    bool operator==(const Access&) const = default;
  };

  u32 io_read(u16 port, unsigned size) override {
    reads.push_back({port, size, 0});
    if (answers.empty()) return ~0u;
    const u32 value = answers.front();
    answers.pop_front();
    return value;
  }
  void io_write(u16 port, unsigned size, u32 value) override {
    writes.push_back({port, size, value});
    if (port == stop_port) stop = true;
  }
  u64 mmio_read(PhysAddr, unsigned) override { return ~u64{0}; }
  void mmio_write(PhysAddr, unsigned, u64) override {}
  bool interrupt_requested() const override { return !vectors.empty(); }
  u8 acknowledge_interrupt() override {
    const u8 vector = vectors.front();
    vectors.pop_front();
    return vector;
  }
  void service() override { ++services; }
  std::optional<Nanoseconds> next_deadline() const override { return std::nullopt; }
  void wait_for_event() override {
    ++waits;
    if (waits > 1000) stop = true;
    if (wake_vector >= 0) vectors.push_back(static_cast<u8>(wake_vector));
    wake_vector = -1;
  }
  bool stop_requested() const override { return stop; }
  void set_ferr(bool) override {}

  std::vector<Access> reads;
  std::vector<Access> writes;
  std::deque<u32> answers;
  std::deque<u8> vectors;
  u16 stop_port = 0xF4;
  bool stop = false;
  int wake_vector = -1;
  int waits = 0;
  int services = 0;
};

inline constexpr SegmentCache flat_code{0x08, 0xC09B, 0, 0xFFFFFFFF};
inline constexpr SegmentCache flat_data{0x10, 0xC093, 0, 0xFFFFFFFF};

class InterpTest : public ::testing::Test {
 protected:
  static constexpr u32 code_at = 0x10000;
  static constexpr u32 data_at = 0x20000;
  static constexpr u32 stack_at = 0x30000;
  static constexpr u32 directory = 0x40000;
  static constexpr u32 page_table = 0x41000;

  InterpTest() : ram(4u << 20), memory(cpu, ram, bus), model(CpuModel::make(~0u, ~0u, ~0u, ~0u, 0)), v(cpu, memory, bus, model) {
    cpu.seg.fill(flat_data);
    cpu.segment(Seg::cs) = flat_code;
    cpu.cr0 = cr0::pe | cr0::et;
    cpu.gpr[esp] = stack_at;
    cpu.eip = code_at;
    memory.flush_all();
  }

  // One instruction at EIP; EIP moves on as the stepper would move it.
  Flow run(std::initializer_list<int> bytes) {
    std::vector<u8> code;
    for (const int b : bytes) code.push_back(static_cast<u8>(b));
    Insn insn;
    const DecodeStatus status = decoder.decode(code, cpu.segment(Seg::cs).big(), insn);
    EXPECT_EQ(status, DecodeStatus::ok);
    if (status != DecodeStatus::ok) return Flow::missing;
    EXPECT_EQ(insn.length, code.size());
    const Handler handler = handlers.get(insn.row);
    EXPECT_NE(handler, nullptr) << row_name(insn.row);
    if (handler == nullptr) return Flow::missing;
    const Flow flow = handler(v, insn);
    if (flow == Flow::next) cpu.eip += insn.length;
    return flow;
  }

  // Identity-maps the first 4 MiB, all pages user and writable; change single entries with `set_page`.
  void enable_paging() {
    put(directory, page_table | 7);
    for (u32 i = 0; i < 1024; ++i) put(page_table + 4 * i, (i << 12) | 7);
    cpu.cr3 = directory;
    cpu.cr0 |= cr0::pg | cr0::wp;
    memory.flush_all();
  }
  void set_page(u32 linear, u32 entry) {
    put(page_table + (linear >> 12) * 4, entry);
    memory.flush_all();
  }
  void set_status(u32 flags) { cpu.eflags = (cpu.eflags & ~flag::status) | flags; }
  [[nodiscard]] u32 status() const { return cpu.eflags & flag::status; }

  void put(u32 at, u32 value, unsigned size = 4) { std::memcpy(ram.at({at}), &value, size); }
  [[nodiscard]] u32 get(u32 at, unsigned size = 4) const {
    u32 value = 0;
    std::memcpy(&value, ram.at({at}), size);
    return value;
  }
  void expect_fault(Flow flow, Vector vector) {
    EXPECT_EQ(flow, Flow::fault);
    EXPECT_EQ(v.fault.vector, vector);
  }
  void expect_page_fault(Flow flow, u32 address, u32 error_code) {
    expect_fault(flow, Vector::page);
    EXPECT_EQ(v.fault.address, address);
    EXPECT_EQ(v.fault.error_code, error_code);
  }
  void user_mode(u32 iopl = 0) {
    cpu.cpl = 3;
    cpu.eflags = (cpu.eflags & ~flag::iopl) | (iopl << 12);
  }

  CpuState cpu;
  GuestRam ram;
  PortBus bus;
  Memory memory;
  CpuModel model;
  Vcpu v;
  Decoder decoder;
  HandlerTable handlers;
};

}  // namespace ring3::test
