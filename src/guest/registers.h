// Names of guest registers in their encoding order, and the EFLAGS, CR0, CR4 and EFER bits (Intel SDM vol. 3, 2.3-2.5).
#pragma once

#include "base/types.h"

namespace ring3 {

enum Gpr : u8 { eax, ecx, edx, ebx, esp, ebp, esi, edi };
enum class Seg : u8 { es, cs, ss, ds, fs, gs };
inline constexpr unsigned segment_count = 6;

namespace flag {
inline constexpr u32 cf = 1u << 0;
inline constexpr u32 fixed1 = 1u << 1;
inline constexpr u32 pf = 1u << 2;
inline constexpr u32 af = 1u << 4;
inline constexpr u32 zf = 1u << 6;
inline constexpr u32 sf = 1u << 7;
inline constexpr u32 tf = 1u << 8;
inline constexpr u32 if_ = 1u << 9;
inline constexpr u32 df = 1u << 10;
inline constexpr u32 of = 1u << 11;
inline constexpr u32 iopl = 3u << 12;
inline constexpr u32 nt = 1u << 14;
inline constexpr u32 rf = 1u << 16;
inline constexpr u32 vm = 1u << 17;
inline constexpr u32 ac = 1u << 18;
inline constexpr u32 vif = 1u << 19;
inline constexpr u32 vip = 1u << 20;
inline constexpr u32 id = 1u << 21;
// The flags that arithmetic writes.
inline constexpr u32 status = cf | pf | af | zf | sf | of;
// The flags that live in host RFLAGS while emitted code runs; all others are virtual.
inline constexpr u32 host = status | df;
}  // namespace flag

namespace cr0 {
inline constexpr u32 pe = 1u << 0;
inline constexpr u32 mp = 1u << 1;
inline constexpr u32 em = 1u << 2;
inline constexpr u32 ts = 1u << 3;
inline constexpr u32 et = 1u << 4;
inline constexpr u32 ne = 1u << 5;
inline constexpr u32 wp = 1u << 16;
inline constexpr u32 am = 1u << 18;
inline constexpr u32 nw = 1u << 29;
inline constexpr u32 cd = 1u << 30;
inline constexpr u32 pg = 1u << 31;
}  // namespace cr0

namespace cr4 {
inline constexpr u32 vme = 1u << 0;
inline constexpr u32 pvi = 1u << 1;
inline constexpr u32 tsd = 1u << 2;
inline constexpr u32 de = 1u << 3;
inline constexpr u32 pse = 1u << 4;
inline constexpr u32 pae = 1u << 5;
inline constexpr u32 mce = 1u << 6;
inline constexpr u32 pge = 1u << 7;
inline constexpr u32 pce = 1u << 8;
inline constexpr u32 osfxsr = 1u << 9;
inline constexpr u32 osxmmexcpt = 1u << 10;
}  // namespace cr4

namespace efer {
inline constexpr u64 nxe = 1u << 11;
}  // namespace efer

}  // namespace ring3
