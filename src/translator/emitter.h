// Emits one block. The class is split over one file per instruction family; contract.h holds the rules that all of them keep.
#pragma once

#include <asmjit/x86.h>

#include <bit>

#include "frontend/guest_block.h"
#include "translator/assembler.h"
#include "translator/contract.h"
#include "translator/optimizations.h"
#include "translator/site_forms.h"
#include "translator/stubs.h"
#include "translator/translated_block.h"

namespace ring3 {

struct TranslatorOptions {
  u64 missing_features = 0;      // bit per Feature that the CPU model lacks
  u32 interpreted_families = 0;  // bit per Family: these rows always go to the interpreter (to bisect a wrong translation)
  Optimizations optimizations;
};

class Emitter {
 public:
  // `base` is the host address of the code cache's offset 0, `at` the offset where the block will be installed.
  Emitter(asmjit::CodeHolder& holder, const TranslatorOptions& options, const SiteForms& forms, const Stubs& stubs, u64 base, u32 at);

  // `counter`: host address of two counters, of executions and of instructions, or null.
  void emit(const GuestBlock& block, u64* counter, TranslatedBlock& out);

 private:
  using Gp = asmjit::x86::Gp;

  enum class Table : u8 { read, write };

  struct ColdExit {
    DirectExit exit;
    asmjit::Label label;
  };

  // --- emitter.cpp: the frame ---
  void emit_insn(const Insn& insn);
  bool try_emit(const Insn& insn);  // false: nothing was emitted, the interpreter does it
  void interpret(const Insn& insn);
  [[nodiscard]] u32 interpret_stub() const {
    return options_.optimizations.on(Optimization::direct) ? stubs_.interpret : stubs_.exit_interpret;
  }
  // A change of esp that is not in r12 yet. r12 is brought up to date before whatever does not say here that it can do without.
  [[nodiscard]] bool allows_pending_esp(const Insn& insn) const;
  void move_esp(i32 step);
  void write_esp();
  void add_to_esp(i32 step);
  [[nodiscard]] bool esp_is_host() const {
    return (key_.mode & mode::window) != 0 && !low_window() && options_.optimizations.on(Optimization::host_esp);
  }
  void mend_esp(const Insn& insn);  // behind an instruction that may have written r12d
  void poll();
  void poll_loop();  // where control may come again and again, unless the timer finds a boundary by itself
  void check_fpu();
  [[nodiscard]] bool loops_with_fpu() const;
  [[nodiscard]] bool keeps_x87_pointer(const Insn& insn) const;  // store_x87_pointer is not due before it
  void store_x87_pointer();                                      // before the block can be left for another
  [[nodiscard]] static bool moves_x87_pointer(Row row);
  void count_execution(u64* counter);  // of the instructions up to the next way out; `counter` may be null
  [[nodiscard]] bool must_interpret(const Insn& insn) const;
  [[nodiscard]] static bool uses_x87(const Insn& insn);
  [[nodiscard]] static asmjit::x86::Mem field(i32 offset, u32 size);
  [[nodiscard]] static Gp gpr32(unsigned guest);  // host register of a guest register
  [[nodiscard]] static Gp gpr16(unsigned guest);
  [[nodiscard]] static Gp gpr64(unsigned guest);
  [[nodiscard]] u32 linear() const { return key_.linear + guest_offset_; }  // of the current instruction
  [[nodiscard]] u32 next_linear() const { return linear() + insn_->length; }
  [[nodiscard]] u32 next_eip() const { return next_linear() - key_.cs_base; }

  // --- memory_access.cpp ---
  // How accesses through a segment are made in this mode: as they are; with its base added, if it is plain data of 4 GiB; with base, limit
  // and rights.
  enum class SegmentForm : u8 { flat, based, checked };
  [[nodiscard]] SegmentForm segment_form(Seg segment) const;
  void effective_address(const Insn& insn, const Gp& out);  // offset, 32 bits
  // r8d: offset of an access of `size` bytes -> linear address. Faults if the access is not allowed. Clobbers r9. `may_wrap`: the access
  // may reach over offset FFFFFFFFh.
  void to_linear(Seg segment, unsigned size, Table table, bool may_wrap = true);
  void check_sign();  // faults unless r9 is negative
  // Where host_memory is: the window, the stack in it, or r9, plus a register that may be none.
  struct Place {
    Gp base = asmjit::x86::r9;
    Gp index = asmjit::x86::r8;
    u32 shift = 0;
    i32 displacement = 0;
    bool wraps = false;  // formed with 32 bits
  };
  // Makes the access of `size` bytes at r8d possible: r9 = table entry, or nothing in a window. Clobbers r11 when the site is unaligned.
  // `aligned`: a misaligned one is a fault of the guest's that comes before the page walk, so it must not come to the tables at all.
  void look_up(unsigned size, Table table, bool aligned = false);
  void load_entry(Table table, bool may_cross);                                              // the end of look_up; r9 is the index
  void operand_address(const Insn& insn, unsigned size, Table table, bool aligned = false);  // all of it for the memory operand
  [[nodiscard]] bool in_window() const { return (key_.mode & mode::window) != 0 && !form_.tables; }
  [[nodiscard]] bool low_window() const { return (key_.mode & mode::low_window) != 0; }
  [[nodiscard]] bool site_unaligned() const { return form_.unaligned && !in_window(); }
  // The address in a flat segment of a window needs no computing: [register + displacement], [register * scale + displacement], a fixed one
  // in the lower half, or one with esp, which is a host address. At host address 0 any address is the guest's own.
  bool place_directly(Seg segment, const Gp& index, u32 shift, i32 displacement);
  bool place_as_it_is(const Insn& insn);
  bool place_on_stack(Seg segment, const Gp& index, u32 shift, i32 displacement);
  [[nodiscard]] bool may_place(Seg segment, i32 displacement) const;
  bool place_directly(const Insn& insn);
  // A store of several parts may have written the first when it faults (FSTP of a real of 80 bits does): the tables answer for all of it.
  [[nodiscard]] bool fits_window(unsigned size, Table table) const {
    return in_window() && (table == Table::read || (std::has_single_bit(size) && size <= 16));
  }
  void register_operand(const Gp& base, i32 displacement, Seg segment, unsigned size, Table table);  // [base + displacement]
  [[nodiscard]] asmjit::x86::Mem host_memory(unsigned size) const;  // what the last look-up or placing led to

  // --- copy.cpp: the guest's own instruction, re-encoded ---
  bool emit_copy(const Insn& insn);
  void reencode(const Insn& insn, unsigned substituted_operand);
  bool emit_lea(const Insn& insn);
  void fault_if_unmasking();  // FLDCW of the word at [r9 + r8]

  // --- divide.cpp ---
  bool emit_checked_division(const Insn& insn);
  void compare_signed_quotient(unsigned size);

  // --- bit.cpp, stack.cpp, control.cpp, string.cpp, sensitive.cpp ---
  bool emit_bit_test(const Insn& insn);
  bool emit_xlat();
  bool emit_stack(const Insn& insn);
  bool emit_push(const Insn& insn);
  bool emit_pop(const Insn& insn);
  bool emit_leave(const Insn& insn);
  void stack_slot(i32 displacement, unsigned size, Table table);  // [esp + displacement]
  bool emit_control(const Insn& insn);
  bool emit_conditional(const Insn& insn);
  bool emit_loop(const Insn& insn);
  void jump_direct(u32 target);  // inline, ends the path
  void call_direct(u32 target);  // the same, by a call of the host if `returns` is on
  void call_table();             // the same, to the linear address in r8d
  void landing();                // behind the call; ends the path unless the block goes on
  [[nodiscard]] bool goes_on() const { return index_ + 1 < block_->insns.size(); }
  [[nodiscard]] bool within_limit(u32 target) const;  // a linear address, against the limit of CS
  void check_target(const Gp& eip);                   // 64-bit name of the register; faults beyond the limit of CS
  void target_linear(const Gp& eip);                  // r8d
  void jump_table();                                  // to the linear address in r8d
  void load_jump(bool shared = false);                // r9 = host address for the linear address in r8d
  [[nodiscard]] bool in_page(u32 target) const;
  void note_address() { out_->addresses.push_back(static_cast<u32>(a_.offset()) - 4); }  // the last four bytes are a linear address
  void patchable_jump(std::initializer_list<u8> opcode, u32 target, ExitKind kind = ExitKind::jump);
  void emit_cold_exits(TranslatedBlock& out);
  bool emit_string(const Insn& insn);
  bool emit_string_in_window(const Insn& insn, u8 opcode, unsigned size, bool source, bool destination, bool stores);
  void string_pointer(const Gp& pointer, const Gp& distance, Seg segment, Table table, const asmjit::Label& bail);
  void short_run(bool copies, unsigned size, const asmjit::Label& done);
  bool emit_sensitive(const Insn& insn);
  bool emit_pushf(const Insn& insn);
  bool emit_popf(const Insn& insn);
  bool emit_sti();
  bool emit_rdtsc(const Insn& insn);

  // --- privileged.cpp: what only CPL 0 does in the cache ---
  bool emit_privileged(const Insn& insn);
  bool emit_clts();
  bool emit_mov_to_cr0(const Insn& insn);
  bool emit_msr(bool write);
  bool emit_load_table(const Insn& insn, i32 table);
  bool emit_load_segment(const Insn& insn);
  bool emit_fast_system_call(bool exit);
  bool emit_interrupt_return();
  bool emit_software_interrupt(u8 vector);
  [[nodiscard]] bool transfers_are_flat() const;
  // Mode bits of another CPL, all segments flat.
  [[nodiscard]] u32 flat_mode(u32 cpl_bit) const;
  // The arithmetic flags to r9 and back, so that glue may use them.
  void save_flags(const Gp& scratch = asmjit::x86::r11);
  void restore_flags(const Gp& scratch = asmjit::x86::r11);
  void set_fpu_gate();         // from CR0 and fpu_live; changes flags and r11
  void name_interpret_site();  // exit_argument: for the interpreter, should it have to do the instruction
  void jump_to_interpreter();
  [[nodiscard]] bool lacks(Feature feature) const { return (options_.missing_features >> static_cast<unsigned>(feature) & 1u) != 0; }

  Assembler a_;
  const TranslatorOptions& options_;
  const SiteForms& forms_;
  const Stubs& stubs_;
  u64 base_;
  u32 at_;
  BlockKey key_;
  const GuestBlock* block_ = nullptr;
  const Insn* insn_ = nullptr;
  TranslatedBlock* out_ = nullptr;
  u32 index_ = 0;
  u32 guest_offset_ = 0;
  SiteForm form_;  // of the current instruction
  Place place_;
  bool fpu_checked_ = false;
  u8 loop_offset_ = 0;      // where a jump to the start of the block may lead while `fpu_checked_`
  bool x87_moved_ = false;  // x87_eip_ is not stored yet
  u32 x87_eip_ = 0;
  i32 esp_pending_ = 0;     // the guest's esp is r12 and this
  u32 poll_at_ = 0;         // index of the instruction before which an interrupt must be able to come in (0: none)
  bool hold_poll_ = false;  // the current instruction follows STI
  bool ended_ = false;      // the last instruction left the block on every path
  std::vector<DirectExit> pending_exits_;
};

}  // namespace ring3
