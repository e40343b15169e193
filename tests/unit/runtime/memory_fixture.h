// A CPU, RAM and a bus of plain bytes for the memory tests, and helpers that build page tables by hand.
#pragma once

#include "base/types.h"
#include "devices/bus.h"
#include "guest/block_key.h"
#include "guest/cpu_state.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"
#include "translator/contract.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <span>
#include <tuple>
#include <vector>

namespace ring3::test {

// Remembers every access; what was never written reads as ones.
class ByteBus : public Bus {
 public:
  struct Entry {
    u64 address;
    unsigned size;
    bool write;
    bool operator==(const Entry&) const = default;
  };

  u32 io_read(u16, unsigned) override { return ~0u; }
  void io_write(u16, unsigned, u32) override {}
  u64 mmio_read(PhysAddr address, unsigned size) override {
    log.push_back({address.value, size, false});
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) {
      const auto found = bytes.find(address.value + i);
      value |= u64{found == bytes.end() ? u8{0xFF} : found->second} << (8 * i);
    }
    return value;
  }
  void mmio_write(PhysAddr address, unsigned size, u64 value) override {
    log.push_back({address.value, size, true});
    for (unsigned i = 0; i < size; ++i) bytes[address.value + i] = static_cast<u8>(value >> (8 * i));
  }
  bool interrupt_requested() const override { return false; }
  u8 acknowledge_interrupt() override { return 0; }
  void service() override {}
  std::optional<Nanoseconds> next_deadline() const override { return std::nullopt; }
  void wait_for_event() override {}
  bool stop_requested() const override { return false; }
  void set_ferr(bool) override {}

  std::vector<Entry> log;
  std::map<u64, u8> bytes;
};

inline std::ostream& operator<<(std::ostream& out, const ByteBus::Entry& entry) {
  return out << (entry.write ? "write " : "read ") << std::hex << entry.address << " size " << entry.size;
}

class RecordingWatcher : public CodeWatcher {
 public:
  void code_written(PhysAddr address, u32 size) override { written.emplace_back(address.value, size); }

  std::vector<std::pair<u64, u32>> written;
};

// Entry bits, SDM vol. 3, table 4-19 and figures 4-4 and 4-11.
inline constexpr u64 P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100, NX = u64{1} << 63;

class MemoryTest : public ::testing::Test {
 protected:
  static constexpr u32 ram_size = 16u << 20;
  static constexpr u32 table = 0x20000;  // page tables are handed out from here

  MemoryTest() : ram(ram_size), memory(cpu, ram, bus) { memory.set_watcher(&watcher); }

  // Turns paging on with empty tables.
  void enable_paging(bool pae, bool wp = true) {
    cpu.cr0 = cr0::pe | cr0::et | cr0::pg | (wp ? cr0::wp : 0);
    cpu.cr4 = cr4::pse | cr4::pge | (pae ? cr4::pae : 0);
    cpu.cr3 = pae ? pointer_table : directory;
    if (pae) {
      for (u32 i = 0; i < 4; ++i) put64(pointer_table + 8 * i, (directory + 0x1000 * i) | P);
      ASSERT_TRUE(memory.load_pdptes(cpu.cr3));
    }
    memory.flush_all();
  }
  [[nodiscard]] bool pae() const { return (cpu.cr4 & cr4::pae) != 0; }
  [[nodiscard]] u32 entry_size() const { return pae() ? 8 : 4; }

  [[nodiscard]] u32 pde_at(u32 linear) const { return directory + (pae() ? (linear >> 21) * 8 : (linear >> 22) * 4); }
  // Where the entry for `linear` lies in the page table at physical `where`.
  [[nodiscard]] u32 pte_at(u32 linear, u32 where = table) const {
    return where + (pae() ? ((linear >> 12) & 0x1FF) * 8 : ((linear >> 12) & 0x3FF) * 4);
  }
  void put(u32 at, u64 entry) { pae() ? put64(at, entry) : put32(at, static_cast<u32>(entry)); }
  [[nodiscard]] u64 get(u32 at) { return pae() ? get64(at) : get32(at); }
  void put32(u32 at, u32 value) { std::memcpy(ram.at({at}), &value, 4); }
  void put64(u32 at, u64 value) { std::memcpy(ram.at({at}), &value, 8); }
  [[nodiscard]] u32 get32(u32 at) { return static_cast<u32>(get64(at)); }
  [[nodiscard]] u64 get64(u32 at) {
    u64 value;
    std::memcpy(&value, ram.at({at}), 8);
    return value;
  }

  // linear -> physical through the page table at `where`, with `flags` in both levels (P implied).
  void map(u32 linear, u32 physical, u64 flags, u32 where = table) {
    put(pde_at(linear), where | P | W | U | A);
    put(pte_at(linear, where), physical | P | flags);
  }

  // Selects a context, and remembers its privilege for `jump`.
  u64 select(u32 mode_bits) {
    user_ = (mode_bits & mode::user) != 0;
    return memory.select_context(mode_bits);
  }
  // As the engine does it: fetches the pages that the block lies in, then sets the slot.
  void jump(u32 linear, u32 value, std::span<const u32> further = {}) {
    ASSERT_TRUE(memory.translate_fetch(linear, user_, fault).has_value()) << std::hex << linear;
    for (const u32 page : further) ASSERT_TRUE(memory.translate_fetch(page << page_shift, user_, fault).has_value());
    memory.set_jump(linear, value, further);
  }

  [[nodiscard]] bool read(u32 linear, u64& out, unsigned size = 4, bool user = false) {
    out = 0;
    return memory.read(linear, &out, size, user, fault);
  }
  [[nodiscard]] bool write(u32 linear, u64 value, unsigned size = 4, bool user = false) {
    return memory.write(linear, &value, size, user, fault);
  }
  u64 must_read(u32 linear, unsigned size = 4, bool user = false) {
    u64 value = 0;
    EXPECT_TRUE(read(linear, value, size, user)) << std::hex << linear;
    return value;
  }
  void expect_page_fault(u32 address, u32 error_code) {
    EXPECT_EQ(fault.vector, Vector::page);
    EXPECT_TRUE(fault.has_error_code);
    EXPECT_EQ(fault.address, address);
    EXPECT_EQ(fault.error_code, error_code);
  }

  // What emitted code would find in the tables of a context; 0 for a miss.
  static u64 slot(u64 context, u64 table_offset, u32 linear) {
    const u64 entry = *reinterpret_cast<const u64*>(context + table_offset + u64{linear >> page_shift} * 8);
    return contract::present(entry) ? entry : 0;
  }
  static u64 read_slot(u64 context, u32 linear) { return slot(context, contract::read_table, linear); }
  static u64 write_slot(u64 context, u32 linear) { return slot(context, contract::write_table, linear); }
  static u32 jump_slot(u64 context, u32 linear) { return *reinterpret_cast<const u32*>(context + contract::jump_table + u64{linear} * 4); }

  // Of the address space that is loaded.
  u32 directory = 0x10000;     // page directory (two-level), or four of them (PAE)
  u32 pointer_table = 0x8000;  // PDPT

  CpuState cpu;
  GuestRam ram;
  ByteBus bus;
  Memory memory;
  RecordingWatcher watcher;
  Fault fault;

 private:
  bool user_ = false;
};

}  // namespace ring3::test
