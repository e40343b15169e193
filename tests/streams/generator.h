// Makes one stream: tables, registers and 5 to 40 instructions, most of them valid.
#pragma once

#include "address_space.h"
#include "tests/hostcpu/forms.h"
#include "tests/hostcpu/values.h"

#include "frontend/decoder.h"

#include <vector>

namespace ring3::streams {

struct Stream {
  StreamRecord record{};
  std::vector<Poke> pokes;
  std::vector<u8> code;
  bool code32 = true;
};

class Generator {
 public:
  Generator(const Decoder& decoder, const hostcpu::Forms& forms);
  // Stream `number` of the sequence that `seed` names; the same every time.
  [[nodiscard]] Stream make(u64 seed, u32 number);

 private:
  // tables.cpp: descriptors, gates, TSS and the registers that go with them.
  void make_tables();
  [[nodiscard]] u16 add_descriptor(u64 value, unsigned rpl);
  [[nodiscard]] u64 random_descriptor();
  [[nodiscard]] u16 some_selector();
  [[nodiscard]] u16 data_segment(bool stack, u32& base);
  void make_code_segments();
  void make_registers();
  // Puts bytes somewhere into the data pages; returns their offset there.
  u32 place_data(std::initializer_list<u32> words);
  // A memory operand that is data at this offset, by its address.
  void absolute_operand(unsigned reg, u32 data_offset, bool aligned = false);

  // instructions.cpp: what user code is made of.
  void emit_instruction();
  void emit_family(Family family);
  void emit_row(Row row);
  void emit_jump();
  void emit_loop();
  void emit_call();
  void emit_string();
  void emit_self_modification();
  void emit_pointers();
  void define_flags();
  // system.cpp: what touches segments, privileges and system registers.
  void emit_segment_load();
  void emit_segment_query();
  void emit_far_transfer();
  void emit_interrupt();
  void emit_flags_image();
  void emit_system();
  void emit_port();
  void emit_noise();

  void put8(u32 v) { stream_.code.push_back(static_cast<u8>(v)); }
  void put16(u32 v) { put8(v), put8(v >> 8); }
  void put32(u32 v) { put16(v), put16(v >> 16); }
  void put_word(u32 v) { stream_.code32 ? put32(v) : put16(v); }  // of the default operand size
  void operand32() {
    if (!stream_.code32) put8(0x66);
  }
  void address32() {
    if (!stream_.code32) put8(0x67);
  }
  void mov_imm(unsigned reg, u32 value) { operand32(), put8(0xB8 + reg), put32(value); }
  // ModRM (and SIB, displacement) of a memory operand of `size` bytes.
  void memory_operand(unsigned reg, unsigned size);
  [[nodiscard]] u32 here() const { return static_cast<u32>(stream_.code.size()); }
  [[nodiscard]] u32 random() { return static_cast<u32>(v_.bits()); }
  // Offsets that reach data through DS, ES or SS.
  [[nodiscard]] u32 data_offset(u32 base, unsigned room);
  [[nodiscard]] u32 eip_of(u32 code_offset) const { return first_eip_ + code_offset; }

  const Decoder& decoder_;
  const hostcpu::Forms& forms_;
  std::array<std::vector<Row>, 16> rows_of_;  // by family, those with encodings
  hostcpu::Values v_{0};
  Stream stream_;
  AddressSpace* space_ = nullptr;
  unsigned ring_ = 0;
  bool float_ = false;   // floating-point arithmetic is allowed in this stream
  bool limits_ = false;  // so are segments with limits
  bool judged_ = true;   // QEMU will judge it: nothing in which QEMU leaves the manual (docs/testing.md, "Streams")
  std::vector<u16> selectors_, code_selectors_;
  std::vector<u32> free_gdt_, free_ldt_;
  u32 cs_base_ = 0, ss_base_ = 0, ds_base_ = 0, es_base_ = 0;
  u32 first_eip_ = 0;
  u32 code_at_ = 0;  // offset of the stream in the two code pages
  unsigned depth_ = 0;
  std::vector<u32> starts_;  // offsets of instructions
  // A place that names an instruction further on: a relative displacement, or the EIP itself in the code or in a gate.
  enum class Target : u8 { relative, absolute, in_gate };
  struct Fixup {
    Target kind;
    u32 at;  // in the code; in_gate: index of the poke
    unsigned size, skip;
    std::size_t after;  // index in starts_
  };
  void refer(Target kind, u32 at, unsigned size, unsigned skip) { fixups_.push_back({kind, at, size, skip, starts_.size()}); }
  void resolve();
  std::vector<Fixup> fixups_;
};

}  // namespace ring3::streams
