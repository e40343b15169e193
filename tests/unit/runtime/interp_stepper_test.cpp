// Fetching, boundaries between instructions, and the interpreting engine's loop (SDM vol. 3, chapters 6 and 17).
#include "interp_fixture.h"
#include "runtime/interp/interp_engine.h"
#include "runtime/interp/stepper.h"

namespace ring3::test {
namespace {

class InterpStepper : public InterpTest {
 protected:
  static constexpr u32 gdt = 0x50000;
  static constexpr u32 idt = 0x51000;
  static constexpr u32 handlers_at = 0x60000;

  InterpStepper() {
    put(gdt + 8, 0x0000FFFF);
    put(gdt + 12, 0x00CF9B00);
    put(gdt + 16, 0x0000FFFF);
    put(gdt + 20, 0x00CF9300);
    cpu.gdtr = {gdt, 23};
    for (u32 n = 0; n < 256; ++n) {
      put(idt + 8 * n, 0x00080000 | (handler(n) & 0xFFFF));
      put(idt + 8 * n + 4, (handler(n) & 0xFFFF0000) | 0x8E00);
    }
    cpu.idtr = {idt, 0x7FF};
  }
  static u32 handler(u32 vector) { return handlers_at + 16 * vector; }
  static u32 handler(Vector vector) { return handler(static_cast<u32>(vector)); }

  void code(std::initializer_list<int> bytes, u32 at = code_at) {
    for (const int b : bytes) *ram.at({at++}) = static_cast<u8>(b);
  }
  // The word `n` of the frame that an event pushed.
  [[nodiscard]] u32 pushed(u32 n) const { return get(cpu.gpr[esp] + 4 * n); }

  InterpEngine engine{v};
};

// The stepper alone, for what the engine's loop would hide.
class InterpSteps : public InterpStepper {
 protected:
  InterpSteps() { memory.set_watcher(&forward); }
  ~InterpSteps() override { memory.set_watcher(nullptr); }
  void steps(int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_NE(stepper.take_interrupt(), StepOutcome::stop);
      ASSERT_NE(stepper.step(), StepOutcome::stop) << stepper.stop_info().detail;
    }
  }

  Stepper stepper{v};
  struct Forward : CodeWatcher {
    explicit Forward(Stepper& to) : stepper(to) {}
    void code_written(PhysAddr address, u32 size) override { stepper.code_written(address, size); }
    Stepper& stepper;
  } forward{stepper};
};

TEST_F(InterpStepper, StopsRightAfterThePortWrite) {
  code({0xB8, 5, 0, 0, 0, 0xE6, 0xF4, 0x40, 0x40});  // mov eax, 5; out F4h, al; inc eax
  EXPECT_EQ(engine.run().reason, StopReason::bus_request);
  EXPECT_EQ(cpu.gpr[eax], 5u);
  EXPECT_EQ(cpu.eip, code_at + 7);
}

TEST_F(InterpStepper, HaltWithInterruptsOffEndsTheRun) {
  code({0xF4});
  EXPECT_EQ(engine.run().reason, StopReason::halted_for_good);
  EXPECT_EQ(cpu.eip, code_at + 1);
}

TEST_F(InterpStepper, InterruptWakesFromHaltOnce) {
  code({0xFB, 0xF4, 0xE6, 0xF4});     // sti; hlt; out F4h
  code({0x43, 0xCF}, handler(0x20));  // inc ebx; iret
  bus.wake_vector = 0x20;
  EXPECT_EQ(engine.run().reason, StopReason::bus_request);
  EXPECT_EQ(cpu.gpr[ebx], 1u);
  EXPECT_EQ(bus.waits, 1);
  EXPECT_EQ(engine.stepper().delivered()[0x20], 1u);
  EXPECT_EQ(cpu.gpr[esp], stack_at);
}

TEST_F(InterpStepper, LongRepLetsInterruptsIn) {
  code({0xFB, 0xF3, 0xA4, 0xE6, 0xF4});     // sti; rep movsb; out F4h
  code({0x89, 0xCB, 0xCF}, handler(0x21));  // mov ebx, ecx; iret
  cpu.gpr[esi] = data_at;
  cpu.gpr[edi] = 0x100000;
  cpu.gpr[ecx] = 100'000;
  bus.vectors = {0x21};
  EXPECT_EQ(engine.run().reason, StopReason::bus_request);
  EXPECT_GT(cpu.gpr[ebx], 0u) << "the interrupt came in the middle";
  EXPECT_EQ(cpu.gpr[ecx], 0u);
}

TEST_F(InterpStepper, TripleFaultEndsTheRun) {
  cpu.idtr.limit = 0;
  code({0x0F, 0x0B});
  EXPECT_EQ(engine.run().reason, StopReason::triple_fault);
}

TEST_F(InterpSteps, StiHoldsInterruptsOffForOneInstruction) {
  code({0xFB, 0x40, 0x40});  // sti; inc eax; inc eax
  bus.vectors = {0x30};
  steps(2);
  EXPECT_EQ(cpu.gpr[eax], 1u);
  EXPECT_EQ(cpu.eip, code_at + 2);
  ASSERT_EQ(stepper.take_interrupt(), StepOutcome::ok);
  EXPECT_EQ(cpu.eip, handler(0x30));
  EXPECT_EQ(pushed(0), code_at + 2);
  EXPECT_EQ(cpu.eflags & flag::if_, 0u);
}

TEST_F(InterpSteps, MovSsHoldsInterruptsOff) {
  cpu.eflags |= flag::if_;
  cpu.gpr[ecx] = 0x10;
  code({0x8E, 0xD1, 0xBC, 0x00, 0x08, 0x02, 0x00});  // mov ss, cx; mov esp, 20800h
  steps(1);
  bus.vectors = {0x30};
  steps(1);
  EXPECT_EQ(cpu.gpr[esp], 0x20800u);
  ASSERT_EQ(stepper.take_interrupt(), StepOutcome::ok);
  EXPECT_EQ(cpu.gpr[esp], 0x20800u - 12);
}

TEST_F(InterpSteps, TrapFlagTrapsAfterTheInstruction) {
  code({0x9D, 0x40});  // popf; inc eax
  put(stack_at, flag::tf | flag::fixed1);
  steps(1);
  EXPECT_EQ(cpu.eip, code_at + 1) << "POPF that sets TF is not trapped itself";
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 1u);
  EXPECT_EQ(cpu.eip, handler(Vector::debug));
  EXPECT_EQ(pushed(0), code_at + 2);
  EXPECT_NE(pushed(2) & flag::tf, 0u);
  EXPECT_EQ(pushed(2) & flag::rf, 0u);
  EXPECT_NE(cpu.dr[6] & (1u << 14), 0u);
  EXPECT_EQ(cpu.eflags & flag::tf, 0u);
}

TEST_F(InterpSteps, MovSsSuppressesTheTrap) {
  code({0x8E, 0xD1, 0x40});
  cpu.gpr[ecx] = 0x10;
  cpu.eflags |= flag::tf;
  steps(1);
  EXPECT_EQ(cpu.eip, code_at + 2);
  steps(1);
  EXPECT_EQ(cpu.eip, handler(Vector::debug));
  EXPECT_EQ(pushed(0), code_at + 3);
}

TEST_F(InterpSteps, SingleStepStopsAfterEveryElementOfARep) {
  code({0xF3, 0xA4});
  cpu.gpr[esi] = data_at;
  cpu.gpr[edi] = data_at + 0x100;
  cpu.gpr[ecx] = 3;
  for (const u32 left : {2u, 1u, 0u}) {
    cpu.eip = code_at;
    cpu.eflags |= flag::tf;
    steps(1);
    EXPECT_EQ(cpu.eip, handler(Vector::debug));
    EXPECT_EQ(cpu.gpr[ecx], left);
    EXPECT_EQ(pushed(0), left == 0 ? code_at + 2 : code_at);
  }
}

TEST_F(InterpSteps, ResumeFlagLastsForOneInstruction) {
  code({0x90});
  cpu.eflags |= flag::rf;
  steps(1);
  EXPECT_EQ(cpu.eflags & flag::rf, 0u);
}

TEST_F(InterpSteps, FaultsPushTheInstructionAndRf) {
  code({0x90, 0x0F, 0x0B});
  steps(2);
  EXPECT_EQ(cpu.eip, handler(Vector::invalid_opcode));
  EXPECT_EQ(pushed(0), code_at + 1);
  EXPECT_NE(pushed(2) & flag::rf, 0u);
}

TEST_F(InterpSteps, FetchAcrossAPageThatIsAbsent) {
  enable_paging();
  code({0xB8, 1, 2, 3, 4}, 0x10FFE);
  cpu.eip = 0x10FFE;
  set_page(0x11000, 0);
  steps(1);
  EXPECT_EQ(cpu.eip, handler(Vector::page));
  EXPECT_EQ(cpu.cr2, 0x11000u);
  EXPECT_EQ(pushed(0), 0u);
  EXPECT_EQ(pushed(1), 0x10FFEu);
  set_page(0x11000, 0x11007);
  cpu.eip = 0x10FFE;
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 0x04030201u);
}

TEST_F(InterpSteps, InstructionAtAPageEndDoesNotTouchTheNextPage) {
  enable_paging();
  code({0x40}, 0x10FFF);
  cpu.eip = 0x10FFF;
  set_page(0x11000, 0x11003);
  steps(1);
  EXPECT_EQ(cpu.eip, 0x11000u);
  EXPECT_EQ(get(page_table + 4 * 0x11) & 0x20, 0u) << "the accessed flag of the next page";
}

TEST_F(InterpSteps, SecondPageOfAnInstructionIsNeverStale) {
  enable_paging();
  code({0xB8, 1, 0, 0, 0}, 0x10FFE);
  code({0xAA, 0xBB, 0xCC}, 0x15000);
  cpu.eip = 0x10FFE;
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 1u);
  set_page(0x11000, 0x15007);
  cpu.eip = 0x10FFE;
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 0xCCBBAA01u);
}

TEST_F(InterpSteps, FetchBeyondTheLimit) {
  code({0xB8, 1, 2, 3, 4});
  cpu.segment(Seg::cs).limit = code_at + 3;
  steps(1);
  EXPECT_EQ(cpu.eip, handler(Vector::general_protection));
  EXPECT_EQ(pushed(0), 0u);
  EXPECT_EQ(pushed(1), code_at);
}

TEST_F(InterpSteps, LimitCountsForDecodedInstructionsToo) {
  code({0xB8, 1, 2, 3, 4});
  steps(1);
  cpu.eip = code_at;
  cpu.gpr[eax] = 0;
  cpu.segment(Seg::cs).limit = code_at + 3;
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 0u);
  EXPECT_EQ(cpu.eip, handler(Vector::general_protection));
}

TEST_F(InterpSteps, SixteenBytesAreTooMany) {
  code({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x40});
  steps(1);
  EXPECT_EQ(cpu.eip, handler(Vector::general_protection));
  cpu.eip = code_at + 1;  // one prefix less: 15 bytes
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 1u);
}

TEST_F(InterpSteps, SmallCodeSegmentsCountOnUntilAJump) {
  cpu.segment(Seg::cs) = {0x08, 0x009B, 0, 0xFFFF};
  code({0x90, 0xEB, 0x00}, 0xFFFF);
  cpu.eip = 0xFFFF;
  steps(1);
  EXPECT_EQ(cpu.eip, 0x10000u);
  cpu.segment(Seg::cs).limit = 0xFFFFFFFF;
  steps(1);
  EXPECT_EQ(cpu.eip, 2u);
}

TEST_F(InterpSteps, CodeSizeIsPartOfWhatIsRemembered) {
  code({0xB8, 1, 0, 0x40, 0x40});  // mov eax, 40400001h, or mov ax, 1 with 16-bit code
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 0x40400001u);
  cpu.segment(Seg::cs).attributes = 0x809B;
  cpu.segment(Seg::cs).limit = 0xFFFFFFFF;
  cpu.eip = code_at;
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 0x40400001u);
  EXPECT_EQ(cpu.eip, code_at + 3);
}

TEST_F(InterpSteps, WrittenCodeIsDecodedAgain) {
  code({0xC6, 0x05, 0x09, 0x00, 0x01, 0x00, 0x43, 0x90, 0x40, 0x40});  // mov byte [10009h], 43h; nop; inc eax; inc eax
  cpu.eip = code_at + 7;
  steps(3);
  EXPECT_EQ(cpu.gpr[eax], 2u);
  cpu.eip = code_at;
  steps(4);
  EXPECT_EQ(cpu.gpr[eax], 3u);
  EXPECT_EQ(cpu.gpr[ebx], 1u) << "the last INC EAX became INC EBX";
  // A device writes too, into the middle of an instruction that starts before.
  const u8 value = 0x07;
  memory.write_physical({code_at + 6}, &value, 1);
  cpu.eip = code_at;
  steps(1);
  EXPECT_EQ(get(code_at + 9, 1), 0x07u);
}

TEST_F(InterpSteps, InstructionThatOverwritesItselfCompletes) {
  code({0xC7, 0x05, 0x00, 0x00, 0x01, 0x00, 0x90, 0x90, 0x90, 0x90, 0x40});  // mov dword [10000h], 90909090h; inc eax
  steps(2);
  EXPECT_EQ(cpu.gpr[eax], 1u);
  EXPECT_EQ(get(code_at), 0x90909090u);
}

TEST_F(InterpSteps, RemappedCodePageIsSeen) {
  enable_paging();
  code({0x40}, 0x12000);
  code({0x43}, 0x13000);
  cpu.eip = 0x12000;
  steps(1);
  set_page(0x12000, 0x13007);
  cpu.eip = 0x12000;
  steps(1);
  EXPECT_EQ(cpu.gpr[eax], 1u);
  EXPECT_EQ(cpu.gpr[ebx], 1u);
}

TEST_F(InterpSteps, MoreCodeThanIsRemembered) {
  constexpr u32 begin = 0x100000;
  constexpr u32 count = 300'000;  // over DecodeCache::max_instructions
  std::memset(ram.at({begin}), 0x43, count);
  cpu.eip = begin;
  for (u32 i = 0; i < count; ++i) ASSERT_EQ(stepper.step(), StepOutcome::ok);
  EXPECT_EQ(cpu.gpr[ebx], count);
  EXPECT_EQ(stepper.executed()[static_cast<unsigned>(Row::inc)], count);
}

TEST_F(InterpSteps, HotDataOnACodePageStaysBounded) {
  code({0xFE, 0x05, 0x80, 0x00, 0x01, 0x00, 0x40, 0xEB, 0xF7});  // inc byte [10080h]; inc eax; jmp back
  *ram.at({code_at + 0x80}) = 0;
  steps(3 * 40'000);
  EXPECT_EQ(cpu.gpr[eax], 40'000u);
  EXPECT_EQ(get(code_at + 0x80, 1), 40'000u % 256);
}

TEST_F(InterpSteps, CodeThatIsRewrittenAllTheTime) {
  code({0xFE, 0x05, 0x07, 0x00, 0x01, 0x00, 0xB0, 0x00, 0xEB, 0xF6});  // inc byte [10007h]; mov al, imm; jmp back
  for (u32 i = 1; i <= 40'000; ++i) {
    steps(3);
    ASSERT_EQ(cpu.gpr[eax] & 0xFF, i & 0xFF);
  }
}

TEST_F(InterpSteps, FeaturesTheModelLacksAreUndefined) {
  const CpuModel bare = CpuModel::make(0, 0, 0, 0, 0);
  Vcpu small(cpu, memory, bus, bare);
  Stepper with_bare(small);
  memory.set_watcher(nullptr);
  code({0x0F, 0x44, 0xC1});  // cmovz
  ASSERT_EQ(with_bare.step(), StepOutcome::ok);
  EXPECT_EQ(cpu.eip, handler(Vector::invalid_opcode));
}

TEST_F(InterpSteps, MissingThingsNameBytesAddressAndMode) {
  // A task gate for vector 3: hardware task switches are not there yet.
  put(idt + 24, 0x00180000);
  put(idt + 28, 0x00008500);
  put(gdt + 24, 0x00000068);
  put(gdt + 28, 0x00008900);
  cpu.gdtr.limit = 31;
  code({0xCC});
  ASSERT_EQ(stepper.step(), StepOutcome::stop);
  EXPECT_EQ(stepper.stop_info().reason, StopReason::missing_feature);
  EXPECT_NE(stepper.stop_info().detail.find("bytes cc"), std::string::npos) << stepper.stop_info().detail;
  EXPECT_NE(stepper.stop_info().detail.find("00010000"), std::string::npos) << stepper.stop_info().detail;
  EXPECT_NE(stepper.stop_info().detail.find("protected mode, CPL 0"), std::string::npos) << stepper.stop_info().detail;
}

}  // namespace
}  // namespace ring3::test
