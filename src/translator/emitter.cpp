#include "translator/emitter.h"

#include "base/error.h"

namespace ring3 {

using namespace asmjit;
using namespace contract;

Emitter::Emitter(CodeHolder& holder, const TranslatorOptions& options, const SiteForms& forms, const Stubs& stubs, u64 base, u32 at)
    : a_(&holder), options_(options), forms_(forms), stubs_(stubs), base_(base), at_(at) {}

x86::Mem Emitter::field(i32 offset, u32 size) { return x86::Mem(x86::r15, offset, size); }

Emitter::Gp Emitter::gpr32(unsigned guest) { return guest == esp ? x86::r12d : x86::gpd(guest); }
Emitter::Gp Emitter::gpr16(unsigned guest) { return guest == esp ? x86::r12w : x86::gpw(guest); }
Emitter::Gp Emitter::gpr64(unsigned guest) { return guest == esp ? x86::r12 : x86::gpq(guest); }

void Emitter::emit(const GuestBlock& block, u64* counter, TranslatedBlock& out) {
  key_ = block.key;
  block_ = &block;
  out_ = &out;
  count_execution(counter);
  const SiteForms::Page* const forms = forms_.page(key_.physical);
  for (const Insn& insn : block.insns) {
    insn_ = &insn;
    form_ = SiteForms::form(forms, key_.physical + guest_offset_);
    if (x87_moved_ && !keeps_x87_pointer(insn)) store_x87_pointer();
    if (!allows_pending_esp(insn)) write_esp();
    out.points.push_back({static_cast<u32>(a_.offset()), static_cast<u16>(guest_offset_), static_cast<i8>(esp_pending_)});
    out.points.back().shadowed = hold_poll_;
    out.points.back().segment = index_ != 0 && is_way_out(block.insns[index_ - 1]);
    if (index_ != 0 && poll_at_ == index_) poll();
    if (index_ == 0 && counter == nullptr && loops_with_fpu()) {
      check_fpu();
      loop_offset_ = static_cast<u8>(a_.offset());
    }
    emit_insn(insn);
    hold_poll_ = insn.row == Row::sti;
    guest_offset_ += insn.length;
    ++index_;
    if (ended_) break;
    if (is_way_out(insn)) count_execution(counter);
  }
  write_esp();
  out.points.push_back({static_cast<u32>(a_.offset()), static_cast<u16>(guest_offset_)});
  if (x87_moved_) store_x87_pointer();
  if (!ended_) {
    if (poll_at_ == index_) poll();
    jump_direct(key_.linear + guest_offset_);
  }
  emit_cold_exits(out);
}

void Emitter::emit_insn(const Insn& insn) {
  if (!must_interpret(insn)) {
    const std::size_t start = a_.offset();
    if (try_emit(insn)) {
      if (esp_is_host()) mend_esp(insn);
      if (insn.info().family == Family::x87) {
        InsnPoint& point = out_->points.back();
        point.moves_fip = moves_x87_pointer(insn.row);
        if (point.moves_fip) {
          x87_moved_ = true;
          x87_eip_ = linear() - key_.cs_base;
        }
      }
      return;
    }
    if (a_.offset() != start) throw InternalError("an emitter gave up after it had emitted code: " + std::string(row_name(insn.row)));
  }
  interpret(insn);
}

// Reports x87 exceptions that are pending, and may raise some.
bool Emitter::uses_x87(const Insn& insn) {
  const Family family = insn.info().family;
  if (family == Family::x87 || family == Family::mmx) return true;
  for (unsigned i = 0; i < insn.operand_count; ++i)
    if (insn.operand[i].kind == OperandKind::reg && insn.operand[i].reg_class == RegClass::mmx) return true;
  return false;
}

bool Emitter::must_interpret(const Insn& insn) const {
  const RowInfo& info = insn.info();
  if (info.emission == Emission::runtime) return true;
  if (info.emission == Emission::in_cache && !options_.optimizations.on(Optimization::sensitive)) return true;
  if (lacks(insn.feature)) return true;  // #UD
  if ((options_.interpreted_families >> static_cast<unsigned>(info.family) & 1u) != 0) return true;
  if (info.family == Family::sse && (key_.mode & mode::osfxsr) == 0) return true;
  if ((key_.mode & mode::x87_unmasked) != 0 && uses_x87(insn)) return true;
  return false;
}

bool Emitter::try_emit(const Insn& insn) {
  switch (insn.info().family) {
    case Family::stack: return insn.row == Row::pushf || insn.row == Row::popf ? emit_sensitive(insn) : emit_stack(insn);
    case Family::control: return emit_control(insn);
    case Family::string: return emit_string(insn);
    case Family::segment:
    case Family::system: return emit_sensitive(insn);
    case Family::flag: return insn.row == Row::cli || insn.row == Row::sti ? emit_sensitive(insn) : emit_copy(insn);
    case Family::bit: return emit_bit_test(insn);
    default: break;
  }
  if (insn.row == Row::lea) return emit_lea(insn);
  if (insn.row == Row::xlat) return emit_xlat();
  if (form_.divides && emit_checked_division(insn)) return true;
  return emit_copy(insn);
}

void Emitter::interpret(const Insn& insn) {
  if (x87_moved_) store_x87_pointer();
  if (esp_pending_ != 0) {  // an emitter gave up that could have done without
    write_esp();
    out_->points.back().host_offset = static_cast<u32>(a_.offset());
    out_->points.back().esp_pending = 0;
  }
  out_->points.back().emitted = false;
  jump_to_interpreter();
  if (ends_block(insn)) ended_ = true;
}

void Emitter::name_interpret_site() {
  a_.mov(field(offset::exit_argument, 4), 0x7FFFFFFF);
  out_->interpret_sites.push_back({static_cast<u32>(a_.offset()) - 4, index_});
}

void Emitter::jump_to_interpreter() {
  name_interpret_site();
  a_.jmp(Imm(base_ + interpret_stub()));
}

bool Emitter::allows_pending_esp(const Insn& insn) const {
  if (must_interpret(insn) || poll_at_ == index_ || form_.divides) return false;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& o = insn.operand[i];
    if (o.kind == OperandKind::reg && (o.reg_class == RegClass::gpr32 || o.reg_class == RegClass::gpr16) && o.reg == esp) return false;
  }
  switch (insn.info().family) {
    case Family::stack: return insn.row == Row::push || insn.row == Row::pop || insn.row == Row::leave;
    case Family::control: return insn.row == Row::call || insn.row == Row::ret;
    case Family::alu:
    case Family::shift:
    case Family::muldiv:
    case Family::bit:
    case Family::mov:
    case Family::x87:
    case Family::mmx:
    case Family::sse: return true;
    default: return false;
  }
}

// Behind the last access of an instruction that can fault.
void Emitter::move_esp(i32 step) {
  constexpr i32 most = 100;  // what a point can hold, and far less than the guards of a window
  esp_pending_ += step;
  if (!options_.optimizations.on(Optimization::merged_esp) || esp_pending_ > most || esp_pending_ < -most) write_esp();
}

void Emitter::write_esp() {
  if (esp_pending_ == 0) return;
  add_to_esp(esp_pending_);
  esp_pending_ = 0;
}

// Some hosts do additions to 64 bits while they rename registers, but none to 32. Code for the window at host address 0 does not look at
// the upper half.
void Emitter::add_to_esp(i32 step) { a_.lea(esp_is_host() || low_window() ? Gp(x86::r12) : Gp(x86::r12d), x86::ptr(x86::r12, step)); }

// Writing r12d clears the upper half, but for some instructions that may leave their destination alone.
void Emitter::mend_esp(const Insn& insn) {
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const Operand& o = insn.operand[i];
    if (o.kind != OperandKind::reg || o.reg_class != RegClass::gpr32 || o.reg != esp || !o.written) continue;
    switch (insn.row) {
      case Row::add:
      case Row::sub:
      case Row::and_:
      case Row::inc:
      case Row::dec:
      case Row::mov:
      case Row::lea: break;
      default: a_.mov(x86::r12d, x86::r12d);
    }
    a_.lea(x86::r12, x86::ptr(x86::r14, x86::r12));
    return;
  }
}

void Emitter::poll() {
  a_.mov(x86::r9, field(offset::poll, 8));
  a_.mov(x86::r9d, x86::dword_ptr(x86::r9));
}

void Emitter::poll_loop() {
  if (!hold_poll_ && !options_.optimizations.on(Optimization::steps)) poll();
}

void Emitter::check_fpu() {
  out_->uses_fpu = true;
  if (uses_x87(*insn_)) out_->uses_x87 = true;
  if (fpu_checked_) return;
  fpu_checked_ = true;
  a_.mov(x86::r9, field(offset::fpu_gate, 8));
  a_.mov(x86::r9d, x86::dword_ptr(x86::r9));
}

// What neither leaves the block nor calls anything that could end in another one.
bool Emitter::keeps_x87_pointer(const Insn& insn) const {
  if (!options_.optimizations.on(Optimization::fpu_state) || must_interpret(insn) || form_.divides) return false;
  switch (insn.info().family) {
    case Family::alu:
    case Family::shift:
    case Family::bit:
    case Family::mov:
    case Family::x87:
    case Family::mmx:
    case Family::sse: return true;
    case Family::stack: return insn.row == Row::push || insn.row == Row::pop || insn.row == Row::leave;
    default: return false;
  }
}

// The block jumps to its own start behind an FPU instruction: then the gate can stand at its start, and the jump leads behind it.
bool Emitter::loops_with_fpu() const {
  if (!options_.optimizations.on(Optimization::fpu_state)) return false;
  bool fpu = false;
  for (u32 at = 0; const Insn& insn : block_->insns) {
    at += insn.length;
    const Family family = insn.info().family;
    if ((family == Family::x87 || family == Family::mmx || family == Family::sse) && !must_interpret(insn)) fpu = true;
    if (fpu && insn.operand_count == 1 && insn.operand[0].kind == OperandKind::rel && key_.linear + at + insn.target == key_.linear)
      return insn.row != Row::call && in_page(key_.linear);
  }
  return false;
}

void Emitter::store_x87_pointer() {
  a_.mov(field(offset::x87_pointer, 4), x87_eip_);
  note_address();
  x87_moved_ = false;
}

// SDM vol. 1, 8.1.8: control instructions do not move FIP.
bool Emitter::moves_x87_pointer(Row row) {
  switch (row) {
    case Row::fldcw:
    case Row::fnclex:
    case Row::fnstcw:
    case Row::fnstsw:
    case Row::fwait:
    case Row::fdisi8087_nop:
    case Row::feni8087_nop:
    case Row::fsetpm287_nop: return false;
    default: return true;
  }
}

void Emitter::count_execution(u64* counter) {
  const std::vector<Insn>& insns = block_->insns;
  if (counter == nullptr || index_ == insns.size()) return;
  u32 count = 1;
  while (index_ + count < insns.size() && !is_way_out(insns[index_ + count - 1])) ++count;
  a_.mov(x86::r9, Imm(reinterpret_cast<u64>(counter)));
  for (const i32 word : {0, 1}) {
    if (word == 0 && index_ != 0) continue;
    a_.mov(x86::r8, x86::qword_ptr(x86::r9, word * 8));
    a_.lea(x86::r8, x86::ptr(x86::r8, word == 0 ? 1 : static_cast<i32>(count)));
    a_.mov(x86::qword_ptr(x86::r9, word * 8), x86::r8);
  }
}

}  // namespace ring3
