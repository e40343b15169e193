// Makes cases for a row: an encoding, registers, flags, FPU state and memory, most of them so that the instruction does something, some
// so that it faults.
#pragma once

#include "executor.h"
#include "forms.h"
#include "values.h"

#include <span>
#include <vector>

namespace ring3::hostcpu {

class Generator {
 public:
  // `usable`: rows that the CPU model has, for the instructions that follow the one under test.
  Generator(const Decoder& decoder, const Forms& forms, const std::vector<Row>& usable);

  // Restarts the random sequence.
  void seed(u64 seed) { values_ = Values(seed); }

  // Makes one case of `row`, which must have forms, and changes `data` (data_size bytes) where the case will look at it.
  void make(Row row, Case& out, std::span<u8> data);

 private:
  [[nodiscard]] bool assemble(Row row, Case& out);
  void registers(Case& out);
  void fpu_state(FxImage& image);
  void implicit_addresses(Case& out, std::span<u8> data);
  [[nodiscard]] bool memory_operand(Case& out, std::span<u8> data);
  void add_neighbours(Case& out);
  void jump_target(Case& out, std::span<u8> data);
  void special_contents(const Case& out, std::span<u8> data, u32 address);

  // An address for `size` bytes: mostly inside the writable pages, some of them across or outside their borders.
  [[nodiscard]] u32 address(u32 size);
  // The part of data around [address, address + size), clipped.
  [[nodiscard]] static std::span<u8> window(std::span<u8> data, u32 address, u32 size);

  const Decoder& decoder_;
  const Forms& forms_;
  std::vector<Row> tail_rows_;
  Values values_{0};
  u32 displacement_offset_ = 0;
  u32 displacement_size_ = 0;
};

}  // namespace ring3::hostcpu
