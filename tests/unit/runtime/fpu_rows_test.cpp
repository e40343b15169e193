// What surrounds the host's FPU: checks in the manual's order, pointers, environment images, unmasked exceptions. Results of computations
// are judged by the host CPU (tests/hostcpu).
#include "frontend/decoder.h"
#include "runtime/interp/handlers.h"
#include "runtime/interp/native_stubs.h"
#include "runtime/memory/ram.h"
#include "runtime/system/cpu_model.h"
#include "runtime/vcpu.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <initializer_list>
#include <vector>

namespace ring3 {
namespace {

class FerrBus final : public Bus {
 public:
  u32 io_read(u16, unsigned) override { return ~0u; }
  void io_write(u16, unsigned, u32) override {}
  u64 mmio_read(PhysAddr, unsigned) override { return ~u64{0}; }
  void mmio_write(PhysAddr, unsigned, u64) override {}
  [[nodiscard]] bool interrupt_requested() const override { return false; }
  u8 acknowledge_interrupt() override { return 0; }
  void service() override {}
  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override { return std::nullopt; }
  void wait_for_event() override {}
  [[nodiscard]] bool stop_requested() const override { return false; }
  void set_ferr(bool asserted) override { ferr = asserted; }
  bool ferr = false;
};

using Code = std::initializer_list<u8>;

// Flat protected mode without paging. Memory operands of the tests are [ebx] = 2000h.
class FpuRowsTest : public ::testing::Test {
 protected:
  static constexpr u32 operand = 0x2000;

  FpuRowsTest() {
    state.cr0 = cr0::pe | cr0::ne | cr0::et;
    state.cr4 = cr4::osfxsr | cr4::osxmmexcpt;
    state.seg.fill({0x10, 0xC093, 0, 0xFFFFFFFF});
    state.segment(Seg::cs) = {0x08, 0xC09B, 0, 0xFFFFFFFF};
    state.eip = 0x1234;
    state.gpr[ebx] = operand;
    vcpu.native = &stubs;
    memory.flush_all();
  }

  Flow run(Code code, Vcpu& on) {
    const std::vector<u8> bytes(code);
    Insn insn;
    EXPECT_EQ(decoder.decode(bytes, true, insn), DecodeStatus::ok);
    return handlers.get(insn.row)(on, insn);
  }
  Flow run(Code code) { return run(code, vcpu); }
  ::testing::AssertionResult raises(Code code, Vector vector) {
    const Flow flow = run(code);
    if (flow == Flow::fault && vcpu.fault.vector == vector) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "flow " << static_cast<int>(flow) << ", vector " << static_cast<int>(vcpu.fault.vector);
  }
  ::testing::AssertionResult succeeds(Code code) {
    const Flow flow = run(code);
    if (flow == Flow::next) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "flow " << static_cast<int>(flow) << ", vector " << static_cast<int>(vcpu.fault.vector);
  }
  template <typename T>
  void poke(u32 at, T value) {
    std::memcpy(ram.at({at}), &value, sizeof value);
  }
  template <typename T>
  T peek(u32 at) {
    T value{};
    std::memcpy(&value, ram.at({at}), sizeof value);
    return value;
  }
  void make_pending() {
    state.fpu.fcw = 0x37E;  // invalid operation unmasked
    state.fpu.fsw = 0x8081;
  }

  CpuState state;
  GuestRam ram{1u << 20};
  FerrBus bus;
  Memory memory{state, ram, bus};
  CpuModel model = CpuModel::make_default();
  NativeStubs stubs;
  Vcpu vcpu{state, memory, bus, model};
  HandlerTable handlers;
  Decoder decoder;
};

const Code fld1{0xD9, 0xE8};
const Code fadd_mem{0xD8, 0x03};
const Code fwait{0x9B};
const Code fnclex{0xDB, 0xE2};
const Code fnstsw_ax{0xDF, 0xE0};
const Code paddb_mmx{0x0F, 0xFC, 0xC1};
const Code pshufw{0x0F, 0x70, 0xC1, 0x1B};
const Code addps{0x0F, 0x58, 0xC1};
const Code movaps_load{0x0F, 0x28, 0x03};
const Code movups_load{0x0F, 0x10, 0x03};
const Code movq2dq{0xF3, 0x0F, 0xD6, 0xC1};
const Code fxsave{0x0F, 0xAE, 0x03};
const Code fxrstor{0x0F, 0xAE, 0x0B};
const Code stmxcsr{0x0F, 0xAE, 0x1B};
const Code ldmxcsr{0x0F, 0xAE, 0x13};
const Code fnstenv{0xD9, 0x33};
const Code fnsave{0xDD, 0x33};
const Code frstor{0xDD, 0x23};

// SDM vol. 3, table 2-2 and 13.1.
TEST_F(FpuRowsTest, TaskSwitchedMakesEveryUseADeviceFault) {
  state.cr0 |= cr0::ts;
  for (const Code& code : {fld1, paddb_mmx, addps, fxsave, fnstsw_ax, fnclex, ldmxcsr})
    EXPECT_TRUE(raises(code, Vector::device_not_available));
  EXPECT_TRUE(succeeds(fwait));
  state.cr0 |= cr0::mp;
  EXPECT_TRUE(raises(fwait, Vector::device_not_available));
}

TEST_F(FpuRowsTest, EmulationIsADeviceFaultForX87AndUndefinedForTheRest) {
  state.cr0 |= cr0::em;
  for (const Code& code : {fld1, fnclex, fxsave}) EXPECT_TRUE(raises(code, Vector::device_not_available));
  for (const Code& code : {paddb_mmx, addps, stmxcsr}) EXPECT_TRUE(raises(code, Vector::invalid_opcode));
  EXPECT_TRUE(succeeds(fwait));
  state.cr0 |= cr0::ts;
  EXPECT_TRUE(raises(addps, Vector::invalid_opcode));  // comes before #NM
}

TEST_F(FpuRowsTest, WithoutOsfxsrOnlyXmmIsUndefined) {
  state.cr4 = 0;
  for (const Code& code : {addps, movaps_load, movq2dq, ldmxcsr}) EXPECT_TRUE(raises(code, Vector::invalid_opcode));
  for (const Code& code : {paddb_mmx, pshufw, fld1, fxsave}) EXPECT_TRUE(succeeds(code));
}

TEST_F(FpuRowsTest, MissingFeaturesAreUndefined) {
  constexpr u32 fpu = 1u << 0;
  constexpr u32 mmx = 1u << 23;
  const CpuModel old = CpuModel::make(0, fpu | mmx, 0, 0, 0);
  Vcpu pentium(state, memory, bus, old);
  pentium.native = &stubs;
  EXPECT_EQ(run(fld1, pentium), Flow::next);
  EXPECT_EQ(run(paddb_mmx, pentium), Flow::next);  // the row's own feature is SSE2's wider form
  for (const Code& code : {pshufw, addps, fxsave, movq2dq}) {
    EXPECT_EQ(run(code, pentium), Flow::fault);
    EXPECT_EQ(pentium.fault.vector, Vector::invalid_opcode);
  }
}

TEST_F(FpuRowsTest, PendingExceptionIsReportedByWaitingInstructionsOnly) {
  make_pending();
  for (const Code& code : {fld1, fadd_mem, fwait, paddb_mmx, movq2dq}) EXPECT_TRUE(raises(code, Vector::x87));
  for (const Code& code : {addps, fnstsw_ax, fxsave, stmxcsr}) EXPECT_TRUE(succeeds(code));
  EXPECT_EQ(state.gpr[eax] & 0xFFFFu, 0x8081u);
  EXPECT_TRUE(succeeds(fnclex));
  EXPECT_TRUE(succeeds(fld1));
}

TEST_F(FpuRowsTest, WithoutNativeErrorsTheFerrPinIsRaisedAndTheInstructionWaits) {
  state.cr0 &= ~cr0::ne;
  make_pending();
  EXPECT_EQ(run(fld1), Flow::again);
  EXPECT_TRUE(bus.ferr);
  EXPECT_TRUE(succeeds(fnclex));
  EXPECT_FALSE(bus.ferr);
  EXPECT_TRUE(succeeds(fld1));
}

TEST_F(FpuRowsTest, AlignedOperandsMustBeAligned) {
  state.gpr[ebx] = operand + 8;
  EXPECT_TRUE(raises(movaps_load, Vector::general_protection));
  EXPECT_TRUE(vcpu.fault.has_error_code);
  EXPECT_EQ(vcpu.fault.error_code, 0u);
  EXPECT_TRUE(succeeds(movups_load));
  EXPECT_TRUE(raises(fxsave, Vector::general_protection));
  EXPECT_TRUE(raises(fxrstor, Vector::general_protection));
  // It is the linear address that counts.
  state.segment(Seg::ds).base = 8;
  EXPECT_TRUE(succeeds(movaps_load));
}

// SDM vol. 1, 8.1.8 with FDP_EXCPTN_ONLY.
TEST_F(FpuRowsTest, PointersFollowNonControlInstructions) {
  EXPECT_TRUE(succeeds(fld1));
  EXPECT_EQ(state.fpu.fip, 0x1234u);
  EXPECT_EQ(state.fpu.fop, 0u);
  state.eip = 0x2222;
  EXPECT_TRUE(succeeds(fnclex));
  EXPECT_TRUE(succeeds(fwait));
  EXPECT_TRUE(succeeds(paddb_mmx));
  EXPECT_EQ(state.fpu.fip, 0x1234u);
  EXPECT_EQ(state.fpu.fop, 0u);
}

TEST_F(FpuRowsTest, DataPointerMovesOnlyWithAnUnmaskedException) {
  EXPECT_TRUE(succeeds(fld1));
  poke(operand, 1.0F);
  EXPECT_TRUE(succeeds(fadd_mem));
  EXPECT_EQ(state.fpu.fdp, 0u);
  state.fpu.fcw = 0x37E;
  poke(operand, u32{0x7F800001});  // signalling NaN
  EXPECT_TRUE(succeeds(fadd_mem));
  EXPECT_EQ(state.fpu.fsw & 0x81, 0x81);
  EXPECT_EQ(state.fpu.fdp, operand);
  EXPECT_NE(state.fpu.fop, 0u) << "and so does the opcode (SDM vol. 1, 8.1.9.1)";
}

// SDM vol. 1, figure 8-9; FCS and FDS are zero on this CPU.
TEST_F(FpuRowsTest, EnvironmentImageHoldsTheGuestsPointers) {
  state.fpu.fip = 0x11223344;
  state.fpu.fdp = 0x55667788;
  state.fpu.fop = 0x123;
  state.fpu.ftw = 0;
  EXPECT_TRUE(succeeds(fnstenv));
  EXPECT_EQ(peek<u16>(operand), 0x37F);
  EXPECT_EQ(peek<u16>(operand + 8), 0xFFFF);
  EXPECT_EQ(peek<u32>(operand + 12), 0x11223344u);
  EXPECT_EQ(peek<u16>(operand + 16), 0);
  EXPECT_EQ(peek<u16>(operand + 18), 0x123);
  EXPECT_EQ(peek<u32>(operand + 20), 0x55667788u);
  EXPECT_EQ(peek<u16>(operand + 24), 0);
  EXPECT_EQ(state.fpu.fip, 0x11223344u);
}

TEST_F(FpuRowsTest, SaveInitializesAndRestoreBringsBack) {
  EXPECT_TRUE(succeeds(fld1));
  const FxImage before = state.fpu;
  EXPECT_TRUE(succeeds(fnsave));
  EXPECT_EQ(state.fpu.fip, 0u);
  EXPECT_EQ(state.fpu.fop, 0u);
  EXPECT_EQ(state.fpu.ftw, 0);
  EXPECT_EQ(state.fpu.fsw, 0);
  EXPECT_TRUE(succeeds(frstor));
  EXPECT_EQ(state.fpu.fip, before.fip);
  EXPECT_EQ(state.fpu.fop, before.fop);
  EXPECT_EQ(state.fpu.ftw, before.ftw);
  EXPECT_EQ(state.fpu.fsw, before.fsw);
  EXPECT_EQ(state.fpu.st[0], before.st[0]);
}

TEST_F(FpuRowsTest, EnvironmentInRealModeIsMissing) {
  state.cr0 &= ~cr0::pe;
  EXPECT_EQ(run(fnstenv), Flow::missing);
  EXPECT_FALSE(vcpu.missing.empty());
}

TEST_F(FpuRowsTest, FxsaveWritesTheGuestsImageAndNothingBehindXmm7) {
  std::memset(ram.at({operand}), 0xAA, 512);
  state.fpu.fip = 0x1122334455u;  // what a 64-bit host left above 32 bits must not leak
  EXPECT_TRUE(succeeds(fxsave));
  EXPECT_EQ(peek<u32>(operand + 8), 0x22334455u);
  EXPECT_EQ(peek<u32>(operand + 12), 0u);
  EXPECT_EQ(peek<u32>(operand + 28), 0xFFFFu);  // MXCSR_MASK
  EXPECT_EQ(peek<u8>(operand + 287), 0u);
  EXPECT_EQ(peek<u8>(operand + 288), 0xAAu);
  EXPECT_EQ(peek<u8>(operand + 511), 0xAAu);
}

TEST_F(FpuRowsTest, ReservedMxcsrBitsAreAProtectionFault) {
  EXPECT_TRUE(succeeds(fxsave));
  poke(operand + 24, u32{0x10000});
  poke(operand, u16{0x27F});
  EXPECT_TRUE(raises(fxrstor, Vector::general_protection));
  EXPECT_EQ(state.fpu.fcw, 0x37F);
  poke(operand, u32{0x20000});
  EXPECT_TRUE(raises(ldmxcsr, Vector::general_protection));
  EXPECT_EQ(state.fpu.mxcsr, 0x1F80u);
  poke(operand, u32{0xFFFF});
  EXPECT_TRUE(succeeds(ldmxcsr));
  EXPECT_EQ(state.fpu.mxcsr, 0xFFFFu);
}

TEST_F(FpuRowsTest, UnmaskedSimdExceptionLeavesTheDestination) {
  const auto zeros = std::array<u8, 16>{};
  const auto ones = std::bit_cast<std::array<u8, 16>>(std::array<float, 4>{1, 1, 1, 1});
  const Code divps{0x0F, 0x5E, 0xC1};
  state.fpu.mxcsr = 0x1F80 & ~0x200u;  // zero divide unmasked
  state.fpu.xmm[0] = ones;
  state.fpu.xmm[1] = zeros;
  EXPECT_TRUE(raises(divps, Vector::simd));
  EXPECT_EQ(state.fpu.xmm[0], ones);
  EXPECT_EQ(state.fpu.mxcsr & 0x3F, 0x04u);
  state.cr4 &= ~cr4::osxmmexcpt;
  EXPECT_TRUE(raises(divps, Vector::invalid_opcode));
}

// An exact denormal result is tiny: reported when underflow is unmasked, silent when it is masked (SDM vol. 1, 4.9.1.5).
TEST_F(FpuRowsTest, ExactTinyResultRaisesUnmaskedUnderflow) {
  const Code mulss{0xF3, 0x0F, 0x59, 0xC1};
  const auto smallest_normal = std::bit_cast<std::array<u8, 16>>(std::array<u32, 4>{0x00800000, 0, 0, 0});
  const auto half = std::bit_cast<std::array<u8, 16>>(std::array<float, 4>{0.5F, 0, 0, 0});
  state.fpu.xmm[0] = smallest_normal;
  state.fpu.xmm[1] = half;
  EXPECT_TRUE(succeeds(mulss));
  EXPECT_EQ(state.fpu.mxcsr & 0x3F, 0u);
  state.fpu.xmm[0] = smallest_normal;
  state.fpu.mxcsr = 0x1F80 & ~0x800u;
  EXPECT_TRUE(raises(mulss, Vector::simd));
  EXPECT_EQ(state.fpu.mxcsr & 0x3F, 0x10u);
  EXPECT_EQ(state.fpu.xmm[0], smallest_normal);
}

TEST_F(FpuRowsTest, UnmaskedInvalidStoreLeavesMemory) {
  const Code fist16{0xDF, 0x13};
  poke(operand, u32{0x7F800000});
  EXPECT_TRUE(succeeds({0xD9, 0x03}));  // fld infinity
  poke(operand, u32{0xCAFECAFE});
  state.fpu.fcw = 0x37E;
  EXPECT_TRUE(succeeds(fist16));
  EXPECT_EQ(peek<u32>(operand), 0xCAFECAFEu);
  EXPECT_EQ(state.fpu.fsw & 0x81, 0x81);
  EXPECT_TRUE(raises(fist16, Vector::x87));
  EXPECT_TRUE(succeeds(fnclex));
  state.fpu.fcw = 0x37F;
  EXPECT_TRUE(succeeds(fist16));
  EXPECT_EQ(peek<u32>(operand), 0xCAFE8000u);  // masked: the integer indefinite
}

TEST_F(FpuRowsTest, MaskedMoveStoresSelectedBytes) {
  poke(operand, ~u64{0});
  state.gpr[edi] = operand;
  state.fpu.xmm[1] = {1, 2, 3, 4, 5, 6, 7, 8};
  state.fpu.xmm[2] = {0x80, 0x7F, 0xFF, 0, 0, 0, 0, 0x80};
  EXPECT_TRUE(succeeds({0x66, 0x0F, 0xF7, 0xCA}));
  EXPECT_EQ(peek<u64>(operand), 0x08FFFFFFFF03FF01u);
}

}  // namespace
}  // namespace ring3
