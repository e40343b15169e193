// The translating engine on small flat programs, against results computed by hand.
#include "runtime/bt/bt_engine.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <new>

#include "base/sanitizer.h"
#include "runtime/interp/native_stubs.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"
#include "translator/contract.h"

namespace ring3 {
namespace {

class StopBus : public Bus {
 public:
  u32 io_read(u16, unsigned) override { return 0xFFFFFFFF; }
  void io_write(u16 port, unsigned, u32) override {
    if (port == 0xF4) stop = true;
  }
  u64 mmio_read(PhysAddr, unsigned) override { return ~u64{0}; }
  void mmio_write(PhysAddr, unsigned, u64) override {}
  [[nodiscard]] bool interrupt_requested() const override { return false; }
  u8 acknowledge_interrupt() override { return 0; }
  void service() override {}
  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override { return {}; }
  void wait_for_event() override {}
  [[nodiscard]] bool stop_requested() const override { return stop; }
  void set_ferr(bool) override {}
  bool stop = false;
};

class BtEngineTest : public testing::Test {
 protected:
  static constexpr u32 code_at = 0x1000;

  BtEngineTest()
      : region_(4 << 20),
        cpu_(*new (region_.state_area()) CpuState),
        ram_(16 << 20),
        memory_(cpu_, ram_, bus_),
        model_(CpuModel::make_default()),
        vcpu_(cpu_, memory_, bus_, model_) {
    vcpu_.native = &native_;
    cpu_.cr0 = cr0::pe | cr0::et;
    cpu_.cr4 = cr4::osfxsr;
    for (auto& seg : cpu_.seg) seg = {0x10, 0xC093, 0, 0xFFFFFFFF};
    cpu_.segment(Seg::cs) = {0x08, 0xC09B, 0, 0xFFFFFFFF};
    cpu_.gpr[esp] = 0x8000;
    cpu_.eip = code_at;
  }
  ~BtEngineTest() override { engine_.reset(); }
  void SetUp() override {
    if (address_sanitizer) GTEST_SKIP() << "emitted code does not run beside AddressSanitizer";
  }

  void put(u32 at, std::initializer_list<int> bytes) {
    for (int b : bytes) *ram_.at({at++}) = static_cast<u8>(b);
  }
  StopInfo run(BtOptions options = {}) {
    options.count = true;
    engine_ = std::make_unique<BtEngine>(vcpu_, region_, options);
    return engine_->run();
  }

  StopBus bus_;
  CodeRegion region_;
  CpuState& cpu_;
  GuestRam ram_;
  Memory memory_;
  CpuModel model_;
  Vcpu vcpu_;
  NativeStubs native_;
  std::unique_ptr<BtEngine> engine_;
};

TEST_F(BtEngineTest, LoopRunsEmittedAndLinked) {
  put(code_at, {0xB9, 0xE8, 0x03, 0, 0,  // mov ecx, 1000
                0x31, 0xC0,              // xor eax, eax
                0x01, 0xC8,              // add eax, ecx
                0x49,                    // dec ecx
                0x75, 0xFB,              // jnz -5
                0xE6, 0xF4});            // out 0xf4, al
  EXPECT_EQ(run().reason, StopReason::bus_request);
  EXPECT_EQ(cpu_.gpr[eax], 500500u);
  EXPECT_EQ(cpu_.gpr[ecx], 0u);
  EXPECT_EQ(cpu_.eip, code_at + 14);
  EXPECT_EQ(engine_->emitted_instructions(), 2u + 3 * 1000);
  EXPECT_LT(engine_->counters().exits_link, 10u);
}

TEST_F(BtEngineTest, SiteThatMissesLooksUpByCall) {
  put(code_at, {0xBB, 0x00, 0x00, 0x10, 0,     // mov ebx, 0x100000
                0xB9, 0x0A, 0,    0,    0,     // mov ecx, 10
                0xFF, 0x03,                    // inc dword [ebx]
                0x81, 0xC3, 0x00, 0,    2, 0,  // add ebx, 0x20000
                0x49,                          // dec ecx
                0x75, 0xF5,                    // jnz -11
                0xE6, 0xF4});
  EXPECT_EQ(run().reason, StopReason::bus_request);
  for (u32 i = 0; i < 10; ++i) EXPECT_EQ(*ram_.at({0x100000 + i * 0x20000}), 1u);
  EXPECT_EQ(engine_->counters().misses_by_fault, 2u);
  EXPECT_EQ(engine_->counters().misses_by_call, 8u);
  EXPECT_EQ(engine_->counters().calls_unfilled, 0u);
  EXPECT_EQ(engine_->counters().calling_sites, 1u);
}

TEST_F(BtEngineTest, WindowServesWhatTheTablesHold) {
  put(code_at, {0xBB, 0x00, 0x00, 0x10, 0,     // mov ebx, 0x100000
                0xB9, 0x0A, 0,    0,    0,     // mov ecx, 10
                0xFF, 0x03,                    // inc dword [ebx]
                0x8B, 0x43, 0x04,              // mov eax, [ebx+4]
                0x81, 0xC3, 0x00, 0,    2, 0,  // add ebx, 0x20000
                0x49,                          // dec ecx
                0x75, 0xF2,                    // jnz -14
                0xE6, 0xF4});
  BtOptions windows_at_once;
  windows_at_once.window_after = 0;
  EXPECT_EQ(run(windows_at_once).reason, StopReason::bus_request);
  for (u32 i = 0; i < 10; ++i) EXPECT_EQ(*ram_.at({0x100000 + i * 0x20000}), 1u);
  EXPECT_EQ(memory_.stats().windows_opened, 1u);
  EXPECT_EQ(engine_->counters().window_faults, 10u);  // one a page, and none for the read behind it
  EXPECT_EQ(engine_->counters().misses_by_fault + engine_->counters().misses_by_call, 0u);
}

TEST_F(BtEngineTest, SitesThatNoWindowServesLeaveIt) {
  put(code_at, {0xB9, 0x32, 0,    0,   0,  // mov ecx, 50
                0xA1, 0,    0,    0,   2,  // mov eax, [0x2000000]: no RAM
                0x31, 0xDB,                // xor ebx, ebx
                0x89, 0x5B, 0xFC,          // mov [ebx-4], ebx: wraps, no RAM either
                0x49,                      // dec ecx
                0x75, 0xF3, 0xE6, 0xF4});  // jnz -13; out 0xf4, al
  BtOptions windows_at_once;
  windows_at_once.window_after = 0;
  EXPECT_EQ(run(windows_at_once).reason, StopReason::bus_request);
  EXPECT_EQ(cpu_.gpr[eax], 0xFFFFFFFFu);
  EXPECT_EQ(engine_->counters().window_leavers, 2u);
  EXPECT_LT(engine_->counters().window_faults, 12u);
}

TEST_F(BtEngineTest, MemoryStackAndCalls) {
  put(code_at, {0xBC, 0x00, 0x80, 0,    0,        // mov esp, 0x8000
                0xE8, 0x0B, 0,    0,    0,        // call +11 -> 0x1015
                0xA3, 0x00, 0x90, 0,    0,        // mov [0x9000], eax
                0xE6, 0xF4,                       // out
                0x90, 0x90, 0x90, 0x90,           //
                0x68, 0x78, 0x56, 0x34, 0x12,     // push 0x12345678
                0x8B, 0x04, 0x24,                 // mov eax, [esp]
                0x8F, 0x44, 0x24, 0xFC,           // pop [esp-4]
                0x86, 0x25, 0x01, 0x90, 0,    0,  // xchg [0x9001], ah
                0xC3});
  EXPECT_EQ(run().reason, StopReason::bus_request);
  u32 stored = 0;
  memory_.read_physical({0x9000}, &stored, 4);
  EXPECT_EQ(cpu_.gpr[esp], 0x8000u);
  EXPECT_EQ(stored, 0x12340078u);  // AH was exchanged with the zero byte at 9001h, then EAX stored over it
  u32 below = 0;
  memory_.read_physical({0x7FF8}, &below, 4);
  EXPECT_EQ(below, 0x12345678u);  // POP [esp-4] addresses with the incremented ESP
}

// Registers of x87 and SSE, MXCSR, DF and the status flags live through a call of the interpreter.
TEST_F(BtEngineTest, InterpretsByACallWithLiveState) {
  put(code_at, {0xB8, 0x34, 0x12, 0,    0,        // mov eax, 0x1234
                0x66, 0x0F, 0x6E, 0xF8,           // movd xmm7, eax
                0xD9, 0xE8,                       // fld1
                0xB9, 0x00, 0x01, 0,    0,        // mov ecx, 256
                0x51,                             // again: push ecx
                0xFD,                             // std
                0xB8, 0xFF, 0xFF, 0xFF, 0x7F,     // mov eax, 0x7fffffff
                0x83, 0xC0, 0x01,                 // add eax, 1: OF SF AF PF
                0xB9, 0x8B, 0,    0,    0,        // mov ecx, IA32_BIOS_SIGN_ID
                0x0F, 0x32,                       // rdmsr
                0x9C,                             // pushf
                0x5B,                             // pop ebx
                0x59,                             // pop ecx
                0xFC,                             // cld
                0x49,                             // dec ecx
                0x75, 0xE8,                       // jnz again
                0xDB, 0x1D, 0x00, 0x90, 0,    0,  // fistp dword [0x9000]
                0x66, 0x0F, 0x7E, 0xFE,           // movd esi, xmm7
                0xE6, 0xF4});
  cpu_.msr.bios_sign_id = 0x77;
  EXPECT_EQ(run().reason, StopReason::bus_request);
  EXPECT_EQ(cpu_.gpr[eax], 0x77u);
  EXPECT_EQ(cpu_.gpr[esi], 0x1234u);
  EXPECT_EQ(cpu_.gpr[ebx] & 0xFFFu, 0xC96u);
  u32 stored = 0;
  memory_.read_physical({0x9000}, &stored, 4);
  EXPECT_EQ(stored, 1u);
  EXPECT_EQ(engine_->counters().direct_interprets, 257u);
  EXPECT_EQ(engine_->counters().exits_interpret, 0u);
}

TEST_F(BtEngineTest, FlagsAndStringsAndFpu) {
  put(code_at, {0xBE, 0x00, 0x20, 0,    0,           // mov esi, 0x2000
                0xBF, 0xF9, 0x2F, 0,    0,           // mov edi, 0x2ff9: crosses a page
                0xB9, 0x20, 0,    0,    0,           // mov ecx, 32
                0xF9,                                // stc
                0xF3, 0xA4,                          // rep movsb
                0x9C,                                // pushf
                0xD9, 0xE8,                          // fld1
                0xD8, 0xC0,                          // fadd st0, st0
                0xDB, 0x1D, 0x00, 0x90, 0,    0,     // fistp dword [0x9000]
                0x0F, 0x28, 0x05, 0x10, 0x20, 0, 0,  // movaps xmm0, [0x2010]
                0x0F, 0x11, 0x05, 0x01, 0x91, 0, 0,  // movups [0x9101], xmm0
                0xE6, 0xF4});
  for (u32 i = 0; i < 32; ++i) *ram_.at({0x2000 + i}) = static_cast<u8>(i + 1);
  EXPECT_EQ(run().reason, StopReason::bus_request);
  for (u32 i = 0; i < 32; ++i) EXPECT_EQ(*ram_.at({0x2FF9 + i}), i + 1);
  EXPECT_EQ(cpu_.gpr[ecx], 0u);
  EXPECT_EQ(cpu_.gpr[esi], 0x2020u);
  EXPECT_EQ(cpu_.gpr[edi], 0x3019u);
  u32 pushed = 0;
  memory_.read_physical({0x7FFC}, &pushed, 4);
  EXPECT_EQ(pushed, 0x3u);
  u32 two = 0;
  memory_.read_physical({0x9000}, &two, 4);
  EXPECT_EQ(two, 2u);
  EXPECT_EQ(*ram_.at({0x9101}), 17);
  EXPECT_EQ(*ram_.at({0x9110}), 32);
}

TEST_F(BtEngineTest, SelfModifyingNextInstruction) {
  put(code_at, {0xC6, 0x05, 0x08, 0x10, 0, 0, 0x2A,  // mov byte [0x1008], 42: the immediate of the next instruction
                0xB8, 0x00, 0, 0, 0,                 // mov eax, 0
                0xE6, 0xF4});
  EXPECT_EQ(run().reason, StopReason::bus_request);
  EXPECT_EQ(cpu_.gpr[eax], 42u);
}

// Two blocks that were translated before their common instruction met a misaligned address: neither may go on faulting.
TEST_F(BtEngineTest, EveryBlockLearnsOfAMisalignedSite) {
  put(code_at, {0xBB, 0x00, 0x90, 0, 0,  // mov ebx, 0x9000
                0xE8, 0xF6, 0,    0, 0,  // call 0x1100
                0xE8, 0xF2, 0,    0, 0,  // call 0x1101
                0xBB, 0x01, 0x90, 0, 0,  // mov ebx, 0x9001
                0xB9, 0x64, 0,    0, 0,  // mov ecx, 100
                0xE8, 0xE2, 0,    0, 0,  // call 0x1100
                0xE8, 0xDE, 0,    0, 0,  // call 0x1101
                0x49,                    // dec ecx
                0x75, 0xF3,              // jnz -13
                0xE6, 0xF4});
  put(0x1100, {0x90, 0x8B, 0x03, 0xC3});  // nop; mov eax, [ebx]; ret
  put(0x9001, {0x78, 0x56, 0x34, 0x12});
  EXPECT_EQ(run().reason, StopReason::bus_request);
  EXPECT_EQ(cpu_.gpr[eax], 0x12345678u);
  EXPECT_EQ(engine_->counters().unaligned_sites, 1u);
  EXPECT_LT(engine_->counters().exits_fault, 20u);
}

}  // namespace
}  // namespace ring3
