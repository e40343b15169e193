// What a boot loader does for a guest: kernel and its files into RAM, and the CPU state at the first instruction.
#pragma once

#include "base/types.h"
#include "machine/memory_map.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ring3 {

struct CpuState;
class GuestRam;

// A `--module`: the file name may be followed by a space and arguments; the guest sees the whole text.
struct ModuleOption {
  std::string path;
  std::string text;
};

struct BootOptions {
  std::string kernel;
  std::string initrd;  // empty: none
  std::vector<ModuleOption> modules;
  std::string append;  // kernel command line
};

// The registers that a boot protocol defines. The other general registers are 0.
struct EntryState {
  u32 eip = 0;
  u32 eax = 0;
  u32 ebx = 0;
  u32 esi = 0;
};

// Recognizes the kernel's format and loads everything into zeroed RAM. Every field of every file is untrusted. Throws UserError with what
// is wrong, in which file, and how to mend it.
[[nodiscard]] EntryState load_guest(GuestRam& ram, const BootOptions& options);

// Puts the CPU where both protocols want it: 32-bit protected mode, paging off, interrupts off, flat 4 GiB segments with CS = 10h and the
// others 18h, GDT in guest memory (Linux Documentation/arch/x86/boot.rst, "32-bit boot protocol"; Multiboot specification 0.6.96, 3.2).
// Everything else is as after power-up (SDM vol. 3, table 9-1).
void enter_protected_mode(GuestRam& ram, CpuState& cpu, const EntryState& entry);

// --- the formats; used by load_guest and by tests ---

// Everything a format needs while it loads.
struct LoadContext {
  GuestRam& ram;
  Placement& placement;
  const BootOptions& options;
  std::span<const u8> kernel;
  // Prefix of messages about the kernel file: "kernel 'name'".
  std::string name;
};

[[nodiscard]] bool is_linux_image(std::span<const u8> kernel);
[[nodiscard]] EntryState load_linux(const LoadContext& context);

// Offset of the Multiboot 1 header, if there is one in the first 8 KiB.
[[nodiscard]] std::optional<u32> find_multiboot_header(std::span<const u8> kernel);
[[nodiscard]] EntryState load_multiboot(const LoadContext& context, u32 header_offset);

}  // namespace ring3
