// Table, control, debug and model-specific registers, SYSENTER/SYSEXIT and the small privileged instructions (SDM vol. 2).
#include "runtime/system/mode_bits.h"
#include "unit/runtime/system_fixture.h"

namespace ring3::test {
namespace {

class SystemRegistersTest : public SystemTest {
 protected:
  using Bytes = std::vector<u8>;

  Flow set_cr(u8 number, u32 value) {
    s.gpr[eax] = value;
    return run({0x0F, 0x22, static_cast<u8>(0xC0 | (number << 3))});
  }
  void cr_faults(u8 number, u32 value, Vector vector = Vector::general_protection) {
    s.gpr[eax] = value;
    expect_fault({0x0F, 0x22, static_cast<u8>(0xC0 | (number << 3))}, vector, 0);
  }
  Flow set_dr(u8 number, u32 value) {
    s.gpr[eax] = value;
    return run({0x0F, 0x23, static_cast<u8>(0xC0 | (number << 3))});
  }
  Flow wrmsr(u32 number, u64 value) {
    s.gpr[ecx] = number;
    s.gpr[eax] = static_cast<u32>(value);
    s.gpr[edx] = static_cast<u32>(value >> 32);
    return run({0x0F, 0x30});
  }
  u64 rdmsr(u32 number) {
    s.gpr[ecx] = number;
    EXPECT_EQ(run({0x0F, 0x32}), Flow::next) << number;
    return s.gpr[eax] | (u64{s.gpr[edx]} << 32);
  }
};

TEST_F(SystemRegistersTest, PrivilegedInstructionsNeedCpl0) {
  const std::vector<Bytes> privileged = {
      {0x0F, 0x01, 0x10},  // lgdt [eax]
      {0x0F, 0x01, 0x18},  // lidt [eax]
      {0x0F, 0x00, 0xD1},  // lldt cx
      {0x0F, 0x00, 0xD9},  // ltr cx
      {0x0F, 0x01, 0xF0},  // lmsw ax
      {0x0F, 0x22, 0xC0},  // mov cr0, eax
      {0x0F, 0x20, 0xD8},  // mov eax, cr3
      {0x0F, 0x23, 0xF8},  // mov dr7, eax
      {0x0F, 0x21, 0xF0},  // mov eax, dr6
      {0x0F, 0x06},        // clts
      {0x0F, 0x01, 0x38},  // invlpg [eax]
      {0xF4},              // hlt
      {0x0F, 0x09},        // wbinvd
      {0x0F, 0x08},        // invd
      {0x0F, 0x32},        // rdmsr
      {0x0F, 0x30},        // wrmsr
      {0x0F, 0x33},        // rdpmc
      {0x0F, 0x35},        // sysexit
  };
  s.sysenter_cs = kernel_cs;
  for (const u32 level : {1u, 3u}) {
    set_ring(level);
    for (const Bytes& bytes : privileged) expect_fault(bytes, Vector::general_protection, 0);
  }
}

TEST_F(SystemRegistersTest, DescriptorTables) {
  put16(0x10000, 0x1234);
  put32(0x10002, 0xABCDEF01);
  s.gpr[eax] = 0x10000;
  ASSERT_EQ(run({0x0F, 0x01, 0x10}), Flow::next);
  EXPECT_EQ(s.gdtr, (DescriptorTable{0xABCDEF01, 0x1234}));
  ASSERT_EQ(run({0x66, 0x0F, 0x01, 0x18}), Flow::next);
  EXPECT_EQ(s.idtr, (DescriptorTable{0x00CDEF01, 0x1234})) << "24 bits of base with 16-bit operands";
  s.gpr[eax] = 0x10010;
  ASSERT_EQ(run({0x0F, 0x01, 0x00}), Flow::next);  // sgdt [eax]
  EXPECT_EQ(get16(0x10010), 0x1234);
  EXPECT_EQ(get32(0x10012), 0xABCDEF01u);
  set_ring(3);
  s.gpr[eax] = 0x10020;
  ASSERT_EQ(run({0x0F, 0x01, 0x08}), Flow::next) << "SIDT is not privileged";
  EXPECT_EQ(get32(0x10022), 0x00CDEF01u);
}

TEST_F(SystemRegistersTest, Lldt) {
  const auto faults = [&](u16 selector, Vector vector, u32 error) {
    s.gpr[ecx] = selector;
    expect_fault({0x0F, 0x00, 0xD1}, vector, error);
  };
  faults(0x0C, Vector::general_protection, 0x0C);  // in the LDT
  faults(beyond, Vector::general_protection, beyond);
  faults(kernel_ss, Vector::general_protection, kernel_ss);
  faults(tss_selector, Vector::general_protection, tss_selector);
  set_gdt(spare, make_segment(0x5000, 0xFF, 0x02, 0));
  faults(spare, Vector::not_present, spare);
  set_gdt(spare, make_segment(0x5000, 0xFF, 0x82, 0));
  s.gpr[ecx] = spare;
  ASSERT_EQ(run({0x0F, 0x00, 0xD1}), Flow::next);
  EXPECT_EQ(s.ldtr, (SegmentCache{spare, 0x0082, 0x5000, 0xFF}));
  ASSERT_EQ(run({0x0F, 0x00, 0xC3}), Flow::next);  // sldt ebx
  EXPECT_EQ(s.gpr[ebx], u32{spare});
  s.gpr[ecx] = 2;
  ASSERT_EQ(run({0x0F, 0x00, 0xD1}), Flow::next);
  EXPECT_FALSE(s.ldtr.usable());
}

TEST_F(SystemRegistersTest, Ltr) {
  const auto faults = [&](u16 selector, Vector vector, u32 error) {
    s.gpr[ecx] = selector;
    expect_fault({0x0F, 0x00, 0xD9}, vector, error);
  };
  faults(0, Vector::general_protection, 0);
  faults(0x0C, Vector::general_protection, 0x0C);
  faults(beyond, Vector::general_protection, beyond);
  faults(tss_selector, Vector::general_protection, tss_selector);  // busy
  faults(ldt_selector, Vector::general_protection, ldt_selector);
  set_gdt(spare, make_segment(tss, 0x67, 0x09, 0));
  faults(spare, Vector::not_present, spare);
  for (const u32 type : {1u, 9u}) {
    set_gdt(spare, make_segment(tss, 0x67, 0x80 | type, 0));
    s.gpr[ecx] = spare;
    ASSERT_EQ(run({0x0F, 0x00, 0xD9}), Flow::next);
    EXPECT_EQ(s.tr, (SegmentCache{spare, static_cast<u16>(0x82 | type), tss, 0x67}));
    EXPECT_EQ(access_byte(spare), 0x82 | type) << "busy in memory";
  }
  put32(0x10000, 0xEEEEEEEE);
  ASSERT_EQ(run({0x0F, 0x00, 0x0D, 0x00, 0x00, 0x01, 0x00}), Flow::next);  // str [10000h]
  EXPECT_EQ(get32(0x10000), 0xEEEE0000u | spare);
}

TEST_F(SystemRegistersTest, Cr0) {
  cr_faults(0, cr0::pg);            // PG without PE
  cr_faults(0, cr0::pe | cr0::nw);  // NW without CD
  ASSERT_EQ(set_cr(0, 0x1FFFFFFFu | cr0::cd), Flow::next);
  EXPECT_EQ(s.cr0, 0x4005003Fu) << "reserved bits stay 0, ET stays 1";
  ASSERT_EQ(set_cr(0, cr0::pe), Flow::next);
  EXPECT_EQ(s.cr0, cr0::pe | cr0::et);
}

TEST_F(SystemRegistersTest, PagingOnUnderPaeLoadsPdptes) {
  s.cr4 = cr4::pae;
  ASSERT_EQ(set_cr(3, 0x100000), Flow::next);
  put64(0x100000, 0x101001);
  put64(0x100008, 0x102003);  // bit 1 of a PDPTE is reserved
  cr_faults(0, cr0::pe | cr0::pg);
  put64(0x100008, 0x102001);
  put64(0x101000, 0x83);  // 2 MiB page
  ASSERT_EQ(set_cr(0, cr0::pe | cr0::pg), Flow::next);
  EXPECT_EQ(s.pdpte[1], 0x102001u);
  put64(0x100020 + 8, 0x2);  // not present: ignored
  ASSERT_EQ(set_cr(3, 0x100020), Flow::next);
  EXPECT_EQ(s.pdpte[1], 2u);
  ASSERT_EQ(set_cr(3, 0x100000), Flow::next);
  put64(0x100040, 0x5);  // present with a reserved bit
  cr_faults(3, 0x100040);
  EXPECT_EQ(s.pdpte[0], 0x101001u);
}

TEST_F(SystemRegistersTest, Cr4AllowsWhatTheModelHas) {
  for (unsigned bit = 0; bit < 32; ++bit) {
    const u32 value = 1u << bit;
    // TSD DE PSE PAE PGE PCE OSFXSR OSXMMEXCPT
    const bool allowed = bit == 2 || bit == 3 || bit == 4 || bit == 5 || (bit >= 7 && bit <= 10);
    if (allowed) {
      EXPECT_EQ(set_cr(4, value), Flow::next) << bit;
      EXPECT_EQ(s.cr4, value);
      ASSERT_EQ(run({0x0F, 0x20, 0xE3}), Flow::next);  // mov ebx, cr4
      EXPECT_EQ(s.gpr[ebx], value);
    } else {
      cr_faults(4, value);
    }
  }
}

TEST_F(SystemRegistersTest, FlushesMatchTheManual) {
  RecordingWatcher watcher;
  mem.set_watcher(&watcher);
  enable_paging(0x300000, 0x300007);
  // Maps the page elsewhere behind the TLB's back; what is read next tells whether the change made the old entry go.
  const u32 entry = 0x101000 + 0x300 * 4;
  const auto stale_after = [&](auto change) {
    put32(entry, 0x300007);
    mem.flush_all();
    put32(0x300000, 1);
    put32(0x301000, 2);
    u32 value = 0;
    EXPECT_TRUE(v.load(Seg::ds, 0x300000, value));
    put32(entry, 0x301007);
    change();
    EXPECT_TRUE(v.load(Seg::ds, 0x300000, value));
    return value == 1;
  };
  EXPECT_FALSE(stale_after([&] { set_cr(3, s.cr3); }));
  EXPECT_FALSE(stale_after([&] { set_cr(4, s.cr4 ^ cr4::pge); }));
  EXPECT_FALSE(stale_after([&] { set_cr(4, s.cr4 ^ cr4::pse); }));
  EXPECT_FALSE(stale_after([&] { set_cr(0, s.cr0 ^ cr0::wp); }));
  EXPECT_FALSE(stale_after([&] {
    s.gpr[eax] = 0x300123;
    run({0x0F, 0x01, 0x38});
  }));
  EXPECT_FALSE(stale_after([&] {
    s.segment(Seg::fs) = {kernel_ss, 0x4093, 0x100000, 0xFFF};
    s.gpr[eax] = 0x200123;
    EXPECT_EQ(run({0x64, 0x0F, 0x01, 0x38}), Flow::next) << "INVLPG adds the base and checks no limit";
  }));
}

TEST_F(SystemRegistersTest, Msw) {
  s.cr0 = cr0::pe | cr0::et | cr0::ne | cr0::wp;
  s.gpr[eax] = 0xFFFE;  // PE clear in the operand
  ASSERT_EQ(run({0x0F, 0x01, 0xF0}), Flow::next);
  EXPECT_EQ(s.cr0, cr0::pe | cr0::mp | cr0::em | cr0::ts | cr0::et | cr0::ne | cr0::wp);
  ASSERT_EQ(run({0x0F, 0x01, 0xE3}), Flow::next);  // smsw ebx
  EXPECT_EQ(s.gpr[ebx], s.cr0);
  s.gpr[ebx] = 0xEEEEEEEE;
  ASSERT_EQ(run({0x66, 0x0F, 0x01, 0xE3}), Flow::next);
  EXPECT_EQ(s.gpr[ebx], 0xEEEE003Fu);
  ASSERT_EQ(run({0x0F, 0x06}), Flow::next);  // clts
  EXPECT_EQ(s.cr0 & cr0::ts, 0u);
}

TEST_F(SystemRegistersTest, DebugRegisters) {
  ASSERT_EQ(set_dr(0, 0x12345678), Flow::next);
  EXPECT_EQ(s.dr[0], 0x12345678u);
  ASSERT_EQ(set_dr(6, 0xFFFFFFFF), Flow::next);
  EXPECT_EQ(s.dr[6], 0xFFFFEFFFu);
  ASSERT_EQ(set_dr(6, 0), Flow::next);
  EXPECT_EQ(s.dr[6], 0xFFFF0FF0u);
  ASSERT_EQ(set_dr(4, 0x4000), Flow::next) << "DR4 names DR6";
  EXPECT_EQ(s.dr[6], 0xFFFF4FF0u);
  ASSERT_EQ(set_dr(5, 0xFFFFDF00), Flow::next);  // all but the enables and GD
  EXPECT_EQ(s.dr[7], 0xFFFF0700u);
  ASSERT_EQ(run({0x0F, 0x21, 0xFB}), Flow::next);  // mov ebx, dr7
  EXPECT_EQ(s.gpr[ebx], 0xFFFF0700u);
  EXPECT_EQ(set_dr(7, 0x400), Flow::next);
  for (unsigned bit = 0; bit < 8; ++bit) {
    ASSERT_EQ(set_dr(7, 1u << bit), Flow::next);
    EXPECT_EQ(s.dr[7], 0x400u | 1u << bit);
  }
}

TEST_F(SystemRegistersTest, GeneralDetect) {
  ASSERT_EQ(set_dr(7, 0x2000), Flow::next);
  EXPECT_EQ(set_dr(0, 1), Flow::fault);
  EXPECT_EQ(v.fault.vector, Vector::debug);
  EXPECT_EQ(s.dr[0], 0u);
  EXPECT_EQ(s.dr[6], 0xFFFF2FF0u);  // BD
  set_idt(1, make_gate(kernel_cs, 0x7000, 0x8E));
  ASSERT_EQ(deliver_fault(v), Delivery::done);
  EXPECT_EQ(get32(s.gpr[esp]), code_at) << "a fault: EIP on the instruction";
  EXPECT_EQ(get32(s.gpr[esp] + 8) & flag::rf, flag::rf);
  EXPECT_EQ(s.dr[7], 0x400u);
}

TEST_F(SystemRegistersTest, ModelSpecificRegisters) {
  for (const u32 number : {0x174u, 0x175u, 0x176u, 0x8Bu}) {
    ASSERT_EQ(wrmsr(number, 0x12345678), Flow::next);
    EXPECT_EQ(rdmsr(number), 0x12345678u);
  }
  EXPECT_EQ(s.sysenter_cs, 0x12345678u);
  EXPECT_EQ(rdmsr(0x277), 0x0007040600070406u);
  ASSERT_EQ(wrmsr(0x277, 0x0706050401000000), Flow::next);
  EXPECT_EQ(rdmsr(0x277), 0x0706050401000000u);
  ASSERT_EQ(wrmsr(0xC0000080, efer::nxe), Flow::next);
  EXPECT_EQ(s.efer, efer::nxe);
  ASSERT_EQ(wrmsr(0xC0000103, 0xFFFFFFFF), Flow::next);
  ASSERT_EQ(wrmsr(0x48, 1), Flow::next);
  EXPECT_EQ(rdmsr(0x48), 1u);
  ASSERT_EQ(wrmsr(0x49, 1), Flow::next);
  EXPECT_EQ(rdmsr(0x1A0) & 1u, 1u);
  EXPECT_EQ(rdmsr(0x10A), model.arch_capabilities());
  EXPECT_EQ(rdmsr(0x17), 0u);
  const auto write_faults = [&](u32 number, u64 value) {
    EXPECT_EQ(wrmsr(number, value), Flow::fault) << number;
    EXPECT_EQ(v.fault.vector, Vector::general_protection);
  };
  for (const u64 bad : {2u, 3u, 8u, 0x80u}) write_faults(0x277, bad << 24);
  write_faults(0xC0000080, 1);      // SCE
  write_faults(0xC0000080, 0x100);  // LME
  write_faults(0xC0000103, u64{1} << 32);
  write_faults(0x48, 4);
  write_faults(0x49, 2);
  write_faults(0x1A0, rdmsr(0x1A0) ^ (1u << 11));
  write_faults(0x10A, 0);
  write_faults(0x17, 0);
  for (const u32 absent : {0x1Bu, 0xFEu, 0x179u, 0x200u, 0x2FFu, 0xC0000081u, 0xFFFFFFFFu}) {
    write_faults(absent, 0);
    s.gpr[ecx] = absent;
    expect_fault({0x0F, 0x32}, Vector::general_protection, 0);
  }
}

TEST_F(SystemRegistersTest, TimeStampCounter) {
  ASSERT_EQ(wrmsr(0x10, 0x7000000000000000), Flow::next);
  ASSERT_EQ(run({0x0F, 0x31}), Flow::next);
  EXPECT_EQ(s.gpr[edx] >> 16, 0x7000u);
  ASSERT_EQ(wrmsr(0xC0000103, 0x42), Flow::next);
  ASSERT_EQ(run({0x0F, 0x01, 0xF9}), Flow::next);  // rdtscp
  EXPECT_EQ(s.gpr[ecx], 0x42u);
  set_ring(3);
  EXPECT_EQ(run({0x0F, 0x31}), Flow::next);
  s.cr4 |= cr4::tsd;
  expect_fault({0x0F, 0x31}, Vector::general_protection, 0);
  expect_fault({0x0F, 0x01, 0xF9}, Vector::general_protection, 0);
  set_ring(0);
  EXPECT_EQ(run({0x0F, 0x31}), Flow::next);
}

TEST_F(SystemRegistersTest, SysenterAndSysexit) {
  set_ring(3);
  expect_fault({0x0F, 0x34}, Vector::general_protection, 0);
  s.sysenter_cs = 3;  // bits 15:2 are 0
  expect_fault({0x0F, 0x34}, Vector::general_protection, 0);
  s.sysenter_cs = 0x61;
  s.sysenter_esp = 0xC1234560;
  s.sysenter_eip = 0xC0001000;
  s.eflags = flag::fixed1 | flag::if_ | flag::tf | flag::cf;
  ASSERT_EQ(run({0x0F, 0x34}), Flow::jumped);
  EXPECT_EQ(s.cpl, 0);
  EXPECT_EQ(s.eip, 0xC0001000u);
  EXPECT_EQ(s.gpr[esp], 0xC1234560u);
  EXPECT_EQ(s.segment(Seg::cs), (SegmentCache{0x60, 0xC09B, 0, 0xFFFFFFFF}));
  EXPECT_EQ(s.segment(Seg::ss), (SegmentCache{0x68, 0xC093, 0, 0xFFFFFFFF}));
  EXPECT_EQ(s.eflags, flag::fixed1 | flag::tf | flag::cf);
  s.gpr[edx] = 0xB0001000;
  s.gpr[ecx] = 0xB1234560;
  ASSERT_EQ(run({0x0F, 0x35}), Flow::jumped);
  EXPECT_EQ(s.cpl, 3);
  EXPECT_EQ(s.eip, 0xB0001000u);
  EXPECT_EQ(s.gpr[esp], 0xB1234560u);
  EXPECT_EQ(s.segment(Seg::cs), (SegmentCache{0x73, 0xC0FB, 0, 0xFFFFFFFF}));
  EXPECT_EQ(s.segment(Seg::ss), (SegmentCache{0x7B, 0xC0F3, 0, 0xFFFFFFFF}));
  set_ring(0);
  s.sysenter_cs = 0;
  expect_fault({0x0F, 0x35}, Vector::general_protection, 0);
}

TEST_F(SystemRegistersTest, SmallOnes) {
  EXPECT_EQ(run({0xF4}), Flow::halt);
  EXPECT_EQ(run({0x0F, 0x09}), Flow::next);
  EXPECT_EQ(run({0x0F, 0x08}), Flow::next);
  expect_fault({0x0F, 0x0B}, Vector::invalid_opcode, 0);
  expect_fault({0x0F, 0xB9, 0xC0}, Vector::invalid_opcode, 0);
  s.eflags |= flag::zf | flag::of;
  if (CpuModel::make_default().has(Feature::rdrand)) {
    ASSERT_EQ(run({0x66, 0x0F, 0xC7, 0xF3}), Flow::next);  // rdrand bx
    EXPECT_EQ(s.gpr[ebx] >> 16, 0x4444u);
    EXPECT_EQ(s.eflags & flag::status & ~flag::cf, 0u);
  }
}

TEST_F(SystemRegistersTest, CpuidLeaves) {
  const auto leaf = [&](u32 number, u32 subleaf = 0) {
    s.gpr[eax] = number;
    s.gpr[ecx] = subleaf;
    EXPECT_EQ(run({0x0F, 0xA2}), Flow::next);
    return CpuidResult{s.gpr[eax], s.gpr[ebx], s.gpr[ecx], s.gpr[edx]};
  };
  const CpuidResult vendor = leaf(0);
  EXPECT_EQ(vendor.ebx, 0x756E6547u);
  EXPECT_EQ(vendor.edx, 0x49656E69u);
  EXPECT_EQ(vendor.ecx, 0x6C65746Eu);
  const CpuidResult features = leaf(1);
  EXPECT_EQ(features.eax >> 8 & 0xF, 6u);
  // No VME, MCE, APIC, MTRR, MCA, HTT; no MONITOR, XSAVE, hypervisor.
  EXPECT_EQ(features.edx & 0x10005282u, 0u);
  EXPECT_EQ(features.ecx & 0x8C000008u, 0u);
  EXPECT_EQ(features.edx & 0x0789297Du, 0x0789297Du);
  EXPECT_EQ(leaf(7).ebx & 0x2040u, 0x2040u);  // FDP_EXCPTN_ONLY, ZERO_FCS_FDS
  EXPECT_EQ(leaf(7, 1).edx, 0u);
  const CpuidResult clock = leaf(0x15);
  EXPECT_EQ(u64{clock.ecx} * clock.ebx / clock.eax, 2'000'000'000u);
  const CpuidResult extended = leaf(0x80000001);
  EXPECT_EQ(extended.edx & (1u << 20), 1u << 20);
  EXPECT_EQ(extended.edx & (1u << 29), 0u) << "no long mode";
  EXPECT_EQ(leaf(0x80000007).edx, 0x100u);
  const CpuidResult highest = leaf(vendor.eax);
  EXPECT_EQ(leaf(0x40000000).eax, highest.eax) << "no hypervisor leaf: as any leaf that is too high";
  EXPECT_EQ(leaf(0x40000000).ebx, highest.ebx);
  EXPECT_EQ(CpuModel::make(0, 0, 0, 0, 0).cpuid(0x15, 0, 0).ebx, 0u);
  EXPECT_FALSE(CpuModel::make(0, 0, 0, 0, 0).has(Feature::sse2));
  EXPECT_TRUE(model.has(Feature::sse2));
}

TEST_F(SystemRegistersTest, ResetState) {  // SDM vol. 3, table 9-1
  CpuState r;
  r.gpr.fill(0x5A5A5A5A);
  reset_cpu(r);
  EXPECT_EQ(r.eip, 0xFFF0u);
  EXPECT_EQ(r.eflags, 2u);
  EXPECT_EQ(r.cr0, 0x60000010u);
  EXPECT_EQ(r.segment(Seg::cs), (SegmentCache{0xF000, 0x93, 0xFFFF0000, 0xFFFF}));
  EXPECT_EQ(r.segment(Seg::gs), (SegmentCache{0, 0x93, 0, 0xFFFF}));
  EXPECT_EQ(r.idtr, (DescriptorTable{0, 0xFFFF}));
  EXPECT_EQ(r.dr[6], 0xFFFF0FF0u);
  EXPECT_EQ(r.dr[7], 0x400u);
  EXPECT_EQ(r.gpr[edx], model.cpuid(1, 0, 0).eax);
  EXPECT_EQ(r.gpr[eax], 0u);
  EXPECT_EQ(r.fpu.fcw, 0x40);
  EXPECT_EQ(r.fpu.mxcsr, 0x1F80u);
}

TEST_F(SystemRegistersTest, ModeBits) {
  using namespace mode;
  s.fpu.fcw = 0x37B;
  EXPECT_NE(compute_mode_bits(s) & x87_unmasked, 0u);
  s.fpu.fcw = 0x37F;
  EXPECT_EQ(compute_mode_bits(s), code32 | stack32 | ds_es_ss_flat | cpl0 | cs_flat | protected_mode);
  set_ring(3);
  EXPECT_EQ(compute_mode_bits(s), code32 | stack32 | ds_es_ss_flat | user | cs_flat | protected_mode);
  set_ring(1);
  EXPECT_EQ(compute_mode_bits(s) & (user | cpl0), 0u);
  set_ring(0);
  const u32 base = compute_mode_bits(s);
  const auto toggled = [&](auto change) {
    const CpuState before = s;
    change();
    const u32 difference = compute_mode_bits(s) ^ base;
    s = before;
    return difference;
  };
  EXPECT_EQ(toggled([&] { s.eflags |= flag::tf; }), trap);
  EXPECT_EQ(toggled([&] { s.eflags |= flag::vm; }), v8086);
  EXPECT_EQ(toggled([&] { s.cr4 |= cr4::osfxsr; }), osfxsr);
  EXPECT_EQ(toggled([&] { s.cr0 &= ~cr0::pe; }), protected_mode);
  EXPECT_EQ(toggled([&] { s.segment(Seg::ds).base = 1; }), ds_es_ss_flat);
  EXPECT_EQ(toggled([&] { s.segment(Seg::es).limit = 0xFFFFF; }), ds_es_ss_flat);
  EXPECT_EQ(toggled([&] { s.segment(Seg::es) = {}; }), ds_es_ss_flat);
  EXPECT_EQ(toggled([&] { s.segment(Seg::ss).attributes = 0xC097; }), ds_es_ss_flat | expand_down);
  EXPECT_EQ(toggled([&] { s.segment(Seg::ds).attributes = 0xC091; }), ds_es_ss_flat);  // read-only
  EXPECT_EQ(toggled([&] { s.segment(Seg::ss).attributes = 0x8093; }), stack32);
  EXPECT_EQ(toggled([&] { s.segment(Seg::gs).base = 0x1000; }), 0u);
  EXPECT_EQ(toggled([&] { s.segment(Seg::gs).limit = 0x1000; }), fs_gs_checked);
  EXPECT_EQ(toggled([&] { s.segment(Seg::gs).attributes = 0xC091; }), fs_gs_checked);  // read-only
  EXPECT_EQ(toggled([&] { s.segment(Seg::fs).attributes = 0xC097; }), fs_gs_checked | expand_down);
  EXPECT_EQ(toggled([&] { s.segment(Seg::fs) = {}; }), 0u);
  EXPECT_EQ(toggled([&] { s.segment(Seg::cs).base = 0x1000; }), cs_flat);
  EXPECT_EQ(toggled([&] { s.segment(Seg::cs).attributes = 0x809B; }), code32);
}

}  // namespace
}  // namespace ring3::test
