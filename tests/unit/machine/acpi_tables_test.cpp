// Follows the tables as a kernel does (ACPI specification 1.0b, chapter 5).
#include "machine/acpi_tables.h"

#include "machine/loaders/image.h"
#include "machine/memory_map.h"
#include "runtime/memory/ram.h"

#include <gtest/gtest.h>
#include <numeric>
#include <string_view>

namespace ring3 {
namespace {

class AcpiTables : public testing::Test {
 protected:
  AcpiTables() { write_acpi_tables(ram, {0x600, 0xB2, 0xF1, 0xF0, 9, 5}); }

  std::span<const u8> bytes(u32 address, u32 size) { return {ram.at(PhysAddr{address}), size}; }
  u32 dword(u32 address) { return field<u32>(bytes(address, 4), 0); }
  u8 sum(u32 address, u32 size) {
    const auto b = bytes(address, size);
    return static_cast<u8>(std::accumulate(b.begin(), b.end(), 0));
  }
  std::string_view text(u32 address, u32 size) { return {reinterpret_cast<const char*>(ram.at(PhysAddr{address})), size}; }
  // RSDP search: 16-byte boundaries of E0000h..FFFFFh (5.2.4.1).
  u32 find_rsdp() {
    for (u32 at = 0xE0000; at < 0x100000; at += 16)
      if (text(at, 8) == "RSD PTR ") return at;
    return 0;
  }
  u32 fadt() { return dword(dword(find_rsdp() + 16) + 36); }

  GuestRam ram{u64{4} << 20};
};

TEST_F(AcpiTables, RsdpLeadsToRsdtAndFadt) {
  const u32 rsdp = find_rsdp();
  ASSERT_NE(rsdp, 0u);
  EXPECT_EQ(sum(rsdp, 20), 0);
  const u32 rsdt = dword(rsdp + 16);
  EXPECT_EQ(text(rsdt, 4), "RSDT");
  EXPECT_EQ(dword(rsdt + 4), 40u);
  EXPECT_EQ(sum(rsdt, 40), 0);
  EXPECT_EQ(text(fadt(), 4), "FACP");
  EXPECT_EQ(dword(fadt() + 4), 116u);
  EXPECT_EQ(sum(fadt(), 116), 0);
}

TEST_F(AcpiTables, FadtNamesTheRegisters) {
  EXPECT_EQ(dword(fadt() + 48), 0xB2u);
  EXPECT_EQ(*ram.at(PhysAddr{fadt() + 52u}), 0xF1);
  EXPECT_EQ(dword(fadt() + 56), 0x600u);
  EXPECT_EQ(dword(fadt() + 64), 0x604u);
  EXPECT_EQ(dword(fadt() + 76), 0x608u);
  EXPECT_EQ(*ram.at(PhysAddr{fadt() + 88u}), 4);
  EXPECT_EQ(*ram.at(PhysAddr{fadt() + 89u}), 2);
  EXPECT_EQ(*ram.at(PhysAddr{fadt() + 91u}), 4);
  const u32 facs = dword(fadt() + 36);
  EXPECT_EQ(facs % 64, 0u);
  EXPECT_EQ(text(facs, 4), "FACS");
  EXPECT_EQ(dword(facs + 4), 64u);
}

TEST_F(AcpiTables, DsdtHoldsS5) {
  const u32 dsdt = dword(fadt() + 40);
  EXPECT_EQ(text(dsdt, 4), "DSDT");
  const u32 length = dword(dsdt + 4);
  EXPECT_EQ(sum(dsdt, length), 0);
  const auto aml = bytes(dsdt + 36, length - 36);
  // NameOp "_S5_" PackageOp PkgLength NumElements BytePrefix type ...; the package's length counts itself to the table's end.
  ASSERT_EQ(aml[0], 0x08);
  EXPECT_EQ(text(dsdt + 37, 4), "_S5_");
  EXPECT_EQ(aml[5], 0x12);
  EXPECT_EQ(aml[6], aml.size() - 6);
  EXPECT_EQ(aml[7], 4);
  EXPECT_EQ(aml[8], 0x0A);
  EXPECT_EQ(aml[9], 5);
}

TEST_F(AcpiTables, LieInReservedMemory) {
  for (const MemoryRange& range : memory_map(ram.size())) {
    if (range.type != RangeType::usable) continue;
    EXPECT_TRUE(fadt() < range.base || fadt() >= range.end());
  }
}

}  // namespace
}  // namespace ring3
