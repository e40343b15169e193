#include "machine/loaders/loader.h"

#include "base/error.h"
#include "base/file.h"
#include "guest/cpu_state.h"
#include "machine/loaders/image.h"
#include "runtime/memory/ram.h"
#include "runtime/system/reset.h"

#include <fmt/format.h>
#include <algorithm>

namespace ring3 {
namespace {

constexpr u32 gdt_address = 0x800;  // between the BIOS data area and low_memory::first_free
constexpr u16 code_selector = 0x10;
constexpr u16 data_selector = 0x18;
constexpr u32 initial_stack = 0x1000;  // grows down to the GDT: enough for a few pushes; the protocols leave ESP to the kernel

// Says what the file is, for people who gave the wrong one.
[[noreturn]] void reject_kernel(const LoadContext& context) {
  const std::span<const u8> k = context.kernel;
  const auto starts_with = [&](std::initializer_list<u8> magic) {
    return k.size() >= magic.size() && std::equal(magic.begin(), magic.end(), k.begin());
  };
  if (starts_with({0x1F, 0x8B})) throw UserError(context.name + ": is compressed by gzip; unpack it with gunzip and give the result");
  if (starts_with({0xFD, '7', 'z', 'X', 'Z'}))
    throw UserError(context.name + ": is compressed by xz; unpack it with unxz and give the result");
  if (starts_with({0x28, 0xB5, 0x2F, 0xFD}))
    throw UserError(context.name + ": is compressed by zstd; unpack it with unzstd and give the result");
  if (starts_with({0x7F, 'E', 'L', 'F'}) && k.size() > 4 && k[4] == 2)
    throw UserError(context.name + ": is a 64-bit ELF file; ring3 runs 32-bit x86 kernels, build or fetch the i386 one");
  if (starts_with({0x7F, 'E', 'L', 'F'}))
    throw UserError(context.name +
                    ": is an ELF file without a Multiboot 1 header in its first 8 KiB; for Linux give the bzImage (vmlinuz), not vmlinux");
  throw UserError(context.name +
                  ": is not a kernel that ring3 knows; give a Linux bzImage (vmlinuz) or a Multiboot 1 kernel for 32-bit x86");
}

}  // namespace

EntryState load_guest(GuestRam& ram, const BootOptions& options) {
  const std::vector<u8> kernel = read_file(options.kernel, "kernel", ram.size(), "raise --memory");
  Placement placement(ram.size());
  const LoadContext context{ram, placement, options, kernel, "kernel " + in_quotes(options.kernel)};
  if (is_linux_image(kernel)) return load_linux(context);
  if (const auto header = find_multiboot_header(kernel)) return load_multiboot(context, *header);
  reject_kernel(context);
}

void enter_protected_mode(GuestRam& ram, CpuState& cpu, const EntryState& entry) {
  reset_cpu(cpu);
  u8* gdt = ram.at(PhysAddr{gdt_address});
  put<u64>(gdt, 0);
  put<u64>(gdt + 8, 0);
  put<u64>(gdt + code_selector, 0x00CF'9B00'0000'FFFFu);  // execute/read, accessed, DPL 0, 4 GiB, 32-bit
  put<u64>(gdt + data_selector, 0x00CF'9300'0000'FFFFu);  // read/write, accessed
  cpu.gdtr = {gdt_address, 31};
  cpu.idtr = {0, 0};
  const SegmentCache data{data_selector, 0xC093, 0, 0xFFFF'FFFF};
  cpu.seg.fill(data);
  cpu.segment(Seg::cs) = {code_selector, 0xC09B, 0, 0xFFFF'FFFF};
  cpu.cr0 = cr0::pe | cr0::et;
  cpu.eip = entry.eip;
  cpu.gpr = {};
  cpu.gpr[eax] = entry.eax;
  cpu.gpr[ebx] = entry.ebx;
  cpu.gpr[esi] = entry.esi;
  cpu.gpr[esp] = initial_stack;
}

}  // namespace ring3
