// The translating engine: look up -> decode -> translate -> install -> link -> run.
#pragma once

#include <array>
#include <exception>
#include <memory>
#include <unordered_map>
#include <vector>

#include "codecache/code_cache.h"
#include "runtime/bt/host_fault.h"
#include "runtime/bt/lockstep.h"
#include "runtime/engine.h"
#include "runtime/interp/stepper.h"
#include "runtime/vcpu.h"
#include "translator/contract.h"
#include "translator/translator.h"

namespace ring3 {

struct BtOptions {
  u32 max_block = 64;  // guest instructions a block, at least 1
  bool chain = true;   // link blocks and fill jump tables; off: every block returns to the runtime
  bool count = false;  // execution counters (--stats, --dump-cache)
  bool lockstep = false;
  // A context gets a window once its code was running at this many ticks of a timer (4 to 10 ms each); 0: at once.
  u32 window_after = 3;
  TranslatorOptions translator;
};

struct BtCounters {
  u64 exits_lookup = 0;
  u64 exits_link = 0;
  u64 exits_interpret = 0;
  u64 direct_interprets = 0;  // instructions interpreted by a call from emitted code
  u64 exits_fault = 0;
  u64 polls = 0;
  u64 fpu_loads = 0;
  u64 unaligned_sites = 0;
  u64 window_faults = 0;   // host faults in windows, those that mapped a page included
  u64 window_leavers = 0;  // sites that use the tables since
  u64 jumps_ahead = 0;     // slots filled beside that of the block looked up
  u64 misses_by_fault = 0;
  u64 misses_by_call = 0;
  u64 calls_unfilled = 0;  // of those, that left emitted code: guest faults, devices, writes on code pages, page crossings
  u64 calling_sites = 0;
  u64 lockstep_blocks = 0;       // block executions compared
  u64 skipped_instructions = 0;  // counted in a block's execution but not executed there (left in the middle)
  u64 cycles_emitted = 0;        // host TSC cycles; only with `count`
  u64 cycles_translating = 0;
  u64 cycles_waiting = 0;  // HLT
};

class BtEngine final : public Engine, private CodeWatcher {
 public:
  // `vcpu.s` must lie in `region.state_area()`.
  BtEngine(Vcpu& vcpu, CodeRegion& region, const BtOptions& options);
  ~BtEngine() override;

  StopInfo run() override;
  void reset() override;
  [[nodiscard]] EngineStats stats() const override;

  [[nodiscard]] const CodeCache& cache() const { return cache_; }
  // The block that a lockstep difference was found in, or null.
  [[nodiscard]] const Block* difference() const { return difference_; }
  [[nodiscard]] const BtCounters& counters() const { return counters_; }
  [[nodiscard]] const Stepper& stepper() const { return stepper_; }
  // Guest instructions that ran as emitted code; exact only with BtOptions::count.
  [[nodiscard]] u64 emitted_instructions() const { return cache_.counted_instructions() - counters_.skipped_instructions; }

 private:
  enum class Next : u8 { go_on, stop };

  void code_written(PhysAddr address, u32 size) override;
  void code_breakpoint(u32 linear) override { cache_.kill_at(linear); }

  // --- run loop ---
  StopInfo loop();
  [[nodiscard]] u64 cycles_to_ns(u64 cycles) const;
  void sleep();
  Next boundary();                                  // events and interrupts at an instruction boundary; state is imported
  void select_mode() { select_mode(mode_bits()); }  // mode_ and the context for the current state
  void select_mode(u32 bits);
  // Emitted code may have changed over to the tables of the other privilege by itself: due before anything that asks for the current ones.
  void follow_context() {
    if (v_.s.link.context == followed_) return;
    followed_ = v_.s.link.context;
    v_.mem.follow_context(followed_);
    mode_.mode = ~0u;  // of the tables before
  }
  [[nodiscard]] u32 mode_bits() const;
  [[nodiscard]] bool mode_is(const BlockKey& key) const;  // the state is one that a block with this key is for
  [[nodiscard]] u32 guest_eip(const Block& block, u32 point) const {
    return block.key.linear + block.point(point).guest_offset - block.key.cs_base;
  }
  [[nodiscard]] u32 window_mode() const;
  [[nodiscard]] u32 same_segments_mode_bits() const;  // the same, if no segment changed since it was asked for
  [[nodiscard]] bool translatable() const;            // the mode
  [[nodiscard]] bool must_step();                     // the instruction at EIP is the interpreter's
  Next step();                                        // one instruction in the interpreter
  Next enter(u64 host, bool inside);                  // runs emitted code from `host`, handles its exit
  void run_emitted(u64 host, bool inside);
  Next handle_exit();
  Next enter_lockstep(Block& block);
  bool rehearse(Block& block);
  Next on_interpret(u32 number);
  Next after_access();  // a device was accessed: what must be looked at again before the run goes on

  // --- calls from emitted code (bt_interpret.cpp) ---
  // What the interpreter needs for an interpret site, kept from its translation; same numbers as CodeCache's.
  struct DirectSite {
    Insn insn;
    Handler handler = nullptr;
    Block* block = nullptr;
    u32 point = 0;
    u32 after = 0;                // host offset behind it, in the block
    u32 guest_offset = 0;         // in the block
    bool fpu = false;             // works on the FPU state, which must be in CpuState then
    bool plain = false;           // changes neither the mode nor a segment nor a virtual flag
    bool loads_segments = false;  // may change a segment register, without a fault too
    bool transfers = false;       // but no data segment, except by the rules for ways to an outer ring
  };
  void keep_sites(const GuestBlock& guest, Block& block, const TranslatedBlock& translated);
  static contract::Resume interpret_entry(BtEngine* engine, u32 number) noexcept;
  contract::Resume interpret_here(u32 number);
  void remember_descriptors();
  // The end of both calls: where emitted code goes on after an instruction that stands before `point` of the block. `esp_pending`: what r12
  // lacks there.
  contract::Resume go_on_after(Block& block, u32 point, u32 host_offset, StepOutcome outcome, bool to_loop, bool in_block, u32 mode_now,
                               u32 esp_pending);
  bool must_look();
  static contract::Resume miss_entry(BtEngine* engine, u32 unused) noexcept;
  contract::Resume miss_here();
  // A site that looked up by call and got no entry, found by the last host byte of the call.
  struct MissSite {
    u64 host = 0;
    u64 generation = 0;  // of the cache: what follows is right until it changes
    Block* block = nullptr;
    u32 point = 0;
    u32 eip = 0, next = 0;  // of the instruction and behind it
    u32 after = 0;          // host offset behind it, in the block
    i8 esp_pending = 0, esp_pending_after = 0;
  };
  const MissSite& miss_site(u64 host);
  [[nodiscard]] bool emitted_delivery(u64 generation) const;
  contract::Resume go_on_at_eip(u32 mode_now);  // by the jump table of the context for the current state
  contract::Resume leave(Next next);
  Next on_fault();
  // The site has another form from now on: every block that contains it goes, as the others would not learn of it and fault each time.
  Next translate_again(const Block& block, u32 point);
  Next on_window_fault(Block& block, u32 point, i64 distance);
  Next on_miss();
  void look_up_by_call(Block& block, u32 point, u64 host);                               // from now on, at that site
  static contract::Filled fill_entry(BtEngine* engine, u32 linear, u32 write) noexcept;  // called by emitted code
  [[nodiscard]] contract::Filled fill(u32 linear, bool write);
  [[nodiscard]] bool prepare_page_fault();
  void prepare_fault(u32 eip, i32 esp_pending);
  void count_unfinished(const Block& block, u32 point);
  StepOutcome deliver(HeldFault fault, const Block& block, u32 point);
  Next go_on_in(Block& block, u32 point, u64 generation);  // continues behind an interpreted instruction, in the block if that is right
  void prepare(bool inside);                               // export
  void link_to(Block& block);                              // patches the exit that led here
  void rearm();
  void resume_at(const Block& block, u32 point);
  [[nodiscard]] CodeCache::Site left_at();  // where the last exit was in its block, if it was at an instruction
  void drop_resume();                       // gives up going on inside a block
  void load_fpu();
  [[nodiscard]] u32 x87_pointer();

  // --- translation ---
  Block* find_or_translate();  // null: the interpreter must do the instruction at EIP (or the fetch fault)
  void fill_jumps_ahead(const Block& block);
  bool adopt_page(const BlockKey& key);  // blocks of that page, if they lie where nobody uses them, move there
  void lead_to_landing(const DirectExit& exit, BlockKey key);
  Block* translate(const BlockKey& key, PhysAddr physical);
  void stop_before_breakpoint();  // shortens guest_
  [[nodiscard]] bool second_page(u32 linear, PhysAddr& out);
  void flush_cache();

  Vcpu& v_;
  CodeRegion& region_;
  BtOptions options_;
  CodeCache cache_;
  Translator translator_;
  Stepper stepper_;
  Decoder decoder_;
  BtCounters counters_;
  SiteForms forms_;
  GuestBlock guest_;
  TranslatedBlock translated_;
  std::unique_ptr<FaultGuard> guard_;
  std::unique_ptr<LockstepRecord> record_;  // lockstep checking only
  std::unique_ptr<CpuState> saved_state_;
  const Block* difference_ = nullptr;
  StopInfo stop_;
  BlockKey mode_;         // mode bits, base and limit of CS; the addresses are not used
  bool delivers_ = true;  // faults are delivered by emitted code
  bool calls_ = true;     // instructions and misses are dealt with by calls from emitted code; else the shared stubs leave too
  u64 followed_ = 0;      // EmittedLink::context as Memory knows it
  u64 armed_ = 0;
  u64 slept_until_ = 0;  // host monotonic time, ns
  u64 run_cycles_ = 0;   // both clocks over all runs, to turn cycles into time
  u64 run_ns_ = 0;
  ReturnRegion return_region_;
  u32 fpu_credit_ = 0;
  u32 link_exit_ = ~0u;  // direct exit to link once its target is known
  u64 link_generation_ = 0;
  u32 resume_esp_ = 0;  // what emitted code has not put into r12 there
  u64 resume_ = 0;      // host address to enter next instead of looking EIP up; 0: none
  std::vector<DirectSite> direct_sites_;
  std::array<MissSite, 64> miss_sites_;
  Next after_call_ = Next::go_on;  // after an exit at a boundary
  std::exception_ptr failure_;     // C++ exceptions do not pass through emitted code
  std::unordered_map<u64, u32> writes_to_code_page_;
};

}  // namespace ring3
