// Makes programs and states for them: an encoding, segments, registers, flags, FPU state and memory, most of them so that the instruction
// does something, some so that it faults.
#pragma once

#include "assembler.h"
#include "executor.h"
#include "values.h"

#include <span>
#include <vector>

namespace ring3::hostcpu {

// Bytes of the explicit memory operand.
[[nodiscard]] u32 operand_size(const Insn& insn);
// Locked accesses that split a cache line are slow or refused on some hosts.
[[nodiscard]] bool must_be_aligned(const Insn& insn);

class Generator {
 public:
  // `usable`: rows that the CPU model has, for the instructions around the one under test.
  Generator(const Assembler& assembler, const std::vector<Row>& usable);

  // The LDT and the data pages before each program.
  static void prepare(Batch& batch, u64 seed);

  // Appends a program and `states` states of it. Everything about it comes from `seed`, except the batch's LDT and background.
  void add_row(Batch& batch, Row row, u64 seed, bool segmented, u32 states);
  // Appends a program made of these bytes alone; `insn` if the decoder knows them. False: it cannot be run, nothing was appended.
  [[nodiscard]] bool add_encoding(Batch& batch, std::span<const u8> bytes, const Insn* insn, u64 seed, bool segmented, bool at_page_end,
                                  u32 states);

  [[nodiscard]] static bool has_room(const Batch& batch, u32 states);

 private:
  [[nodiscard]] bool make_program(Batch& batch, Row row, bool segmented, Program& program);
  void add_neighbours(Program& program, std::array<u8, 16>& head, std::array<u8, 32>& tail, u32& tail_length);
  [[nodiscard]] bool finish_program(Batch& batch, u32 states);
  [[nodiscard]] bool fix_operand(Program& program);
  void fix_branch(Program& program);
  [[nodiscard]] bool make_state(State& state);
  void registers(State& state);
  void fpu_state(FxImage& image);
  void implicit_addresses(State& state);
  [[nodiscard]] bool memory_operand(State& state);
  // Whether bytes there may differ between host and guest: what follows the program, the guest's kernel.
  [[nodiscard]] bool differs_by_place(u32 linear, u32 size) const;
  [[nodiscard]] bool touches_differing_bytes(const State& state) const;
  void special_contents(u32 linear);
  void jump_target(State& state);
  void far_target(State& state);
  void selectors(State& state);
  void emit_patches(State& state);

  [[nodiscard]] u32 hlt_address();
  // A linear address for `size` bytes: mostly inside the writable pages, some of them across or outside their borders.
  [[nodiscard]] u32 address(u32 size);
  // An offset into the segment: as `address`, or around the segment's borders.
  [[nodiscard]] u32 offset_in(const SegmentCache& segment, u32 size);
  [[nodiscard]] const SegmentCache& segment(Seg seg) const { return segments_[static_cast<unsigned>(seg)]; }
  // Linear address of the top of the stack for `gpr`.
  [[nodiscard]] u32 stack_address(const State& state, u32 above = 0) const;
  [[nodiscard]] u32 memory_address(const State& state) const;

  // The part of the data pages around [linear, linear + size), clipped; it becomes a patch of the state.
  [[nodiscard]] std::span<u8> window(u32 linear, u32 size);
  void put(u32 linear, u32 value, u32 size);

  const Assembler& assembler_;
  std::vector<Row> neighbour_rows_;
  Values values_{0};
  Batch* batch_ = nullptr;
  const Program* program_ = nullptr;
  std::array<SegmentCache, segment_count> segments_{};
  std::vector<u8> data_;
  struct Touched {
    u32 first;
    u32 last;
  };
  std::vector<Touched> touched_;
};

}  // namespace ring3::hostcpu
