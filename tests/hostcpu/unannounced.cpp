#include "unannounced.h"

#include <array>

namespace ring3::hostcpu {

namespace {

// Which mandatory prefix, as a set: several may do.
enum : u8 { np = 1, p66 = 2, pf3 = 4, pf2 = 8, any_prefix = 15 };
enum class Mod : u8 { any, memory, reg };
constexpr i8 any_reg = -1;
constexpr i16 any_modrm = -1;

// Opcode maps: 0 is one-byte, 1 is 0F, 2 is 0F 38, 3 is 0F 3A.
struct Entry {
  u8 map;
  u8 first;
  u8 last;
  u8 prefix;
  Mod mod;
  i8 reg;     // ModRM.reg
  i16 modrm;  // the whole byte
  Unannounced kind;
  std::string_view reason;
};

constexpr auto undefined = Unannounced::undefined;
constexpr auto older = Unannounced::older;

// Intel SDM vol. 2, opcode maps (appendix A) and the instructions' pages.
constexpr std::array entries{
    Entry{0, 0xC4, 0xC5, any_prefix, Mod::reg, any_reg, any_modrm, undefined,
          "VEX: CPUID announces neither AVX nor BMI, CR4.OSXSAVE is clear"},
    Entry{0, 0x62, 0x62, any_prefix, Mod::reg, any_reg, any_modrm, undefined, "EVEX: CPUID announces no AVX-512"},
    Entry{0, 0xC6, 0xC7, any_prefix, Mod::reg, 7, 0xF8, undefined, "XABORT, XBEGIN: CPUID announces no RTM"},
    Entry{1, 0x01, 0x01, p66, Mod::reg, any_reg, 0xCC, undefined, "TDCALL: not announced"},
    Entry{1, 0x01, 0x01, p66, Mod::reg, any_reg, 0xCD, undefined, "SEAMRET: not announced"},
    Entry{1, 0x01, 0x01, p66, Mod::reg, any_reg, 0xCE, undefined, "SEAMOPS: not announced"},
    Entry{1, 0x01, 0x01, p66, Mod::reg, any_reg, 0xCF, undefined, "SEAMCALL: not announced"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xD0, undefined, "XGETBV: CR4.OSXSAVE is clear"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xD1, undefined, "XSETBV: CR4.OSXSAVE is clear"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xD5, undefined, "XEND: CPUID announces no RTM"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xD6, undefined, "XTEST: CPUID announces no RTM"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xD7, undefined, "ENCLU: not announced"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xE8, undefined, "SERIALIZE, XSUSLDTRK: not announced"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xE9, undefined, "XRESLDTRK: not announced"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xEE, undefined, "RDPKRU: not announced"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, any_reg, 0xEF, undefined, "WRPKRU: not announced"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, 3, any_modrm, undefined, "SVM: not announced"},
    Entry{1, 0x01, 0x01, any_prefix, Mod::reg, 7, any_modrm, undefined, "MONITORX, MWAITX, CLZERO, RDPRU: AMD's"},
    Entry{1, 0x05, 0x05, any_prefix, Mod::any, any_reg, any_modrm, undefined, "SYSCALL: Intel's CPUs have it in 64-bit mode only"},
    Entry{1, 0x07, 0x07, any_prefix, Mod::any, any_reg, any_modrm, undefined, "SYSRET: Intel's CPUs have it in 64-bit mode only"},
    Entry{1, 0x2B, 0x2B, pf3 | pf2, Mod::memory, any_reg, any_modrm, undefined, "MOVNTSS, MOVNTSD: AMD's"},
    Entry{1, 0x78, 0x79, p66 | pf2, Mod::any, any_reg, any_modrm, undefined, "EXTRQ, INSERTQ: AMD's"},
    Entry{1, 0xBC, 0xBD, pf3, Mod::any, any_reg, any_modrm, older, "TZCNT, LZCNT: BSF and BSR to CPUs without them"},
    Entry{1, 0xAE, 0xAE, pf3, Mod::reg, 4, any_modrm, undefined, "PTWRITE: not announced"},
    Entry{1, 0xAE, 0xAE, any_prefix, Mod::memory, 4, any_modrm, undefined, "XSAVE, PTWRITE: not announced"},
    Entry{1, 0xAE, 0xAE, any_prefix, Mod::memory, 5, any_modrm, undefined, "XRSTOR: not announced"},
    Entry{1, 0xAE, 0xAE, any_prefix, Mod::memory, 6, any_modrm, undefined, "XSAVEOPT, CLWB, CLRSSBSY: not announced"},
    Entry{1, 0xAE, 0xAE, p66, Mod::memory, 7, any_modrm, undefined, "CLFLUSHOPT: not announced"},
    Entry{1, 0xAE, 0xAE, p66 | pf3 | pf2, Mod::reg, 6, any_modrm, undefined, "TPAUSE, UMONITOR, UMWAIT: not announced"},
    Entry{1, 0xC7, 0xC7, any_prefix, Mod::memory, 3, any_modrm, undefined, "XRSTORS: not announced"},
    Entry{1, 0xC7, 0xC7, any_prefix, Mod::memory, 4, any_modrm, undefined, "XSAVEC: not announced"},
    Entry{1, 0xC7, 0xC7, any_prefix, Mod::memory, 5, any_modrm, undefined, "XSAVES: not announced"},
    Entry{1, 0xC7, 0xC7, pf3, Mod::reg, 7, any_modrm, undefined, "RDPID: not announced"},
    Entry{2, 0x82, 0x82, p66, Mod::memory, any_reg, any_modrm, undefined, "INVPCID: not announced"},
    Entry{2, 0xC8, 0xCD, any_prefix, Mod::any, any_reg, any_modrm, undefined, "SHA extensions: not announced"},
    Entry{3, 0xCC, 0xCC, any_prefix, Mod::any, any_reg, any_modrm, undefined, "SHA extensions: not announced"},
    Entry{2, 0xCF, 0xCF, p66, Mod::any, any_reg, any_modrm, undefined, "GFNI: not announced"},
    Entry{3, 0xCE, 0xCF, p66, Mod::any, any_reg, any_modrm, undefined, "GFNI: not announced"},
    Entry{2, 0xF6, 0xF6, p66 | pf3, Mod::any, any_reg, any_modrm, undefined, "ADX: not announced"},
    Entry{2, 0xF8, 0xF8, p66 | pf3 | pf2, Mod::memory, any_reg, any_modrm, undefined, "MOVDIR64B, ENQCMD: not announced"},
    Entry{2, 0xF9, 0xF9, any_prefix, Mod::memory, any_reg, any_modrm, undefined, "MOVDIRI: not announced"},
};

struct Opcode {
  u8 map = 0;
  u8 opcode = 0;
  u8 modrm = 0;
  u8 prefix = np;
  bool complete = false;
};

Opcode parse(std::span<const u8> bytes) {
  Opcode o;
  std::size_t i = 0;
  bool operand = false;
  u8 repeat = 0;
  for (; i < bytes.size(); ++i) {
    const u8 b = bytes[i];
    if (b == 0x66) {
      operand = true;
    } else if (b == 0xF2 || b == 0xF3) {
      repeat = b;
    } else if (b != 0x26 && b != 0x2E && b != 0x36 && b != 0x3E && b != 0x64 && b != 0x65 && b != 0x67 && b != 0xF0) {
      break;
    }
  }
  o.prefix = repeat == 0xF3 ? pf3 : repeat == 0xF2 ? pf2 : operand ? p66 : np;
  const auto next = [&](u8& out) {
    if (i >= bytes.size()) return false;
    out = bytes[i++];
    return true;
  };
  if (!next(o.opcode)) return o;
  if (o.opcode == 0x0F) {
    if (!next(o.opcode)) return o;
    o.map = 1;
    if (o.opcode == 0x38 || o.opcode == 0x3A) {
      o.map = o.opcode == 0x38 ? 2 : 3;
      if (!next(o.opcode)) return o;
    }
  }
  o.complete = next(o.modrm);
  return o;
}

}  // namespace

UnannouncedInfo unannounced(std::span<const u8> bytes) {
  const Opcode o = parse(bytes);
  for (const Entry& e : entries) {
    const bool whole = o.complete || (e.mod == Mod::any && e.reg == any_reg && e.modrm == any_modrm);
    if (!whole) continue;
    if (o.map != e.map || o.opcode < e.first || o.opcode > e.last || (o.prefix & e.prefix) == 0) continue;
    if (e.mod == Mod::memory && o.modrm >= 0xC0) continue;
    if (e.mod == Mod::reg && o.modrm < 0xC0) continue;
    if (e.reg != any_reg && (o.modrm >> 3 & 7) != e.reg) continue;
    if (e.modrm != any_modrm && o.modrm != e.modrm) continue;
    return {e.kind, e.reason};
  }
  return {};
}

bool leaves_the_host(std::span<const u8> bytes) {
  const Opcode o = parse(bytes);
  constexpr u8 vmcall = 0xC1;
  constexpr u8 vmmcall = 0xD9;
  return o.complete && o.map == 1 && o.opcode == 0x01 && (o.modrm == vmcall || o.modrm == vmmcall);
}

}  // namespace ring3::hostcpu
