// Guest memory as the CPU sees it: paging, soft tables, physical accesses, and the hooks that keep translated code true.
//
// A soft table maps a linear page to (host address - linear address), or contract::no_entry. There is one set of tables per *context*,
// which is one privilege (user or supervisor) plus the mode bits that emitted code depends on; emitted code finds the current one in r13
// (layout: translator/contract.h). The interpreter uses the same tables, so both engines see one TLB.
#pragma once

#include "base/types.h"
#include "codecache/page_slots.h"
#include "guest/address.h"
#include "guest/cpu_state.h"
#include "guest/fault.h"

#include <memory>
#include <optional>
#include <span>

namespace ring3 {

class Bus;
class GuestRam;

enum class Access : u8 { read, write, execute };

// Who wants to know about writes to pages that hold translated or predecoded code.
class CodeWatcher {
 public:
  virtual ~CodeWatcher() = default;
  // Guest physical bytes [address, address + size) on a code page were just written (or are about to be, by DMA).
  virtual void code_written(PhysAddr address, u32 size) = 0;
  // An instruction breakpoint is on at this linear address: no translation may run through it.
  virtual void code_breakpoint(u32 /*linear*/) {}
};

// Records what linear writes change, so that they can be taken back (lockstep checking). A/D bits are not part of it: setting them twice
// does no harm.
class WriteJournal {
 public:
  virtual ~WriteJournal() = default;
  // `size` (1..16) bytes of RAM at `address` are about to change from `before` to `after`.
  virtual void record(PhysAddr address, const u8* before, const u8* after, unsigned size) = 0;
};

struct Translation {
  PhysAddr address;
  bool ram = false;   // backed by guest RAM; otherwise the bus answers
  u64 fetch_tag = 0;  // of `translate_fetch`: it holds while Memory::fetch_tag is this; 0: for once
};

// What the CPU model says about page tables. It decides which entry bits are reserved (SDM vol. 3, 4.3 and 4.4.2).
struct PagingModel {
  unsigned physical_bits = 36;  // MAXPHYADDR, 32 to 52
  bool pse36 = false;           // 4 MiB pages may lie above 4 GiB
  bool pat = true;              // bit 7 of page-table entries and bit 12 of large pages are memory types, not reserved
};

// How often the tables were filled and emptied since construction.
struct MemoryStats {
  u64 data_walks = 0;       // accesses that found no entry: RAM, devices, writes on code pages
  u64 fetch_walks = 0;      // as data_walks, for code fetch
  u64 page_faults = 0;      // walks that ended in one
  u64 pages_filled = 0;     // pages entered into a context's tables, those ahead of their access included
  u64 mode_flushes = 0;     // flush_all
  u64 global_flushes = 0;   // flush_global
  u64 address_flushes = 0;  // flush_non_global
  u64 page_flushes = 0;     // flush_page
  u64 contexts_made = 0;
  u64 contexts_reused = 0;    // emptied to serve another mode or address space
  u64 contexts_released = 0;  // given back to the host, as together they held too much
  u64 contexts_adopted = 0;   // supervisors' contexts that went over to another address space
  u64 groups_compared = 0;    // with the guest's tables, after flushes; a group is 8 pages
  u64 pages_stale = 0;        // dropped for any reason
  u64 windows_opened = 0;
  u64 windows_low = 0;      // of them at host address 0
  u64 windows_closed = 0;   // they cost more than they gained
  u64 windows_emptied = 0;  // they took too many of the host's mappings
  u64 window_misses = 0;    // pages mapped into windows, with their neighbours
};

class Memory {
 public:
  Memory(CpuState& cpu, GuestRam& ram, Bus& bus);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void set_watcher(CodeWatcher* watcher);
  // While set, every linear write to RAM is recorded before it happens, and `direct` refuses writes. Null ends it.
  void set_journal(WriteJournal* journal);

  // Off: a flush drops everything but what is global, and address spaces share contexts.
  void set_keep_views(bool keep);

  // --- linear accesses (segmentation already applied) ---
  // Each returns false after filling `fault`; nothing was written then, also when only the second page of the access is absent.
  // `size` is 1..16 (any), `user` selects the rights of CPL 3. Addresses wrap at 4 GiB.
  [[nodiscard]] bool read(u32 linear, void* out, unsigned size, bool user, Fault& fault);
  [[nodiscard]] bool write(u32 linear, const void* in, unsigned size, bool user, Fault& fault);
  // Checks that [linear, linear + size) can be written (sets A and D as the write would) without writing: RMW and multi-part stores.
  [[nodiscard]] bool probe_write(u32 linear, unsigned size, bool user, Fault& fault);
  // Host pointer to the bytes from `linear` to the end of its page when the TLB holds that page for `access`, it is RAM and the access
  // needs no hook (writes: not a code page); nullptr otherwise. Never walks, so it has no side effect: do one element by `read` or `write`
  // and ask again. For string instructions.
  [[nodiscard]] u8* direct(u32 linear, Access access, bool user);

  // --- code fetch ---
  // Up to 15 bytes from `linear`, stopping at the page end if the next page cannot be fetched. Returns the count; 0: `fault` says why.
  // Sets A of every page it returns bytes from: ask for what lies in the first page before asking for more.
  [[nodiscard]] unsigned fetch(u32 linear, u8* out, unsigned wanted, bool user, Fault& fault);
  // Translates for execution; sets A. Empty: `fault` says why.
  [[nodiscard]] std::optional<Translation> translate_fetch(u32 linear, bool user, Fault& fault);

  // Walks the page tables for any access, sets A/D as it would (SDM vol. 3, 4.7-4.8). Fills the soft table on success where allowed: that
  // of the context last selected with this privilege.
  [[nodiscard]] std::optional<Translation> translate(u32 linear, Access access, bool user, Fault& fault);
  // As `translate`, for emitted code that found no entry: the one that an access takes now, or 0 if it takes none (devices, writes on code
  // pages, data breakpoints). Empty: `fault` says why.
  [[nodiscard]] std::optional<u64> fill(u32 linear, Access access, bool user, Fault& fault);
  // Debug view: walks without setting A/D, checking rights or filling tables.
  [[nodiscard]] std::optional<Translation> peek(u32 linear) const;

  // --- physical accesses: page tables, descriptor-free boot code, DMA ---
  // Outside RAM the bus answers (reads of nothing are all ones). Writes keep translated code true.
  void read_physical(PhysAddr address, void* out, u32 size);
  void write_physical(PhysAddr address, const void* in, u32 size);

  // --- TLB maintenance ---
  // After each, what the tables hold agrees with the guest's page tables, or is gone; after the first, everything is gone. Contexts that
  // are not in use learn of it when they are selected: `select_context` is due after the first three.
  void flush_all();             // the mode changed: CR0.PG/WP, CR4.PSE/PAE, EFER.NXE
  void flush_global();          // CR4.PGE changed; MOV CR3 while it is 0
  void flush_non_global();      // MOV CR3, task switch
  void flush_page(u32 linear);  // INVLPG: the whole large page if it is one
  // Re-reads PDPTEs under PAE (MOV CR3 and friends). False: a reserved bit is set, raise #GP(0) and leave the old ones.
  [[nodiscard]] bool load_pdptes(u32 cr3);
  // A20 gate: the CPU's accesses see physical bit 20 as 0 when off (it is on after construction). `read_physical` and `write_physical` are
  // not the CPU's and see it as it is. Flushes everything when it changes.
  void set_a20(bool enabled);
  // Flushes everything.
  void set_paging_model(const PagingModel& model);

  // DR0 to DR3 or DR7 changed: pages with a data breakpoint lose the table entries that would hide an access from it (guest/breakpoints.h
  // says which), and the watcher learns of instruction breakpoints. Accesses that `read` and `write` see then leave the breakpoint's bit in
  // CpuState::pending_debug.
  void breakpoints_changed();

  // --- for translated code ---
  // Makes the page that contains `address` a code page: it loses every write entry until `unwatch_code`.
  void watch_code(PhysAddr address);
  void unwatch_code(PhysAddr address);
  [[nodiscard]] bool is_code_page(PhysAddr address) const;
  // Called when CR0, CR4, CPL, the mode bits (guest/block_key.h) or base and limit of CS changed, and after a flush (`context_selected` is
  // false then): selects the context for them and the address space; returns its base (r13). Jump slots are right for one CS only, so each
  // has its own. At most `max_contexts` live at a time, and those that are not at work hold at most what `limit_contexts` says: beyond,
  // some are emptied, and any r13 that was kept for them is void. Throws UserError when the host has no address space left.
  u64 select_context(u32 mode_bits, u32 cs_base = 0, u32 cs_limit = 0xFFFFFFFF);
  // What the contexts that are not at work may hold of the host's memory, about. At work are the two selected last, one of each privilege.
  // By default a quarter of guest RAM, at least 24 MiB and at most 128 MiB.
  void limit_contexts(u64 bytes);
  [[nodiscard]] bool context_selected() const;
  // The CPU went over to the context with this base by itself: one that CpuState::link.view shows.
  void follow_context(u64 base);
  static constexpr unsigned max_contexts = 512;
  // What `translate_fetch` of this privilege says holds for as long as this number does not change; no other context ever has the same.
  [[nodiscard]] u64 fetch_tag(bool user);

  // Jump-table slots (contract::jump_table) of the current context; `select_context` comes first. The block lies in the page of `linear`
  // and in the linear pages `further`: `translate_fetch` of all of them in this context comes first too. A slot is emptied by itself when
  // one of these pages leaves the TLB. Cost of emptying: the slots that are set, not the table. True: it is the only slot of its page.
  bool set_jump(u32 linear, u32 offset, std::span<const u32> further = {});
  // Several slots of one page, for blocks that lie in that page alone.
  void set_jumps(std::span<const PageSlots::Slot> slots);
  // Empties the slot of `linear` in every context: its block died.
  void clear_jump(u32 linear);
  // Empties all slots of the page of `linear` in every context: its blocks move elsewhere.
  void clear_jumps(u32 linear);
  // The current context has no slot in the page of `linear`.
  [[nodiscard]] bool no_jumps(u32 linear) const;
  // Some context has fetched code from the page of `linear`, and the guest's tables still hold the entries that led there.
  [[nodiscard]] bool code_in_use(u32 linear) const;
  // Empties every slot of every context: the code cache is to be reused.
  void clear_all_jumps();

  // --- windows (translator/contract.h) of the current context ---
  // They open for contexts that were met at work `after` times; with 0, from the start. Without this call there are none.
  // `low`: one of them at a time may lie at host address 0.
  void set_windows(u32 after, bool low);
  // Blocks for this context have mode::window.
  [[nodiscard]] bool window_open() const;
  [[nodiscard]] bool window_low() const;  // and mode::low_window
  // r14: the host address of linear address 0; 0 if it is closed.
  [[nodiscard]] u64 window_base() const;
  // To be called now and then while the context's code runs, when some time has passed. May open or close the window.
  void met_at_work();
  // Maps the page of `linear` for reads, or for reads and writes, as far as the tables have an entry. False: they have none, or the window
  // was closed over it.
  bool map_window(u32 linear, bool write);
  [[nodiscard]] GuestRam& ram() { return ram_; }
  [[nodiscard]] MemoryStats stats() const;

 private:
  struct Impl;
  GuestRam& ram_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ring3
