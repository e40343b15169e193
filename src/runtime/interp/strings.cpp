// MOVS, CMPS, SCAS, LODS, STOS (SDM vol. 2). The source takes a segment override, the destination is always ES.
#include "runtime/interp/families.h"
#include "runtime/interp/host_alu.h"
#include "runtime/interp/repeat.h"

namespace ring3::interp {

namespace {

// A forward run of elements inside one page of RAM.
struct Run {
  u8* host = nullptr;  // null: take the slow way
  u32 count = 0;
};

// How much of a forward run of at most `wanted` elements from `segment`:`offset` lies in one page of RAM that needs no hook, within the
// segment and before the offset wraps.
Run direct_run(Vcpu& v, const StringRegisters& regs, Seg segment, u32 offset, u32 element_size, u32 wanted, Access access) {
  u32 linear = 0;
  const u32 count = std::min(wanted, regs.before_wrap(offset, element_size));
  if (count == 0 || !v.linear_address(segment, offset, element_size, access, linear)) return {};
  // One that alignment checks may object to goes the slow way.
  const bool misaligned = (linear & (element_size - 1)) != 0;
  if (misaligned && v.s.cpl == 3 && (v.s.eflags & flag::ac) != 0) return {};
  const u32 fits = std::min(count, (page_size - (linear & page_mask)) / element_size);
  if (fits == 0 || !v.linear_address(segment, offset, fits * element_size, access, linear)) return {};
  return {v.mem.direct(linear, access, v.s.cpl == 3), fits};
}

// Forward element by element is what the CPU does; only a destination that overlaps the source from above shows it.
template <typename T>
void copy_forward(u8* to, const u8* from, u32 count) {
  const std::size_t bytes = std::size_t{count} * sizeof(T);
  if (to <= from || to >= from + bytes) {
    std::memmove(to, from, bytes);
    return;
  }
  for (std::size_t i = 0; i < bytes; i += sizeof(T)) std::memmove(to + i, from + i, sizeof(T));
}

template <typename T>
Flow movs(Vcpu& v, const Insn& insn) {
  StringRegisters regs(v, insn);
  const Seg source = insn.mem.segment;
  return repeat<false>(v, insn, regs, [&](u32 limit) -> u32 {
    if (limit > 1 && !regs.backward()) {
      const Run to = direct_run(v, regs, Seg::es, regs.get(edi), sizeof(T), limit, Access::write);
      if (to.host != nullptr) {
        const Run from = direct_run(v, regs, source, regs.get(esi), sizeof(T), to.count, Access::read);
        if (from.host != nullptr) {
          copy_forward<T>(to.host, from.host, from.count);
          regs.advance(esi, sizeof(T), from.count);
          regs.advance(edi, sizeof(T), from.count);
          return from.count;
        }
      }
    }
    T value{};
    if (!v.load(source, regs.get(esi), value) || !v.store(Seg::es, regs.get(edi), value)) return 0;
    regs.advance(esi, sizeof(T));
    regs.advance(edi, sizeof(T));
    return 1;
  });
}

template <typename T>
Flow stos(Vcpu& v, const Insn& insn) {
  StringRegisters regs(v, insn);
  const T value = get_reg<T>(v, eax);
  return repeat<false>(v, insn, regs, [&](u32 limit) -> u32 {
    if (limit > 1 && !regs.backward()) {
      const Run to = direct_run(v, regs, Seg::es, regs.get(edi), sizeof(T), limit, Access::write);
      if (to.host != nullptr) {
        for (u32 i = 0; i < to.count; ++i) std::memcpy(to.host + std::size_t{i} * sizeof(T), &value, sizeof(T));
        regs.advance(edi, sizeof(T), to.count);
        return to.count;
      }
    }
    if (!v.store(Seg::es, regs.get(edi), value)) return 0;
    regs.advance(edi, sizeof(T));
    return 1;
  });
}

template <typename T>
Flow lods(Vcpu& v, const Insn& insn) {
  StringRegisters regs(v, insn);
  return repeat<false>(v, insn, regs, [&](u32) -> u32 {
    T value{};
    if (!v.load(insn.mem.segment, regs.get(esi), value)) return 0;
    set_reg<T>(v, eax, value);
    regs.advance(esi, sizeof(T));
    return 1;
  });
}

template <typename T>
Flow cmps(Vcpu& v, const Insn& insn) {
  StringRegisters regs(v, insn);
  return repeat<true>(v, insn, regs, [&](u32) -> u32 {
    T left{};
    T right{};
    if (!v.load(Seg::es, regs.get(edi), right) || !v.load(insn.mem.segment, regs.get(esi), left)) return 0;
    (void)host::Cmp::run<T>(left, right, v.s.eflags);
    regs.advance(esi, sizeof(T));
    regs.advance(edi, sizeof(T));
    return 1;
  });
}

template <typename T>
Flow scas(Vcpu& v, const Insn& insn) {
  StringRegisters regs(v, insn);
  return repeat<true>(v, insn, regs, [&](u32) -> u32 {
    T value{};
    if (!v.load(Seg::es, regs.get(edi), value)) return 0;
    (void)host::Cmp::run<T>(get_reg<T>(v, eax), value, v.s.eflags);
    regs.advance(edi, sizeof(T));
    return 1;
  });
}

}  // namespace

void add_strings(HandlerTable& t) {
  // NOLINTBEGIN(bugprone-macro-parentheses): names of templates
#define RING3_STRING(name)        \
  t.set(Row::name##b, name<u8>);  \
  t.set(Row::name##w, name<u16>); \
  t.set(Row::name##d, name<u32>);
  RING3_STRING(movs)
  RING3_STRING(stos)
  RING3_STRING(lods)
  RING3_STRING(cmps)
  RING3_STRING(scas)
#undef RING3_STRING
  // NOLINTEND(bugprone-macro-parentheses)
}

}  // namespace ring3::interp
