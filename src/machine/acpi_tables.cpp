#include "machine/acpi_tables.h"

#include "guest/address.h"
#include "machine/loaders/image.h"
#include "machine/memory_map.h"
#include "runtime/memory/ram.h"

#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

namespace ring3 {
namespace {

constexpr u32 rsdp_address = low_memory::firmware;  // 16-byte aligned (5.2.4.1)
constexpr u32 rsdt_address = low_memory::firmware + 0x40;
constexpr u32 fadt_address = low_memory::firmware + 0x80;
constexpr u32 dsdt_address = low_memory::firmware + 0x100;
constexpr u32 facs_address = low_memory::firmware + 0x180;  // 64-byte aligned (5.2.6)
constexpr u32 header_size = 36;

u8 checksum(std::span<const u8> bytes) { return static_cast<u8>(-std::accumulate(bytes.begin(), bytes.end(), 0)); }

void put_text(u8* at, std::string_view text) { std::memcpy(at, text.data(), text.size()); }

// A system description table: header (5.2.5), body, checksum.
void write_table(GuestRam& ram, u32 address, std::string_view signature, u8 revision, std::span<const u8> body) {
  u8* table = ram.at(PhysAddr{address});
  const u32 length = header_size + static_cast<u32>(body.size());
  std::memset(table, 0, header_size);
  put_text(table, signature);
  put<u32>(table + 4, length);
  table[8] = revision;
  put_text(table + 10, "RING3 RING3MVM");
  put<u32>(table + 24, 1);
  put_text(table + 28, "RNG3");
  put<u32>(table + 32, 1);
  std::memcpy(table + header_size, body.data(), body.size());
  table[9] = checksum({table, length});
}

std::vector<u8> fadt_body(const AcpiWiring& w) {
  std::vector<u8> body(116 - header_size);
  const auto at = [&](u32 offset) { return body.data() + offset - header_size; };  // offsets of 5.2.5.1 count from the table
  put<u32>(at(36), facs_address);
  put<u32>(at(40), dsdt_address);
  put<u16>(at(46), w.sci_irq);
  put<u32>(at(48), w.smi_command);
  *at(52) = w.acpi_enable;
  *at(53) = w.acpi_disable;
  put<u32>(at(56), w.pm_base);
  put<u32>(at(64), w.pm_base + 4u);
  put<u32>(at(76), w.pm_base + 8u);
  *at(88) = 4;  // PM1_EVT_LEN
  *at(89) = 2;  // PM1_CNT_LEN
  *at(91) = 4;  // PM_TM_LEN
  constexpr u16 no_such_state = 0xFFFF;
  put<u16>(at(96), no_such_state);  // P_LVL2_LAT
  put<u16>(at(98), no_such_state);  // P_LVL3_LAT
  constexpr u32 wbinvd = 1u << 0, proc_c1 = 1u << 2, no_power_button = 1u << 4, no_sleep_button = 1u << 5, no_rtc_wake = 1u << 6,
                timer_32_bits = 1u << 8;
  put<u32>(at(112), wbinvd | proc_c1 | no_power_button | no_sleep_button | no_rtc_wake | timer_32_bits);
  return body;
}

// Name (\_S5, Package () { type, type, 0, 0 }) in AML (16.2): NameOp, name, PackageOp, its length, four elements.
std::array<u8, 14> dsdt_body(const AcpiWiring& w) {
  return {0x08, '_', 'S', '5', '_', 0x12, 0x08, 0x04, 0x0A, w.sleep_type_s5, 0x0A, w.sleep_type_s5, 0x00, 0x00};
}

}  // namespace

void write_acpi_tables(GuestRam& ram, const AcpiWiring& wiring) {
  u8* facs = ram.at(PhysAddr{facs_address});
  std::memset(facs, 0, 64);
  put_text(facs, "FACS");
  put<u32>(facs + 4, 64);

  write_table(ram, dsdt_address, "DSDT", 1, dsdt_body(wiring));
  write_table(ram, fadt_address, "FACP", 1, fadt_body(wiring));
  std::array<u8, 4> entries{};
  put<u32>(entries.data(), fadt_address);
  write_table(ram, rsdt_address, "RSDT", 1, entries);

  constexpr u32 rsdp_size = 20;
  u8* rsdp = ram.at(PhysAddr{rsdp_address});
  std::memset(rsdp, 0, rsdp_size);
  put_text(rsdp, "RSD PTR ");
  put_text(rsdp + 9, "RING3 ");
  put<u32>(rsdp + 16, rsdt_address);
  rsdp[8] = checksum({rsdp, rsdp_size});
}

void write_bios_data_area(GuestRam& ram, u16 com1_base) {
  u8* bda = ram.at(PhysAddr{0x400});
  std::memset(bda, 0, 0x100);
  put<u16>(bda + 0x00, com1_base);
  put<u16>(bda + 0x0E, static_cast<u16>(low_memory::ebda >> 4));
  put<u16>(bda + 0x10, 1u << 9);  // equipment: one serial port
  put<u16>(bda + 0x13, static_cast<u16>(low_memory::ebda >> 10));
  *ram.at(PhysAddr{low_memory::ebda}) = 1;  // KiB
}

}  // namespace ring3
