#include "interpreter.h"

#include "runtime/system/mode_bits.h"

#include <cstring>

namespace ring3::hostcpu {

namespace {

// Physical layout.
constexpr u32 directory = 0x1000;
constexpr u32 table = 0x2000;
constexpr u32 code_page = 0x3000;
constexpr u32 data_pages = 0x10000;

constexpr u32 present = 1;
constexpr u32 writable = 2;
constexpr u32 user = 4;
constexpr u32 accessed_dirty = 0x60;

constexpr u16 flat_code = 0xC0FB;  // 32-bit, 4 GiB, present, DPL 3, execute and read, accessed
constexpr u16 flat_data = 0xC0F3;

void map(GuestRam& ram, u32 linear, u32 physical, u32 rights) {
  const u32 directory_entry = table | present | writable | user | accessed_dirty;
  std::memcpy(ram.at({directory + (linear >> 22) * 4}), &directory_entry, 4);
  const u32 entry = physical | present | user | accessed_dirty | rights;
  std::memcpy(ram.at({table + ((linear >> 12) & 0x3FFu) * 4}), &entry, 4);
}
static_assert(code_base >> 22 == data_end >> 22, "one page table is enough");

}  // namespace

Interpreter::Interpreter() {
  map(ram_, code_base, code_page, 0);
  for (u32 at = 0; at < data_size; at += page) map(ram_, data_base + at, data_pages + at, data_base + at < read_only_base ? writable : 0);
  std::memset(ram_.at({code_page}), 0xF4, code_size);

  state_.cr0 = cr0::pe | cr0::pg | cr0::ne | cr0::mp | cr0::et | cr0::wp | cr0::am;
  state_.cr3 = directory;
  state_.cr4 = cr4::osfxsr | cr4::osxmmexcpt;
  state_.cpl = 3;
  state_.seg.fill({data_selector, flat_data, 0, 0xFFFFFFFF});
  state_.segment(Seg::cs) = {code_selector, flat_code, 0, 0xFFFFFFFF};
  vcpu_.native = &stubs_;
  memory_.flush_all();
  memory_.select_context(compute_mode_bits(state_));
}

u8* Interpreter::data() { return ram_.at({data_pages}); }

void Interpreter::run(const Case& test, Outcome& out) {
  const Insn& insn = test.insn;
  // An instruction may read itself.
  u8* const at = ram_.at({code_page + code_start - code_base});
  std::memcpy(at, insn.bytes.data(), insn.length);
  state_.gpr = test.before.gpr;
  state_.eip = code_start;
  state_.eflags = test.before.eflags;
  if (test.fpu) state_.fpu = test.before.fpu;

  const Handler handler = handlers_.get(insn.row);
  Flow flow = Flow::missing;
  vcpu_.missing = "no handler";
  if (handler != nullptr) {
    do flow = handler(vcpu_, insn);
    while (flow == Flow::again);
  }
  out.failure.clear();
  out.faulted = false;
  out.vector = 0;
  out.error_code = 0;
  out.address = 0;
  switch (flow) {
    case Flow::next: state_.eip += insn.length; break;
    case Flow::jumped: break;
    case Flow::fault:
      out.faulted = true;
      out.vector = static_cast<u8>(vcpu_.fault.vector);
      out.error_code = vcpu_.fault.has_error_code ? vcpu_.fault.error_code : 0;
      out.address = vcpu_.fault.vector == Vector::page ? vcpu_.fault.address : 0;
      break;
    case Flow::missing: out.failure = vcpu_.missing; break;
    case Flow::again:
    case Flow::halt: out.failure = "unexpected flow"; break;
  }
  out.after.gpr = state_.gpr;
  out.after.eip = state_.eip;
  out.after.eflags = state_.eflags;
  if (test.fpu) out.after.fpu = state_.fpu;
}

}  // namespace ring3::hostcpu
