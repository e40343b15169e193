// AsmJit's assembler with a short way for the forms that glue consists of: one call of AsmJit's encoder costs as much as four of these.
// What comes out is the same, byte for byte; every other form goes to AsmJit.
#pragma once

#include <asmjit/x86.h>

#include <cstring>

#include "base/types.h"

namespace ring3 {

class Assembler : public asmjit::x86::Assembler {
 public:
  using Base = asmjit::x86::Assembler;
  using Gp = asmjit::x86::Gp;
  using Mem = asmjit::x86::Mem;
  using Imm = asmjit::Imm;

  explicit Assembler(asmjit::CodeHolder* code) : Base(code) {}

  using Base::jmp;
  using Base::lea;
  using Base::mov;
  using Base::rorx;
  using Base::shrx;

  void lea(const Gp& to, const Mem& from) {
    if (!try_memory(0x8D, to, from)) Base::lea(to, from);
  }
  void mov(const Gp& to, const Mem& from) {
    if (!try_memory(0x8B, to, from)) Base::mov(to, from);
  }
  void mov(const Mem& to, const Gp& from) {
    if (!try_memory(0x89, from, to)) Base::mov(to, from);
  }
  void mov(const Gp& to, const Gp& from) {
    if (!has_room() || to.size() != from.size() || !is_full(to)) return (void)Base::mov(to, from);
    u8* at = rex(_bufferPtr, to.size() == 8, from.id(), 0, to.id());
    *at++ = 0x89;
    *at++ = modrm(3, from.id(), to.id());
    done(at);
  }
  void mov(const Gp& to, const Imm& value) {
    if (!has_room() || to.size() != 4) return (void)Base::mov(to, value);
    u8* at = rex(_bufferPtr, false, 0, 0, to.id());
    *at++ = static_cast<u8>(0xB8u | (to.id() & 7u));
    done(put32(at, static_cast<u32>(value.value())));
  }
  void mov(const Mem& to, const Imm& value) {
    if (!has_room() || to.size() != 4 || !is_simple(to)) return (void)Base::mov(to, value);
    u8* at = rex(_bufferPtr, false, 0, index_of(to), to.baseId());
    *at++ = 0xC7;
    at = address(at, 0, to);
    done(put32(at, static_cast<u32>(value.value())));
  }
  void rorx(const Gp& to, const Gp& from, const Imm& count) {
    if (!has_room()) return (void)Base::rorx(to, from, count);
    u8* at = vex(_bufferPtr, 3, to, from, 0, 3);
    *at++ = 0xF0;
    *at++ = modrm(3, to.id(), from.id());
    *at++ = static_cast<u8>(count.value());
    done(at);
  }
  void shrx(const Gp& to, const Gp& from, const Gp& count) {
    if (!has_room()) return (void)Base::shrx(to, from, count);
    u8* at = vex(_bufferPtr, 2, to, from, count.id(), 3);
    *at++ = 0xF7;
    *at++ = modrm(3, to.id(), from.id());
    done(at);
  }
  // To a host address within reach.
  void jmp(const Imm& target) {
    const i64 distance = target.value() - static_cast<i64>(_code->baseAddress() + offset() + 5);
    if (!has_room() || distance != static_cast<i32>(distance) || distance + 3 == static_cast<i8>(distance + 3))
      return (void)Base::jmp(target);
    *_bufferPtr = 0xE9;
    done(put32(_bufferPtr + 1, static_cast<u32>(distance)));
  }

  asmjit::Error embed(const void* data, std::size_t size) final {
    if (remainingSpace() < size) return Base::embed(data, size);
    std::memcpy(_bufferPtr, data, size);
    done(_bufferPtr + size);
    return asmjit::kErrorOk;
  }
  void embedUInt32(u32 value) { (void)embed(&value, sizeof value); }

 private:
  static constexpr std::size_t longest = 16;

  // AsmJit grows the buffer by the size that the section knows.
  void done(u8* end) {
    _bufferPtr = end;
    _section->_buffer._size = offset();
  }
  [[nodiscard]] bool has_room() const { return remainingSpace() >= longest; }
  [[nodiscard]] static bool is_full(const Gp& reg) { return reg.size() >= 4; }
  [[nodiscard]] static u8 modrm(u32 mod, u32 reg, u32 rm) { return static_cast<u8>(mod << 6 | (reg & 7u) << 3 | (rm & 7u)); }
  [[nodiscard]] static u8* put32(u8* at, u32 value) {
    std::memcpy(at, &value, sizeof value);
    return at + sizeof value;
  }
  [[nodiscard]] static u8* rex(u8* at, bool wide, u32 reg, u32 index, u32 base) {
    const u32 bits = (wide ? 8u : 0u) | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
    if (bits != 0) *at++ = static_cast<u8>(0x40u | bits);
    return at;
  }
  // Three-byte VEX with map `map`; SDM vol. 2, 2.3.5.
  [[nodiscard]] static u8* vex(u8* at, u32 map, const Gp& reg, const Gp& rm, u32 third, u32 prefix) {
    at[0] = 0xC4;
    at[1] = static_cast<u8>((reg.id() < 8 ? 0x80u : 0u) | 0x40u | (rm.id() < 8 ? 0x20u : 0u) | map);
    at[2] = static_cast<u8>((reg.size() == 8 ? 0x80u : 0u) | (~third & 0xFu) << 3 | prefix);
    return at + 3;
  }
  // A base of 64 bits, perhaps an index of 64 bits; no segment.
  [[nodiscard]] static bool is_simple(const Mem& mem) {
    return mem.baseType() == asmjit::RegType::kX86_Gpq && !mem.hasSegment() && !mem.isRegHome() &&
           (!mem.hasIndex() || mem.indexType() == asmjit::RegType::kX86_Gpq);
  }
  [[nodiscard]] static u32 index_of(const Mem& mem) { return mem.hasIndex() ? mem.indexId() : 0; }
  // ModRM, SIB and displacement.
  [[nodiscard]] static u8* address(u8* at, u32 reg, const Mem& mem) {
    const i32 displacement = mem.offsetLo32();
    const u32 base = mem.baseId();
    const bool byte = displacement == static_cast<i8>(displacement);
    const u32 mod = displacement == 0 && (base & 7u) != 5 ? 0 : byte ? 1 : 2;
    if (mem.hasIndex() || (base & 7u) == 4) {
      *at++ = modrm(mod, reg, 4);
      *at++ = modrm(mem.shift(), mem.hasIndex() ? mem.indexId() : 4, base);
    } else {
      *at++ = modrm(mod, reg, base);
    }
    if (mod == 1) *at++ = static_cast<u8>(displacement);
    return mod == 2 ? put32(at, static_cast<u32>(displacement)) : at;
  }
  [[nodiscard]] bool try_memory(u8 opcode, const Gp& reg, const Mem& mem) {
    if (!has_room() || !is_full(reg) || !is_simple(mem)) return false;
    u8* at = rex(_bufferPtr, reg.size() == 8, reg.id(), index_of(mem), mem.baseId());
    *at++ = opcode;
    done(address(at, reg.id(), mem));
    return true;
  }
};

}  // namespace ring3
