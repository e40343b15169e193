// ACPI tables for a machine that can be switched off, and little else: RSDP, RSDT, FADT, FACS and a DSDT that says how to enter S5.
// ACPI specification 1.0b; no MADT, because there is no APIC.
#pragma once

#include "base/types.h"

namespace ring3 {

class GuestRam;

struct AcpiWiring {
  u16 pm_base = 0;      // PM1a event block (4 bytes), control block at + 4 (2 bytes), timer at + 8 (4 bytes)
  u16 smi_command = 0;  // port
  u8 acpi_enable = 0;   // values for it
  u8 acpi_disable = 0;
  u8 sci_irq = 9;
  u8 sleep_type_s5 = 0;
};

// Writes the tables into the firmware area (low_memory::firmware).
void write_acpi_tables(GuestRam& ram, const AcpiWiring& wiring);

// Writes the few BIOS data area words that kernels read (COM1's port, conventional memory, where the EBDA is) and the EBDA's size byte.
void write_bios_data_area(GuestRam& ram, u16 com1_base);

}  // namespace ring3
