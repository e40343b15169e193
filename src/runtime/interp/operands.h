// Reading and writing the operands of a decoded instruction.
//
// Order within an instruction: everything that can fault comes before the first change of guest state. A read-modify-write of memory is
// checked for writing first, so its fault is a write fault and leaves flags and registers as they were.
#pragma once

#include "runtime/vcpu.h"

#include <cstring>
#include <type_traits>

namespace ring3::interp {

template <typename T>
[[nodiscard]] T get_reg(const Vcpu& v, unsigned n) {
  if constexpr (sizeof(T) == 1) return v.reg8(n);
  if constexpr (sizeof(T) == 2) return v.reg16(n);
  if constexpr (sizeof(T) == 4) return v.reg32(n);
}

template <typename T>
void set_reg(Vcpu& v, unsigned n, T value) {
  if constexpr (sizeof(T) == 1) v.set_reg8(n, value);
  if constexpr (sizeof(T) == 2) v.set_reg16(n, value);
  if constexpr (sizeof(T) == 4) v.set_reg32(n, value);
}

// False: `v.fault` is set.
template <typename T>
[[nodiscard]] bool read_operand(Vcpu& v, const Insn& insn, unsigned n, T& out) {
  const Operand& o = insn.operand[n];
  switch (o.kind) {
    case OperandKind::reg: out = get_reg<T>(v, o.reg); return true;
    case OperandKind::mem: return v.load(insn.mem.segment, v.effective_address(insn), out);
    default: out = static_cast<T>(insn.imm); return true;
  }
}

// For operands that are only written.
template <typename T>
[[nodiscard]] bool write_operand(Vcpu& v, const Insn& insn, unsigned n, T value) {
  const Operand& o = insn.operand[n];
  if (o.kind == OperandKind::mem) return v.store(insn.mem.segment, v.effective_address(insn), value);
  set_reg<T>(v, o.reg, value);
  return true;
}

// A memory operand that is read, changed and written: open, then store at most once.
template <typename T>
class ReadModifyWrite {
 public:
  explicit ReadModifyWrite(Vcpu& v) : v_(v) {}

  // Checks the right to write and loads. False: `fault` is set.
  [[nodiscard]] bool open(Seg segment, u32 offset, T& value) {
    segment_ = segment;
    offset_ = offset;
    u32 linear = 0;
    if (!v_.linear_address(segment, offset, sizeof(T), Access::write, linear)) return false;
    // Aligned RAM needs no second look-up. Device memory, code pages, and what may be an alignment check take the long way.
    if ((linear & (sizeof(T) - 1)) == 0) {
      host_ = v_.mem.direct(linear, Access::write, v_.s.cpl == 3);
      if (host_ != nullptr) {
        std::memcpy(&value, host_, sizeof(T));
        return true;
      }
    }
    return v_.probe_store(segment, offset, sizeof(T)) && v_.load(segment, offset, value);
  }
  [[nodiscard]] bool store(T value) {
    if (host_ != nullptr) {
      std::memcpy(host_, &value, sizeof(T));
      return true;
    }
    return v_.store(segment_, offset_, value);
  }

 private:
  Vcpu& v_;
  u8* host_ = nullptr;
  Seg segment_ = Seg::ds;
  u32 offset_ = 0;
};

// Changes operand `n` in place: `change(T old)` returns the new value and may set registers and flags.
template <typename T, typename Change>
[[nodiscard]] Flow modify_operand(Vcpu& v, const Insn& insn, unsigned n, Change change) {
  const Operand& o = insn.operand[n];
  if (o.kind == OperandKind::reg) {
    set_reg<T>(v, o.reg, change(get_reg<T>(v, o.reg)));
    return Flow::next;
  }
  ReadModifyWrite<T> memory(v);
  T old{};
  if (!memory.open(insn.mem.segment, v.effective_address(insn), old)) return Flow::fault;
  const u32 flags_before = v.s.eflags;
  if (memory.store(change(old))) return Flow::next;
  v.s.eflags = flags_before;
  return Flow::fault;
}

// Calls `f` with a value whose type has `size` bytes.
template <typename F>
[[nodiscard]] Flow by_size(unsigned size, F f) {
  switch (size) {
    case 1: return f(u8{});
    case 2: return f(u16{});
    default: return f(u32{});
  }
}

// For instructions without byte forms.
template <typename F>
[[nodiscard]] Flow by_wide_size(unsigned size, F f) {
  return size == 2 ? f(u16{}) : f(u32{});
}

inline void set_flag(u32& eflags, u32 bit, bool on) { eflags = on ? eflags | bit : eflags & ~bit; }

// Is the condition with this number (the low four bits of Jcc's opcode) true? SDM vol. 1, appendix B.
template <unsigned number>
[[nodiscard]] inline bool condition(u32 f) {
  bool r = false;
  const bool less = ((f >> 7) & 1u) != ((f >> 11) & 1u);  // SF != OF
  switch (number >> 1) {
    case 0: r = (f & flag::of) != 0; break;
    case 1: r = (f & flag::cf) != 0; break;
    case 2: r = (f & flag::zf) != 0; break;
    case 3: r = (f & (flag::cf | flag::zf)) != 0; break;
    case 4: r = (f & flag::sf) != 0; break;
    case 5: r = (f & flag::pf) != 0; break;
    case 6: r = less; break;
    default: r = less || (f & flag::zf) != 0; break;
  }
  return r != ((number & 1u) != 0);
}

// X(row, number) for the sixteen rows of a conditional family, in encoding order.
#define RING3_CONDITIONS(X, prefix) \
  X(prefix##o, 0)                   \
  X(prefix##no, 1)                  \
  X(prefix##b, 2)                   \
  X(prefix##nb, 3)                  \
  X(prefix##z, 4)                   \
  X(prefix##nz, 5)                  \
  X(prefix##be, 6)                  \
  X(prefix##nbe, 7)                 \
  X(prefix##s, 8)                   \
  X(prefix##ns, 9)                  \
  X(prefix##p, 10)                  \
  X(prefix##np, 11)                 \
  X(prefix##l, 12)                  \
  X(prefix##nl, 13)                 \
  X(prefix##le, 14)                 \
  X(prefix##nle, 15)

}  // namespace ring3::interp
