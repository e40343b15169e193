// Instructions of every program: rows of the instruction table, jumps, loops, calls, strings, code that changes itself.
#include "generator.h"

#include <algorithm>
#include <string_view>

namespace ring3::streams {

namespace {

bool starts_with_any(std::string_view name, std::initializer_list<std::string_view> heads) {
  return std::any_of(heads.begin(), heads.end(), [&](std::string_view head) { return name.substr(0, head.size()) == head; });
}

// SSE rows that only move, compare or calculate integers.
bool integer_sse(Row row) {
  if (row == Row::movntq) return false;
  return starts_with_any(row_name(row), {"p", "mov", "and", "or", "xor", "unpck", "shuf", "aes", "lddqu"});
}

// Rows whose effects the streams must not meet at random: time, identity, what is an exception for now.
bool wanted(Row row) {
  switch (row) {
    case Row::popf:
    case Row::ret:
    case Row::enter:
    case Row::ldmxcsr:
    case Row::fxrstor:
    case Row::fxsave:
    case Row::pushf:
    case Row::push_sreg:
    case Row::rdrand:
    case Row::rdseed: return false;
    default: return true;
  }
}

bool is_immediate_shift16(const Insn& insn) { return insn.operand_size == 2 && (insn.row == Row::shld || insn.row == Row::shrd); }

}  // namespace

Generator::Generator(const Decoder& decoder, const hostcpu::Forms& forms) : decoder_(decoder), forms_(forms) {
  for (unsigned i = 0; i < row_count; ++i) {
    const Row row = static_cast<Row>(i);
    if (!forms.of(row).empty() && wanted(row)) rows_of_[static_cast<unsigned>(row_info(row).family)].push_back(row);
  }
}

void Generator::define_flags() {
  operand32();
  put8(0x83), put8(0xC0 | (v_.one_in(2) ? 0u : 7u) << 3 | v_.below(3)), put8(random());  // add or cmp eax..edx, imm8
}

void Generator::absolute_operand(unsigned reg, u32 offset, bool aligned) {
  put8(reg << 3 | 5);
  put32((space_->linear(page_data) + offset - ds_base_) & (aligned ? ~15u : ~0u));
}

void Generator::memory_operand(unsigned reg, unsigned size) {
  constexpr unsigned bases[] = {ebx, ebx, esi, esi, ebp, edi};
  // QEMU does not check the alignment of SSE operands.
  const bool aligned = size >= 16 && (judged_ || !v_.one_in(10));
  const u32 alignment = aligned ? 16 : v_.one_in(3) ? 1 : 4;
  if (aligned && judged_) {
    if (v_.one_in(2)) return absolute_operand(reg, v_.below(0x2FF0) & ~15u, true);
    put8(0x80 | reg << 3 | (v_.one_in(2) ? u32{ebx} : u32{esi}));
    put32((v_.below(0x1800) - 0xC00) & ~15u);
    return;
  }
  switch (v_.below(16)) {
    case 0:
    case 1: absolute_operand(reg, v_.below(0x3000 - size) / alignment * alignment); return;
    case 2:  // [base + index * scale + disp8]
      put8(0x44 | reg << 3);
      put8(v_.below(4) << 6 | v_.below(3) << 3 | bases[v_.below(4)]);
      put8(random());
      return;
    case 3:  // stack
      put8(0x44 | reg << 3);
      put8(0x24);
      put8(v_.below(64));
      return;
    case 4:  // around a page's end
      put8(reg << 3 | 5);
      put32(space_->linear(page_data) + 4096 * (v_.below(4)) - v_.below(size + 1) - ds_base_);
      return;
    case 5: put8(reg << 3 | bases[v_.below(4)]); return;
    default: break;
  }
  const unsigned base = bases[v_.below(6)];
  if (base == ebp || v_.one_in(2)) {
    put8(0x40 | reg << 3 | base);
    put8(static_cast<u32>(static_cast<i32>(v_.below(240)) - 120) / alignment * alignment);
  } else {
    put8(0x80 | reg << 3 | base);
    put32((v_.below(0x1800) - 0xC00) / alignment * alignment);
  }
}

// One instruction of the row, tried until it is one and changes no register that others count on.
void Generator::emit_row(Row row) {
  const std::vector<hostcpu::Form>& forms = forms_.of(row);
  const u32 start = here();
  std::vector<u8>& code = stream_.code;
  for (unsigned tries = 0; tries < 40; ++tries) {
    code.resize(start);
    const hostcpu::Form& form = forms[v_.below(static_cast<u32>(forms.size()))];
    u8 modrm = 0;
    if (!form.modrm.empty()) modrm = form.modrm[v_.below(static_cast<u32>(form.modrm.size()))];
    const bool memory = !form.modrm.empty() && modrm < 0xC0;
    // QEMU: no second form of TEST, no check of writes through CS, wrong flags where an instruction that reads flags faults.
    const u8 opcode = form.bytes[form.length - 1u];
    if (judged_ && row == Row::test && (opcode & 0xFE) == 0xF6 && (modrm >> 3 & 7) == 1) continue;
    const bool reads_flags = (row_info(row).flags_read & flag::status) != 0 && row_info(row).family != Family::string;
    if (judged_ && memory && reads_flags && !v_.one_in(8)) continue;
    if (v_.one_in(20)) {
      constexpr u8 prefixes[] = {0x26, 0x36, 0x3E, 0x64, 0x65, 0x2E};
      put8(prefixes[v_.below(memory ? judged_ ? 5 : 6 : 3)]);
    }
    if (memory && v_.one_in(10)) put8(0xF0);
    if (memory) address32();
    for (unsigned i = 0; i < form.length; ++i) put8(form.bytes[i]);
    if (memory) {
      memory_operand(modrm >> 3 & 7, row_info(row).family == Family::sse ? 16 : 4);
    } else if (!form.modrm.empty()) {
      put8(modrm);
    }
    for (unsigned i = 0; i < 2; ++i) put32(v_.integer());
    Insn insn;
    if (decoder_.decode(std::span(code).subspan(start, std::min<std::size_t>(15, code.size() - start)), stream_.code32, insn) !=
            DecodeStatus::ok ||
        insn.row != row)
      continue;
    code.resize(start + insn.length);
    if (insn.has_memory && insn.modrm_offset == 0) {  // MOV moffs
      const u32 at = space_->linear(page_data) + v_.below(0x2FF0) - ds_base_;
      for (unsigned i = 0; i < insn.address_size; ++i) code[start + insn.opcode_offset + 1 + i] = static_cast<u8>(at >> (8 * i));
    }
    bool spoils = false;
    for (unsigned i = 0; i < insn.operand_count; ++i) {
      const Operand& o = insn.operand[i];
      if (o.kind == OperandKind::reg && o.reg_class == RegClass::mmx) spoils = spoils || !float_;
      if (o.kind != OperandKind::reg || !o.written) continue;
      if (o.reg_class == RegClass::gpr8 && (o.reg & 3) == ebx) spoils = spoils || !v_.one_in(8);
      if (o.reg_class != RegClass::gpr32 && o.reg_class != RegClass::gpr16) continue;
      if (o.reg == esp) spoils = spoils || ring_ == 0 || !v_.one_in(8);
      if (o.reg == ebx || o.reg >= ebp) spoils = spoils || !v_.one_in(8);
    }
    const bool bit_offset = insn.info().family == Family::bit && insn.has_memory && insn.imm_size == 0 &&
                            (row == Row::bt || row == Row::btc || row == Row::btr || row == Row::bts);
    if (spoils || (is_immediate_shift16(insn) && (insn.imm_size == 0 || (insn.imm & 31) > 15)) || (bit_offset && !v_.one_in(10))) continue;
    // BSWAP of 16 bits is undefined; so is a leaf of ENTER deeper than the frame.
    if (row == Row::bswap && insn.operand_size == 2) continue;
    if (row == Row::leave && ring_ == 0 && (!stream_.code32 || insn.operand_size == 2)) continue;
    const bool popped = row == Row::popa || row == Row::leave || (row == Row::pop && spoils);
    if (row_info(row).flags_undefined != 0) define_flags();
    if (popped && !v_.one_in(3)) emit_pointers();
    return;
  }
  code.resize(start);
  put8(0x90);
}

void Generator::emit_pointers() {
  if (v_.one_in(2)) mov_imm(ebx, data_offset(ds_base_, 512));
  if (v_.one_in(2)) mov_imm(esi, data_offset(ds_base_, 512));
  if (v_.one_in(2)) mov_imm(edi, data_offset(es_base_, 512));
  mov_imm(ebp, space_->linear(page_stack) + 0x700 + v_.below(0x180) * 4 - ss_base_);
}

void Generator::emit_family(Family family) {
  const std::vector<Row>& rows = rows_of_[static_cast<unsigned>(family)];
  for (;;) {
    const Row row = rows[v_.below(static_cast<u32>(rows.size()))];
    if (family == Family::sse && !float_ && !integer_sse(row)) continue;
    if (ring_ == 0 && row == Row::popa && v_.one_in(2)) continue;
    // QEMU: CMPXCHG8B spoils the flags, CLFLUSH does not fault, MOVBE and CRC32 take the operand-size prefix for 16 bits in 16-bit
    // code too.
    if (judged_ && (row == Row::cmpxchg8b || row == Row::clflush || ((row == Row::movbe || row == Row::crc32) && !stream_.code32)))
      continue;
    emit_row(row);
    return;
  }
}

void Generator::emit_jump() {
  const unsigned skip = 1 + v_.below(4);
  switch (v_.below(6)) {
    case 0:
      operand32(), put8(0x0F), put8(0x80 | v_.below(16)), put32(0);
      refer(Target::relative, here() - 4, 4, skip);
      break;
    case 1:
      operand32(), put8(0xE9), put32(0);
      refer(Target::relative, here() - 4, 4, skip);
      break;
    case 2:  // indirect, through a register or through the stack
      if (v_.one_in(2)) {
        operand32(), put8(0xB8), put32(0);
        refer(Target::absolute, here() - 4, 4, skip);
        operand32(), put8(0xFF), put8(0xE0);
      } else {
        operand32(), put8(0x68), put32(0);
        refer(Target::absolute, here() - 4, 4, skip);
        operand32(), put8(0xC3);
      }
      break;
    case 3:
      put8(0xE0 | v_.below(4)), put8(0);  // LOOPcc, JECXZ
      refer(Target::relative, here() - 1, 1, skip);
      break;
    default: put8(v_.one_in(8) ? 0xEB : 0x70 | v_.below(16)), put8(0); refer(Target::relative, here() - 1, 1, skip);
  }
}

void Generator::emit_loop() {
  if (depth_ != 0) return emit_family(Family::alu);
  ++depth_;
  mov_imm(ecx, 1 + v_.below(v_.one_in(4) ? 200 : 6));
  const u32 top = here();
  for (unsigned n = 1 + v_.below(3); n > 0; --n) {
    operand32(), put8(0x51);  // push ecx: the body may use it
    const u32 body = here();
    emit_family(v_.one_in(2) ? Family::alu : Family::mov);
    if (here() - body > 30) stream_.code.resize(body);
    operand32(), put8(0x59);
  }
  if (v_.one_in(2)) {
    address32();
    put8(0xE2), put8(top - here() - 1);
  } else {
    operand32(), put8(0x49);
    put8(0x75), put8(top - here() - 1);
  }
  if (here() - top > 120) {
    stream_.code.resize(top);
    put8(0x90);
  }
  --depth_;
}

void Generator::emit_call() {
  if (depth_ != 0) return emit_family(Family::stack);
  ++depth_;
  // call 1f; jmp 2f; 1: body; ret; 2:
  const bool indirect = v_.one_in(3);
  const unsigned pushes = v_.below(3);
  for (unsigned i = 0; i < pushes; ++i) operand32(), put8(0x50 | v_.below(3));
  if (indirect) {
    operand32(), put8(0xB8), put32(0);
    refer(Target::absolute, here() - 4, 4, 1);
    operand32(), put8(0xFF), put8(0xD0);
  } else {
    operand32(), put8(0xE8), put32(0);
    refer(Target::relative, here() - 4, 4, 1);
  }
  put8(0xEB), put8(0);
  const u32 jump = here();
  starts_.push_back(here());  // what the call refers to: one further than the next that is recorded
  const u32 body = here();
  for (unsigned n = 1 + v_.below(2); n > 0; --n) emit_family(v_.one_in(2) ? Family::alu : Family::stack);
  if (here() - body > 60) stream_.code.resize(body);
  operand32();
  if (pushes != 0) {
    put8(0xC2), put16(4 * pushes);
  } else {
    put8(0xC3);
  }
  stream_.code[jump - 1] = static_cast<u8>(here() - jump);
  --depth_;
}

void Generator::emit_string() {
  constexpr u8 opcodes[] = {0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF};
  const bool backward = v_.one_in(4);
  if (!v_.one_in(6)) put8(backward ? 0xFD : 0xFC);
  mov_imm(esi, v_.one_in(8) ? data_offset(ds_base_, 16) : space_->linear(page_data) + v_.below(0x3000) - ds_base_);
  mov_imm(edi, space_->linear(page_data) + v_.below(0x3000) - es_base_);
  const bool repeat = !v_.one_in(4);
  if (repeat) mov_imm(ecx, v_.one_in(4) ? v_.below(3000) : v_.below(40));
  if (v_.one_in(3)) mov_imm(eax, v_.one_in(2) ? 0 : v_.integer());
  if (v_.one_in(10)) put8(0x26 + 8 * v_.below(4));
  if (repeat) put8(0xF2 | v_.below(2));
  address32();
  if (v_.one_in(5)) put8(0x66);
  put8(opcodes[v_.below(sizeof opcodes)]);
  if (backward && !v_.one_in(4)) put8(0xFC);
}

// Stores into the code ahead, or at its own place, through a mapping of the code page.
void Generator::emit_self_modification() {
  const unsigned page = page_code + v_.below(2);
  // Far enough that REP MOVS does not write over itself: the manual does not say what that means.
  const u32 offset = (code_at_ + here() + (judged_ ? 24 : 0) + v_.below(40)) & 0xFFF;
  const u32 at = space_->any_linear((code_at_ + here()) / 4096 < 1 ? unsigned{page_code} : page) + offset - ds_base_;
  address32();
  switch (v_.below(4)) {
    case 0: put8(0xC6), put8(0x05), put32(at), put8(v_.one_in(2) ? 0x90 : 0x40 | v_.below(3)); break;
    case 1: operand32(), put8(0xC7), put8(0x05), put32(at), put32(0x90909090); break;
    case 2:
      operand32(), put8(0xF0), put8(0xFF), put8(0x05), put32(at);  // lock inc
      break;
    default:  // rep movsb of the code onto itself, a little further
      // (Onto itself where QEMU judges: what stands there afterwards could be any instruction.)
      mov_imm(esi, judged_ ? at : space_->linear(page_code) + ((code_at_ + here()) & 0xFFF) - ds_base_);
      mov_imm(edi, at + ds_base_ - es_base_);
      mov_imm(ecx, v_.below(30));
      put8(0xF3), address32(), put8(0xA4);
  }
}

void Generator::emit_instruction() {
  starts_.push_back(here());
  const u32 choice = v_.below(100);
  if (choice < 20) return emit_family(Family::alu);
  if (choice < 30) return emit_family(Family::mov);
  if (choice < 35) return emit_family(Family::shift);
  if (choice < 37) return emit_family(Family::muldiv);
  if (choice < 40) return emit_family(Family::bit);
  if (choice < 46) return emit_family(Family::stack);
  if (choice < 48) return emit_family(Family::flag);
  if (choice < 50) return emit_family(Family::decimal);
  if (choice < 57) return emit_jump();
  if (choice < 60) return emit_loop();
  if (choice < 64) return emit_call();
  if (choice < 70) return emit_string();
  if (choice < 74) return emit_family(float_ && v_.one_in(2) ? (v_.one_in(3) ? Family::mmx : Family::x87) : Family::sse);
  if (choice < 77) return emit_self_modification();
  if (choice < 82) return emit_segment_load();
  if (choice < 85) return emit_segment_query();
  if (choice < 88) return emit_far_transfer();
  if (choice < 90) return emit_interrupt();
  if (choice < 93) return emit_flags_image();
  if (choice < 96) return emit_system();
  if (choice < 98) return emit_port();
  if (choice < 99) return emit_pointers();
  emit_noise();
}

void Generator::resolve() {
  const u32 end = here();
  const auto target = [&](const Fixup& f) {
    const std::size_t at = f.after + f.skip - 1;
    return at < starts_.size() ? starts_[at] : end - 2;
  };
  for (const Fixup& f : fixups_) {
    const u32 to = target(f);
    if (f.kind == Target::in_gate) {
      std::vector<u8>& bytes = stream_.pokes[f.at].bytes;
      const u32 eip = eip_of(to);
      bytes[0] = static_cast<u8>(eip), bytes[1] = static_cast<u8>(eip >> 8);
      bytes[6] = static_cast<u8>(eip >> 16), bytes[7] = static_cast<u8>(eip >> 24);
      continue;
    }
    if (f.at + f.size > end) continue;
    u32 value = f.kind == Target::absolute ? eip_of(to) : to - (f.at + f.size);
    if (f.size == 1 && to - (f.at + 1) > 127) value = 0;
    for (unsigned i = 0; i < f.size; ++i) stream_.code[f.at + i] = static_cast<u8>(value >> (8 * i));
  }
}

Stream Generator::make(u64 seed, u32 number) {
  v_ = hostcpu::Values(seed * 0x9E3779B97F4A7C15u + number * 0xD1B54A32D192ED03u);
  for (unsigned i = 0; i < 4; ++i) static_cast<void>(v_.bits());
  stream_ = Stream{};
  StreamRecord& r = stream_.record;
  float_ = v_.one_in(25);
  limits_ = v_.one_in(33);
  constexpr unsigned rings[] = {0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 1, 2};
  ring_ = rings[v_.below(12)];
  r.flags = (float_ ? u32{stream_float} : 0u) | (limits_ ? u32{stream_limits} : 0u) | (ring_ == 0 ? u32{stream_ring0} : 0u) |
            (ring_ == 3 ? u32{stream_ring3} : 0u);
  if (ring_ == 3 && v_.one_in(40)) r.flags |= stream_alignment;
  judged_ = (r.flags & ~(u32{stream_ring0} | stream_ring3)) == 0;
  AddressSpace space(v_, ring_, v_.one_in(2), judged_, stream_.pokes);
  space_ = &space;
  make_tables();
  make_registers();

  starts_.clear();
  fixups_.clear();
  depth_ = 0;
  code_at_ = v_.one_in(3) ? 0xF80 + v_.below(0x80) : v_.below(0x1C00);
  first_eip_ = space.linear(page_code) + code_at_ - cs_base_;
  for (unsigned n = 5 + v_.below(36); n > 0; --n) {
    emit_instruction();
    if (here() > 700) break;
  }
  starts_.push_back(here());
  put8(0xCD), put8(vector_end);
  resolve();

  r.state.eip = first_eip_;
  r.code_start = page_code * 4096 + code_at_;
  r.code_end = r.code_start + here();
  for (unsigned i = 0; i < resume_count; ++i) {
    const std::size_t at = (i + 1) * (starts_.size() - 1) / resume_count;
    r.resume[i] = eip_of(starts_[at]);
  }
  stream_.pokes.push_back({r.code_start, stream_.code});
  return std::move(stream_);
}

}  // namespace ring3::streams
