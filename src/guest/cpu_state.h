// The whole architectural state of one guest CPU, and beside it the few words through which emitted code and the runtime talk.
//
// Outside emitted code `CpuState` is the truth. While emitted code runs, the general registers, the flags in flag::host and (if
// `fpu_live`) the x87/SSE state are in host registers, the interrupt flag is in `link.if_flag` and the other virtual flags are in
// `link.system_flags`; the entry and exit sequences convert.
#pragma once

#include "base/types.h"
#include "guest/registers.h"
#include "guest/segment.h"

#include <array>

namespace ring3 {

// FXSAVE64 image (SDM vol. 1, 10.5.1). FIP follows every non-control x87 instruction; FOP and FDP move only with an unmasked exception, as
// on CPUs without fopcode compatibility mode and with FDP_EXCPTN_ONLY (SDM vol. 1, 8.1.8 and 8.1.9.1).
struct alignas(16) FxImage {
  u16 fcw = 0x37F;
  u16 fsw = 0;
  u8 ftw = 0;  // abridged: 1 = not empty
  u8 reserved = 0;
  u16 fop = 0;
  u64 fip = 0;
  u64 fdp = 0;
  u32 mxcsr = 0x1F80;
  u32 mxcsr_mask = 0;
  std::array<std::array<u8, 16>, 8> st{};
  std::array<std::array<u8, 16>, 16> xmm{};
  std::array<u8, 96> unused{};
};
static_assert(sizeof(FxImage) == 512);

// What the CPU does after an instruction that holds interrupts off for one instruction (SDM vol. 3, 6.8.3).
enum class Shadow : u8 { none, sti, mov_ss };

// What emitted code checks an access through a segment with, at offset `o` and of `n` bytes: it is inside if
// (o - lower mod 2^32) + n - 1 + room < 0, where -room is the number of valid offsets, and 0 if there are none for this kind of access.
struct SegmentCheck {
  u64 read_room = 0;
  u64 write_room = 0;
  u32 lower = 0;  // minus the first valid offset
  u32 base = 0;
};

// A descriptor of the GDT that a data segment register was loaded with at CPL 0: the same eight bytes under the same selector give the same
// again. Only plain data of 4 GiB, so that no mode bit changes, is kept.
struct LoadedDescriptor {
  u64 bytes = 0;
  SegmentCache cache;
  u32 from_zero = 0;  // 1: its base is 0
  SegmentCheck check;
  u64 unused[2] = {};  // emitted code scales by 64
};
static_assert(sizeof(LoadedDescriptor) == 64);

// An available 32-bit TSS of the GDT that LTR was done with: the same eight bytes under the same selector give the same again.
struct KnownTask {
  u64 bytes = 0;       // busy flag clear, as LTR finds it
  SegmentCache cache;  // selector 0: none
};

// What CPUID gave for a leaf.
struct CpuidAnswer {
  u32 leaf = 0, subleaf = 0, cr4 = 0;
  u32 known = 0;                   // 1: the rest is right
  std::array<u32, 4> registers{};  // eax ecx edx ebx
};
static_assert(sizeof(CpuidAnswer) == 32);

// Tables of one privilege that are right as they are: no flush since, and they are those that would be selected for `mode` with a flat CS.
struct SelectedView {
  u64 context = 0;  // host address (contract.h has the layout); 0: ask Memory
  u64 window = 0;   // its r14
  u32 mode = 0;     // mode bits (guest/block_key.h)
  bool operator==(const SelectedView&) const = default;
};

// The guest's fault in Vcpu::fault has not been delivered yet; it may have been counted and traced already.
enum class HeldFault : u32 { none, raised, noted };

// The words shared with emitted code. See translator/contract.h for who writes which and when.
struct EmittedLink {
  u64 poll = 0;           // host address loaded at every poll; 0 makes the poll fault into the runtime
  u64 pending = 0;        // what STI copies to `poll`: 0 while an interrupt or event waits
  u64 fpu_gate = 0;       // host address loaded before the first FPU instruction of a block; 0 faults into the runtime
  u64 always_valid = 0;   // a host address that can be loaded
  u32 if_flag = 0;        // flag::if_ or 0
  u32 x87_pointer = 0;    // FIP: EIP of the last non-control x87 instruction. Hosts lose theirs (AMD's at every FXSAVE)
  u32 system_flags = 0;   // the virtual flags except IF, with bit 1 set
  u32 host_flags = 0;     // RFLAGS as emitted code left them
  u32 exit_reason = 0;    // translator/contract.h, ExitReason
  u64 exit_argument = 0;  // depends on the reason
  u64 host_stack = 0;     // rsp of the runtime while emitted code runs
  u64 resume_at = 0;      // host address to enter
  u64 context = 0;        // r13: tables of the current view and mode
  u64 window = 0;         // r14
  u64 return_stack = 0;   // rsp while emitted code runs
  u64 esp_base_mask = 0;  // all ones if r12 is r14 + esp, 0 if it is esp
  u64 interpreter = 0;    // host address of the function that interprets an instruction for emitted code, and its first argument
  u64 engine = 0;
  u64 emitted_stack = 0;  // rsp of emitted code while a function that it called runs
  u64 fill = 0;           // host address of the function that fills the tables
  HeldFault held_fault = HeldFault::none;
  // Of the fault that emitted code delivers: what r12 lacks, the error code, eight times the vector.
  i32 esp_pending = 0;
  u32 error_code = 0;
  u32 gate_offset = 0;
  u64 missed = 0;                      // host address of the function that is called when they could not be filled
  std::array<SelectedView, 2> view{};  // supervisor, user; kept by Memory
  // Per segment: host address of its base if it is present, writable, expand-up and 4 GiB long; 0 faults into the runtime.
  std::array<u64, segment_count> segment_gate{};
  std::array<SegmentCheck, segment_count> segment_check{};
  std::array<SegmentCache, segment_count> exported{};  // the caches that the two arrays above and `segment_mode` were made from
  static constexpr u32 loaded_count = 32;
  std::array<LoadedDescriptor, loaded_count> loaded{};  // by the low bits of the selector's index
  KnownTask task;
  static constexpr u32 cpuid_count = 8;
  std::array<CpuidAnswer, cpuid_count> cpuid{};  // by the low bits of the leaf
  u32 segment_mode = 0;                          // what segments say of the mode bits
};

// Model-specific registers that are nothing but storage to the guest (values after reset: SDM vol. 3, table 9-1 and 11.12.4).
struct MsrState {
  u64 pat = 0x0007040600070406;
  u64 misc_enable = 0x1801;  // fast strings on; branch trace store and PEBS unavailable (read-only)
  u64 bios_sign_id = 0;
  u32 spec_ctrl = 0;
  u32 tsc_aux = 0;
};

struct CpuState {
  alignas(64) std::array<u32, 8> gpr{};
  u32 eip = 0;
  u32 eflags = flag::fixed1;
  EmittedLink link;

  std::array<SegmentCache, segment_count> seg{};
  SegmentCache ldtr;
  SegmentCache tr;
  DescriptorTable gdtr;
  DescriptorTable idtr;
  u32 cr0 = cr0::et;
  u32 cr2 = 0;
  u32 cr3 = 0;
  u32 cr4 = 0;
  std::array<u64, 4> pdpte{};  // loaded by MOV CR3 and friends under PAE
  std::array<u32, 8> dr{0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400};
  // DR6 bits of the data and I/O breakpoints that the current instruction met, or that MOV SS or the delivery of an event left behind: a
  // trap at the next boundary.
  u32 pending_debug = 0;
  u64 efer = 0;
  u32 sysenter_cs = 0;
  u32 sysenter_esp = 0;
  u32 sysenter_eip = 0;
  u64 tsc_offset = 0;  // guest TSC = host TSC + offset
  MsrState msr;
  u8 cpl = 0;
  Shadow shadow = Shadow::none;
  bool halted = false;
  bool nmi_masked = false;
  bool fpu_live = false;  // the x87/SSE state is in host registers whenever emitted code runs
  alignas(64) FxImage fpu;

  [[nodiscard]] SegmentCache& segment(Seg s) { return seg[static_cast<unsigned>(s)]; }
  [[nodiscard]] const SegmentCache& segment(Seg s) const { return seg[static_cast<unsigned>(s)]; }
  [[nodiscard]] bool protected_mode() const { return (cr0 & cr0::pe) != 0; }
  [[nodiscard]] bool paging() const { return (cr0 & cr0::pg) != 0; }
  [[nodiscard]] bool v8086() const { return (eflags & flag::vm) != 0; }
  [[nodiscard]] u32 iopl() const { return (eflags >> 12) & 3u; }
};

}  // namespace ring3
