// Loads of segment registers: each check of SDM vol. 2, MOV ("Loading a segment register"), taken and passed.
#include "unit/runtime/system_fixture.h"

namespace ring3::test {
namespace {

class SegmentLoadTest : public SystemTest {
 protected:
  // mov ds/ss, ax
  Flow load_ds(u16 selector) {
    s.gpr[eax] = 0xABCD0000u | selector;
    return run({0x8E, 0xD8});
  }
  Flow load_ss(u16 selector) {
    s.gpr[eax] = 0xABCD0000u | selector;
    return run({0x8E, 0xD0});
  }
  void ds_faults(u16 selector, Vector vector, u32 error) {
    s.gpr[eax] = selector;
    expect_fault({0x8E, 0xD8}, vector, error);
  }
  void ss_faults(u16 selector, Vector vector, u32 error) {
    s.gpr[eax] = selector;
    expect_fault({0x8E, 0xD0}, vector, error);
  }
};

TEST_F(SegmentLoadTest, CachesTheDescriptorAndSetsAccessed) {
  set_gdt(spare, make_segment(0x12345678, 0x54321, 0xF2, 0xC));
  ASSERT_EQ(load_ds(spare | 3), Flow::next);
  EXPECT_EQ(s.segment(Seg::ds), (SegmentCache{spare | 3, 0xC0F3, 0x12345678, 0x54321FFF}));
  EXPECT_EQ(access_byte(spare), 0xF3);
  EXPECT_EQ(s.shadow, Shadow::none);
  set_gdt(spare, 0);
  EXPECT_EQ(s.segment(Seg::ds).base, 0x12345678u) << "the cache stays as loaded";
}

TEST_F(SegmentLoadTest, LdtSelectors) {
  set_ldt(0x0C, make_segment(0x1000, 0xFFF, 0x92, 4));
  ASSERT_EQ(load_ds(0x0C), Flow::next);
  EXPECT_EQ(s.segment(Seg::ds), (SegmentCache{0x0C, 0x4093, 0x1000, 0xFFF}));
  EXPECT_EQ(access_byte(0x0C), 0x93);
  ds_faults(0x24, Vector::general_protection, 0x24);  // limit 1Fh: four descriptors
  s.ldtr = {};
  ds_faults(0x0D, Vector::general_protection, 0x0C);
}

TEST_F(SegmentLoadTest, NullSelectors) {
  ASSERT_EQ(load_ds(3), Flow::next);
  EXPECT_EQ(s.segment(Seg::ds).selector, 3);
  EXPECT_FALSE(s.segment(Seg::ds).usable());
  ss_faults(0, Vector::general_protection, 0);
  ss_faults(3, Vector::general_protection, 0);
}

TEST_F(SegmentLoadTest, TableLimit) {
  ds_faults(beyond | 1, Vector::general_protection, beyond);
  ss_faults(beyond, Vector::general_protection, beyond);
  s.gdtr.limit = spare + 6;  // the last byte of the descriptor is outside
  set_gdt(spare, kernel_data);
  ds_faults(spare, Vector::general_protection, spare);
  s.gdtr.limit = spare + 7;
  EXPECT_EQ(load_ds(spare), Flow::next);
}

TEST_F(SegmentLoadTest, DataTypes) {
  for (const u32 access : {0x82u, 0x89u, 0x8Cu, 0x99u, 0x9Du}) {  // LDT, TSS, call gate, execute-only code
    set_gdt(spare, make_segment(0, 0xFFFFF, access, flags32));
    ds_faults(spare, Vector::general_protection, spare);
  }
  for (const u32 access : {0x90u, 0x92u, 0x96u, 0x9Au, 0x9Eu}) {
    set_gdt(spare, make_segment(0, 0xFFFFF, access, flags32));
    EXPECT_EQ(load_ds(spare), Flow::next) << access;
  }
}

TEST_F(SegmentLoadTest, DataPrivilege) {
  ds_faults(kernel_ss | 1, Vector::general_protection, kernel_ss);  // RPL > DPL
  set_ring(3);
  ds_faults(kernel_ss, Vector::general_protection, kernel_ss);  // CPL > DPL
  ds_faults(kernel_cs, Vector::general_protection, kernel_cs);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x9E, flags32));  // conforming readable code: no privilege check
  EXPECT_EQ(load_ds(spare | 3), Flow::next);
  EXPECT_EQ(load_ds(user_ss), Flow::next);
}

TEST_F(SegmentLoadTest, NotPresent) {
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x12, flags32));
  ds_faults(spare, Vector::not_present, spare);
  ss_faults(spare, Vector::stack, spare);
  EXPECT_EQ(access_byte(spare), 0x12);
}

TEST_F(SegmentLoadTest, StackChecks) {
  ss_faults(kernel_ss | 1, Vector::general_protection, kernel_ss);  // RPL != CPL
  ss_faults(user_ss, Vector::general_protection, user_ss & 0xFFFC);
  ss_faults(user_ss & 0xFFFC, Vector::general_protection, user_ss & 0xFFFC);  // DPL != CPL
  ss_faults(kernel_cs, Vector::general_protection, kernel_cs);
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x90, flags32));  // not writable
  ss_faults(spare, Vector::general_protection, spare);
  ASSERT_EQ(load_ss(kernel_ss), Flow::next);
  EXPECT_EQ(s.shadow, Shadow::mov_ss);
}

TEST_F(SegmentLoadTest, PageFaultInTheTableIsASupervisorAccess) {
  enable_paging(gdt);
  set_ring(3);
  s.gpr[eax] = user_ss;
  expect_fault({0x8E, 0xD8}, Vector::page, 0);  // not present, read, supervisor although CPL 3
  EXPECT_EQ(v.fault.address, gdt + 0x20);
}

TEST_F(SegmentLoadTest, MovToCsIsUndefined) {
  Insn insn;
  insn.row = Row::mov_to_sreg;
  insn.operand[0] = {OperandKind::reg, RegClass::segment, 1, 2, Slot::modrm_reg, false, true};
  insn.operand[1] = {OperandKind::reg, RegClass::gpr16, 0, 2, Slot::modrm_rm, true, false};
  EXPECT_EQ(handlers.get(Row::mov_to_sreg)(v, insn), Flow::fault);
  EXPECT_EQ(v.fault.vector, Vector::invalid_opcode);
}

TEST_F(SegmentLoadTest, MovFromSegment) {
  s.segment(Seg::fs).selector = 0xABCD;
  ASSERT_EQ(run({0x8C, 0xE3}), Flow::next);  // mov ebx, fs
  EXPECT_EQ(s.gpr[ebx], 0xABCDu);
  s.gpr[ebx] = 0x99999999;
  ASSERT_EQ(run({0x66, 0x8C, 0xE3}), Flow::next);  // mov bx, fs
  EXPECT_EQ(s.gpr[ebx], 0x9999ABCDu);
  put32(0x10000, 0xEEEEEEEE);
  ASSERT_EQ(run({0x8C, 0x25, 0x00, 0x00, 0x01, 0x00}), Flow::next);  // mov [10000h], fs
  EXPECT_EQ(get32(0x10000), 0xEEEEABCDu);
}

TEST_F(SegmentLoadTest, PushAndPop) {
  put32(kernel_stack - 4, 0xEEEEEEEE);
  s.segment(Seg::gs).selector = 0xABCD;
  ASSERT_EQ(run({0x0F, 0xA8}), Flow::next);  // push gs
  EXPECT_EQ(s.gpr[esp], kernel_stack - 4);
  EXPECT_EQ(get32(kernel_stack - 4), 0xEEEEABCDu);  // two of the four bytes, as Intel's CPUs do (SDM vol. 2, PUSH)
  put32(kernel_stack - 4, 0xFFFF0000u | kernel_ss);
  ASSERT_EQ(run({0x0F, 0xA1}), Flow::next);  // pop fs: the upper half is ignored
  EXPECT_EQ(s.segment(Seg::fs).selector, kernel_ss);
  EXPECT_EQ(s.gpr[esp], kernel_stack);
  ASSERT_EQ(run({0x66, 0x0F, 0xA0}), Flow::next);  // push fs, 16 bits
  EXPECT_EQ(s.gpr[esp], kernel_stack - 2);
  put32(kernel_stack, beyond);
  s.gpr[esp] = kernel_stack;
  expect_fault({0x1F}, Vector::general_protection, beyond);  // pop ds: ESP stays
  put32(kernel_stack, kernel_ss);
  ASSERT_EQ(run({0x17}), Flow::next);  // pop ss
  EXPECT_EQ(s.shadow, Shadow::mov_ss);
}

TEST_F(SegmentLoadTest, FarPointers) {
  put32(0x10000, 0xCAFEBABE);
  put16(0x10004, kernel_ss);
  s.gpr[esi] = 0x10000;
  ASSERT_EQ(run({0x0F, 0xB2, 0x26}), Flow::next);  // lss esp, [esi]
  EXPECT_EQ(s.gpr[esp], 0xCAFEBABEu);
  EXPECT_EQ(s.shadow, Shadow::none);
  ASSERT_EQ(run({0xC5, 0x1E}), Flow::next);  // lds ebx, [esi]
  EXPECT_EQ(s.gpr[ebx], 0xCAFEBABEu);
  put16(0x10002, kernel_ss);
  ASSERT_EQ(run({0x66, 0xC4, 0x0E}), Flow::next);  // les cx, [esi]
  EXPECT_EQ(s.gpr[ecx], 0x2222BABEu);
  put16(0x10004, beyond);
  expect_fault({0x0F, 0xB4, 0x16}, Vector::general_protection, beyond);  // lfs edx, [esi]: EDX stays
}

TEST_F(SegmentLoadTest, Lar) {
  s.gpr[ecx] = user_cs;
  ASSERT_EQ(run({0x0F, 0x02, 0xC1}), Flow::next);  // lar eax, ecx
  EXPECT_EQ(s.gpr[eax], 0x00CFFB00u);
  EXPECT_NE(s.eflags & flag::zf, 0u);
  s.gpr[eax] = 0x11111111;
  ASSERT_EQ(run({0x66, 0x0F, 0x02, 0xC1}), Flow::next);
  EXPECT_EQ(s.gpr[eax], 0x1111FB00u);
  struct Case {
    u32 access;
    bool lar, lsl;
  };
  // SDM vol. 2, tables of LAR and LSL: which system types are accepted.
  for (const Case& c : {Case{0x80, false, false},
                        {0x81, true, true},
                        {0x82, true, true},
                        {0x83, true, true},
                        {0x84, true, false},
                        {0x85, true, false},
                        {0x86, false, false},
                        {0x87, false, false},
                        {0x88, false, false},
                        {0x89, true, true},
                        {0x8A, false, false},
                        {0x8B, true, true},
                        {0x8C, true, false},
                        {0x8D, false, false},
                        {0x8E, false, false},
                        {0x8F, false, false}}) {
    set_gdt(spare, make_segment(0, 0x12345, c.access, 0x8));
    s.gpr[ecx] = spare;
    s.gpr[eax] = s.gpr[edx] = 0x11111111;
    ASSERT_EQ(run({0x0F, 0x02, 0xC1}), Flow::next);
    EXPECT_EQ((s.eflags & flag::zf) != 0, c.lar) << c.access;
    EXPECT_EQ(s.gpr[eax] != 0x11111111, c.lar);
    ASSERT_EQ(run({0x0F, 0x03, 0xD1}), Flow::next);  // lsl edx, ecx
    EXPECT_EQ((s.eflags & flag::zf) != 0, c.lsl) << c.access;
    EXPECT_EQ(s.gpr[edx], c.lsl ? 0x12345FFFu : 0x11111111u);
  }
}

TEST_F(SegmentLoadTest, QueriesRespectPrivilegeAndTables) {
  const auto zf_after = [&](const std::vector<u8>& bytes, u16 selector) {
    s.gpr[ecx] = selector;
    s.eflags ^= flag::zf;
    EXPECT_EQ(run(bytes), Flow::next);
    return (s.eflags & flag::zf) != 0;
  };
  const std::vector<u8> lar = {0x0F, 0x02, 0xC1}, lsl = {0x0F, 0x03, 0xC1}, verr = {0x0F, 0x00, 0xE1}, verw = {0x0F, 0x00, 0xE9};
  for (const auto& query : {lar, lsl, verr, verw}) {
    EXPECT_FALSE(zf_after(query, 0));
    EXPECT_FALSE(zf_after(query, 3));
    EXPECT_FALSE(zf_after(query, beyond));
    EXPECT_TRUE(zf_after(query, kernel_ss));
    EXPECT_FALSE(zf_after(query, kernel_ss | 3)) << "RPL > DPL";
  }
  set_ring(3);
  for (const auto& query : {lar, lsl, verr, verw}) {
    EXPECT_FALSE(zf_after(query, kernel_ss)) << "CPL > DPL";
    EXPECT_TRUE(zf_after(query, user_ss));
  }
  set_gdt(spare, make_segment(0, 0xFFFFF, 0x9E, flags32));  // conforming readable code of ring 0
  EXPECT_TRUE(zf_after(lar, spare | 3));
  EXPECT_TRUE(zf_after(lsl, spare | 3));
  EXPECT_TRUE(zf_after(verr, spare | 3));
  EXPECT_FALSE(zf_after(verw, spare | 3));
  set_gdt(spare, make_segment(0, 0xFFFFF, 0xF8, flags32));  // execute-only
  EXPECT_FALSE(zf_after(verr, spare | 3));
  set_gdt(spare, make_segment(0, 0xFFFFF, 0xF0, flags32));  // read-only data
  EXPECT_TRUE(zf_after(verr, spare | 3));
  EXPECT_FALSE(zf_after(verw, spare | 3));
  set_gdt(spare, make_segment(0, 0xFFFFF, 0xE2, flags32));  // LDT
  EXPECT_FALSE(zf_after(verr, spare | 3));
}

TEST_F(SegmentLoadTest, Arpl) {
  s.gpr[eax] = 0x5555AA01;
  s.gpr[ecx] = 0x12340003;
  ASSERT_EQ(run({0x63, 0xC8}), Flow::next);  // arpl ax, cx
  EXPECT_EQ(s.gpr[eax], 0x5555AA03u);
  EXPECT_NE(s.eflags & flag::zf, 0u);
  s.gpr[ecx] = 2;
  ASSERT_EQ(run({0x63, 0xC8}), Flow::next);
  EXPECT_EQ(s.gpr[eax], 0x5555AA03u);
  EXPECT_EQ(s.eflags & flag::zf, 0u);
}

TEST_F(SegmentLoadTest, UndefinedInV8086) {
  s.eflags |= flag::vm;
  expect_fault({0x0F, 0x02, 0xC1}, Vector::invalid_opcode, 0);
  expect_fault({0x0F, 0x00, 0xE1}, Vector::invalid_opcode, 0);
  expect_fault({0x63, 0xC8}, Vector::invalid_opcode, 0);
  expect_fault({0x0F, 0x00, 0xD1}, Vector::invalid_opcode, 0);  // lldt cx
  expect_fault({0x0F, 0x00, 0xD9}, Vector::invalid_opcode, 0);  // ltr cx
  expect_fault({0x0F, 0x00, 0xC1}, Vector::invalid_opcode, 0);  // sldt ecx
  EXPECT_EQ(run({0x8E, 0xD8}), Flow::missing);
}

}  // namespace
}  // namespace ring3::test
