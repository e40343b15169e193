// Linux/x86 boot protocol, 32-bit entry. Field offsets are those of the setup header and of struct boot_params ("zero page") in the
// kernel's Documentation/arch/x86/boot.rst and zero-page.rst.
#include "base/error.h"
#include "base/file.h"
#include "base/size.h"
#include "machine/loaders/image.h"
#include "machine/loaders/loader.h"
#include "runtime/memory/ram.h"

#include <fmt/format.h>
#include <algorithm>
#include <cstring>

namespace ring3 {
namespace {

namespace offset {
constexpr u32 ext_mem_k = 0x002;  // screen_info
constexpr u32 alt_mem_k = 0x1E0;
constexpr u32 e820_entries = 0x1E8;
constexpr u32 setup_sects = 0x1F1;
constexpr u32 syssize = 0x1F4;
constexpr u32 boot_flag = 0x1FE;
constexpr u32 header_length = 0x201;  // the jump's displacement: the header ends at 202h plus this
constexpr u32 magic = 0x202;          // "HdrS"
constexpr u32 version = 0x206;
constexpr u32 type_of_loader = 0x210;
constexpr u32 loadflags = 0x211;
constexpr u32 code32_start = 0x214;
constexpr u32 ramdisk_image = 0x218;
constexpr u32 ramdisk_size = 0x21C;
constexpr u32 cmd_line_ptr = 0x228;
constexpr u32 initrd_addr_max = 0x22C;
constexpr u32 kernel_alignment = 0x230;
constexpr u32 relocatable_kernel = 0x234;
constexpr u32 xloadflags = 0x236;
constexpr u32 cmdline_size = 0x238;
constexpr u32 pref_address = 0x258;
constexpr u32 init_size = 0x260;
constexpr u32 e820_table = 0x2D0;
}  // namespace offset

constexpr u32 header_start = offset::setup_sects;
constexpr u32 header_limit = 0x290;     // the zero page has other fields from here
constexpr u32 smallest_header = 0x23C;  // through cmdline_size: protocol 2.06
constexpr u32 sector = 512;
constexpr u8 loaded_high = 1;
constexpr u8 undefined_loader = 0xFF;
constexpr u16 xlf_kernel_64 = 1;
constexpr u32 header_magic = 0x5372'6448;  // "HdrS"

struct SetupHeader {
  u16 version;
  u32 setup_bytes;   // real-mode part, boot sector included
  u64 kernel_bytes;  // protected-mode part
  u32 load_address;
  u32 initrd_max;   // highest address an initrd byte may have
  u32 cmdline_max;  // without the terminating zero
  u64 needed_base;  // memory that must be RAM and free of other things while the kernel unpacks itself
  u64 needed_size;
};

[[noreturn]] void fail(const LoadContext& c, const std::string& why) { throw UserError(c.name + ": " + why); }

SetupHeader parse(const LoadContext& c) {
  const std::span<const u8> k = c.kernel;
  if (!in_file(k, 0, smallest_header)) fail(c, fmt::format("is cut off inside its setup header, at {} bytes; fetch it again", k.size()));
  SetupHeader h{};
  h.version = field<u16>(k, offset::version);
  if (h.version < 0x206)
    fail(c,
         fmt::format("uses Linux boot protocol {}.{:02}, ring3 needs 2.06; use Linux 2.6.22 or newer", h.version >> 8, h.version & 0xFF));
  if ((k[offset::loadflags] & loaded_high) == 0) fail(c, "is a zImage, which loads below 1 MiB; build a bzImage");
  if (h.version >= 0x20C && (field<u16>(k, offset::xloadflags) & xlf_kernel_64) != 0)
    fail(c, "is a 64-bit Linux kernel; ring3 runs 32-bit x86 kernels, use an i386 one (Debian: linux-image-686)");

  const u32 sectors = k[offset::setup_sects] == 0 ? 4 : k[offset::setup_sects];
  h.setup_bytes = (sectors + 1) * sector;
  const u64 declared = u64{field<u32>(k, offset::syssize)} * 16;
  // The size is rounded up to paragraphs; old kernels did not pad the file.
  if (declared == 0 || !in_file(k, h.setup_bytes, declared - 15))
    fail(c, fmt::format("is cut off: its header promises {} bytes, the file has {}; fetch it again", h.setup_bytes + declared, k.size()));
  h.kernel_bytes = std::min<u64>(declared, k.size() - h.setup_bytes);

  h.load_address = field<u32>(k, offset::code32_start);
  h.needed_base = h.load_address;
  h.needed_size = h.kernel_bytes;
  if (h.version >= 0x20A && in_file(k, offset::init_size, 4)) {
    const u64 preferred = field<u64>(k, offset::pref_address);
    const u32 init = field<u32>(k, offset::init_size);
    if (k[offset::relocatable_kernel] != 0 && preferred >= low_memory::extended && preferred < (u64{1} << 32))
      h.load_address = static_cast<u32>(preferred);
    // A relocatable kernel runs at its load address rounded up, but not below the preferred one (boot.rst, init_size).
    const u64 align = std::max<u64>(field<u32>(k, offset::kernel_alignment), 1);
    const u64 rounded = (u64{h.load_address} + align - 1) / align * align;
    h.needed_base = h.load_address;
    const u64 runtime_start = std::max(k[offset::relocatable_kernel] != 0 ? rounded : 0, preferred);
    const u64 runtime_end = runtime_start <= (u64{1} << 32) ? runtime_start + init : ~u64{0};
    if (runtime_end > maximum_ram)
      fail(c, fmt::format("needs memory beyond the {} that a guest can have; link it lower", format_size(maximum_ram)));
    if (runtime_end > c.ram.size())
      fail(c, fmt::format("needs memory up to {:#x}, but the guest has {}; raise --memory", runtime_end, format_size(c.ram.size())));
    h.needed_size = std::max(h.kernel_bytes, runtime_end - std::min(runtime_end, h.needed_base));
  }
  h.initrd_max = field<u32>(k, offset::initrd_addr_max);
  h.cmdline_max = field<u32>(k, offset::cmdline_size);
  return h;
}

void put_e820(u8* zero_page, u64 ram_bytes) {
  u8* entry = zero_page + offset::e820_table;
  const std::vector<MemoryRange> map = memory_map(ram_bytes);
  for (const MemoryRange& range : map) {
    put<u64>(entry, range.base);
    put<u64>(entry + 8, range.size);
    put<u32>(entry + 16, static_cast<u32>(range.type));
    entry += 20;
  }
  zero_page[offset::e820_entries] = static_cast<u8>(map.size());
}

// Returns address and size; both 0 without an initrd.
std::pair<u32, u32> place_initrd(const LoadContext& c, const SetupHeader& h) {
  if (c.options.initrd.empty()) return {0, 0};
  const std::string what = "initrd " + in_quotes(c.options.initrd);
  const std::vector<u8> bytes = read_file(c.options.initrd, "initrd", c.ram.size(), "raise --memory or make it smaller");
  const u64 top = std::min<u64>(u64{h.initrd_max} + 1, c.ram.size());
  const u32 at = c.placement.take_high(bytes.size(), low_memory::extended, top, page_size, what);
  std::memcpy(c.ram.at(PhysAddr{at}), bytes.data(), bytes.size());
  return {at, static_cast<u32>(bytes.size())};
}

}  // namespace

bool is_linux_image(std::span<const u8> kernel) {
  return in_file(kernel, offset::magic, 4) && field<u32>(kernel, offset::magic) == header_magic &&
         field<u16>(kernel, offset::boot_flag) == 0xAA55;
}

EntryState load_linux(const LoadContext& c) {
  if (!c.options.modules.empty()) fail(c, "is a Linux kernel, which takes no --module; pass the file with --initrd");
  const SetupHeader h = parse(c);
  if (c.options.append.size() > h.cmdline_max)
    fail(c, fmt::format("takes a command line of at most {} bytes, --append has {}; shorten it", h.cmdline_max, c.options.append.size()));

  c.placement.claim(h.needed_base, h.needed_size, c.name);
  const u32 zero_page = c.placement.take_low(page_size, 0, low_memory::ebda, page_size, "boot parameters");
  const u32 cmdline = c.placement.take_low(c.options.append.size() + 1, 0, low_memory::ebda, 16, "command line (--append)");
  std::memcpy(c.ram.at(PhysAddr{h.load_address}), c.kernel.data() + h.setup_bytes, h.kernel_bytes);
  std::memcpy(c.ram.at(PhysAddr{cmdline}), c.options.append.c_str(), c.options.append.size() + 1);
  const auto [initrd, initrd_size] = place_initrd(c, h);

  u8* zp = c.ram.at(PhysAddr{zero_page});
  std::memset(zp, 0, page_size);
  const u32 header_end = std::min({u32{0x202} + c.kernel[offset::header_length], header_limit, static_cast<u32>(c.kernel.size())});
  if (header_end > header_start) std::memcpy(zp + header_start, c.kernel.data() + header_start, header_end - header_start);
  put_e820(zp, c.ram.size());
  const u64 extended_k = (c.ram.size() - low_memory::extended) >> 10;
  put<u16>(zp + offset::ext_mem_k, static_cast<u16>(std::min<u64>(extended_k, 0xFFFF)));
  put<u32>(zp + offset::alt_mem_k, static_cast<u32>(extended_k));
  zp[offset::type_of_loader] = undefined_loader;
  put<u32>(zp + offset::code32_start, h.load_address);
  put<u32>(zp + offset::ramdisk_image, initrd);
  put<u32>(zp + offset::ramdisk_size, initrd_size);
  put<u32>(zp + offset::cmd_line_ptr, cmdline);

  EntryState entry;
  entry.eip = h.load_address;
  entry.esi = zero_page;
  return entry;
}

}  // namespace ring3
