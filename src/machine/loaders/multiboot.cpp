// Multiboot specification, version 0.6.96.
#include "base/error.h"
#include "base/file.h"
#include "base/size.h"
#include "machine/loaders/elf32.h"
#include "machine/loaders/image.h"
#include "machine/loaders/loader.h"
#include "runtime/memory/ram.h"

#include <fmt/format.h>
#include <algorithm>
#include <cstring>

namespace ring3 {
namespace {

constexpr u32 header_magic = 0x1BAD'B002;
constexpr u32 loader_magic = 0x2BAD'B002;  // EAX at the entry (3.2)
constexpr u32 header_search = 8192;        // the header lies completely in the first 8192 bytes (3.1)

// Header flags (3.1.2).
constexpr u32 want_video = 1u << 2;
constexpr u32 must_understand = 0xFFFF;
constexpr u32 known = 0x7;
constexpr u32 has_addresses = 1u << 16;

// Information structure (3.3): offsets and flags of what is there.
namespace info {
constexpr u32 size = 120;
constexpr u32 flags = 0, mem_lower = 4, mem_upper = 8, cmdline = 16, mods_count = 20, mods_addr = 24, mmap_length = 44, mmap_addr = 48,
              boot_loader_name = 64;
constexpr u32 has_memory = 1u << 0, has_cmdline = 1u << 2, has_mods = 1u << 3, has_mmap = 1u << 6, has_loader_name = 1u << 9;
}  // namespace info

[[noreturn]] void fail(const LoadContext& c, const std::string& why) { throw UserError(c.name + ": " + why); }

// The address fields of the header ("a.out kludge", 3.1.3).
LoadedImage load_by_addresses(const LoadContext& c, u32 at) {
  if (!in_file(c.kernel, at, 32)) fail(c, "is cut off inside its Multiboot header; fetch or build it again");
  const u64 header_addr = field<u32>(c.kernel, at + 12);
  const u64 load_addr = field<u32>(c.kernel, at + 16);
  const u64 load_end = field<u32>(c.kernel, at + 20);
  const u64 bss_end = field<u32>(c.kernel, at + 24);
  const u32 entry = field<u32>(c.kernel, at + 28);
  if (header_addr < load_addr || header_addr - load_addr > at)
    fail(c,
         fmt::format("its Multiboot address fields put the file's start before byte 0 (header_addr {:#x}, load_addr {:#x}); link it again",
                     header_addr, load_addr));
  const u64 offset = at - (header_addr - load_addr);
  const u64 available = c.kernel.size() - offset;
  if (load_end != 0 && load_end < load_addr)
    fail(c, fmt::format("its Multiboot load_end_addr {:#x} lies below load_addr {:#x}; link it again", load_end, load_addr));
  const u64 bytes = load_end == 0 ? available : load_end - load_addr;
  if (bytes > available)
    fail(c, fmt::format("is cut off: its Multiboot header promises {} bytes, {} are there; fetch it again", bytes, available));
  const u64 memory = bss_end == 0 ? bytes : bss_end - std::min(bss_end, load_addr);
  if (memory < bytes) fail(c, fmt::format("its Multiboot bss_end_addr {:#x} lies below the loaded bytes; link it again", bss_end));

  c.placement.claim(load_addr, memory, c.name);
  if (bytes != 0) std::memcpy(c.ram.at(PhysAddr{load_addr}), c.kernel.data() + offset, bytes);
  if (memory > bytes) std::memset(c.ram.at(PhysAddr{load_addr + bytes}), 0, memory - bytes);
  return {entry, load_addr + memory};
}

// A place for boot information, which may lie anywhere (3.3): below 640 KiB while there is room.
u32 take_anywhere(const LoadContext& c, u64 size, const std::string& what) { return c.placement.take_low(size, 0, c.ram.size(), 16, what); }

// Places a zero-terminated string.
u32 put_string(const LoadContext& c, const std::string& text, const std::string& what) {
  const u32 at = take_anywhere(c, text.size() + 1, what);
  std::memcpy(c.ram.at(PhysAddr{at}), text.c_str(), text.size() + 1);
  return at;
}

// Modules go above the kernel, page-aligned (3.1.2 bit 0, 3.3).
u32 put_modules(const LoadContext& c, u64 kernel_end) {
  const u32 list = take_anywhere(c, c.options.modules.size() * 16, "list of modules (--module)");
  u8* entry = c.ram.at(PhysAddr{list});
  for (const ModuleOption& module : c.options.modules) {
    const std::string what = "module " + in_quotes(module.path);
    const std::vector<u8> bytes = read_file(module.path, "module", c.ram.size(), "raise --memory");
    const u64 from = std::max<u64>(kernel_end, low_memory::extended);
    const u32 at = c.placement.take_low(bytes.size(), from, c.ram.size(), page_size, what);
    std::memcpy(c.ram.at(PhysAddr{at}), bytes.data(), bytes.size());
    put<u32>(entry, at);
    put<u32>(entry + 4, at + static_cast<u32>(bytes.size()));
    put<u32>(entry + 8, put_string(c, module.text, what));
    put<u32>(entry + 12, 0);
    entry += 16;
  }
  return list;
}

}  // namespace

std::optional<u32> find_multiboot_header(std::span<const u8> kernel) {
  const u64 end = std::min<u64>(kernel.size(), header_search);
  for (u32 at = 0; at + 12 <= end; at += 4) {
    if (field<u32>(kernel, at) != header_magic) continue;
    if (field<u32>(kernel, at) + field<u32>(kernel, at + 4) + field<u32>(kernel, at + 8) == 0) return at;
  }
  return std::nullopt;
}

EntryState load_multiboot(const LoadContext& c, u32 header_offset) {
  if (!c.options.initrd.empty()) fail(c, "is a Multiboot kernel, which takes no --initrd; pass the file with --module");
  const u32 flags = field<u32>(c.kernel, header_offset + 4);
  if ((flags & must_understand & ~known) != 0)
    fail(c, fmt::format("demands Multiboot features that ring3 does not have (flags {:#x}); build it without them",
                        flags & must_understand & ~known));
  if ((flags & want_video) != 0) fail(c, "demands a video mode (Multiboot flag 2); ring3 has a serial console only, build it for that");

  const LoadedImage image = (flags & has_addresses) != 0 ? load_by_addresses(c, header_offset) : load_elf32(c);
  if (!c.ram.contains(PhysAddr{image.entry}, 1))
    fail(c, fmt::format("its entry point {:#x} lies outside memory; link it again or raise --memory", image.entry));

  const u32 mbi = take_anywhere(c, info::size, "boot information");
  u8* out = c.ram.at(PhysAddr{mbi});
  std::memset(out, 0, info::size);
  u32 present = info::has_memory | info::has_cmdline | info::has_mmap | info::has_loader_name;
  put<u32>(out + info::mem_lower, low_memory::ebda >> 10);
  put<u32>(out + info::mem_upper, static_cast<u32>((c.ram.size() - low_memory::extended) >> 10));
  put<u32>(out + info::cmdline, put_string(c, c.options.append, "command line (--append)"));
  put<u32>(out + info::boot_loader_name, put_string(c, "ring3", "boot loader name"));
  if (!c.options.modules.empty()) {
    present |= info::has_mods;
    put<u32>(out + info::mods_count, static_cast<u32>(c.options.modules.size()));
    put<u32>(out + info::mods_addr, put_modules(c, image.end));
  }

  const std::vector<MemoryRange> map = memory_map(c.ram.size());
  const u32 entry_bytes = 24;  // the `size` field does not count itself
  const u32 mmap = take_anywhere(c, map.size() * entry_bytes, "memory map");
  u8* entry = c.ram.at(PhysAddr{mmap});
  for (const MemoryRange& range : map) {
    put<u32>(entry, entry_bytes - 4);
    put<u64>(entry + 4, range.base);
    put<u64>(entry + 12, range.size);
    put<u32>(entry + 20, static_cast<u32>(range.type));
    entry += entry_bytes;
  }
  put<u32>(out + info::mmap_length, static_cast<u32>(map.size()) * entry_bytes);
  put<u32>(out + info::mmap_addr, mmap);
  put<u32>(out + info::flags, present);

  EntryState state;
  state.eip = image.entry;
  state.eax = loader_magic;
  state.ebx = mbi;
  return state;
}

}  // namespace ring3
