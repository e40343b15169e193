#include "machine/loaders/elf32.h"

#include "base/error.h"
#include "machine/loaders/image.h"
#include "runtime/memory/ram.h"

#include <elf.h>
#include <fmt/format.h>
#include <algorithm>
#include <cstring>

namespace ring3 {
namespace {

[[noreturn]] void fail(const LoadContext& c, const std::string& why) { throw UserError(c.name + ": " + why); }

Elf32_Ehdr checked_header(const LoadContext& c) {
  const std::span<const u8> k = c.kernel;
  if (k.size() < EI_NIDENT || std::memcmp(k.data(), ELFMAG, SELFMAG) != 0)
    fail(c,
         "has a Multiboot header without address fields (flag 16), so it must be an ELF file, and is not; link it as ELF or set flag 16");
  if (k[EI_CLASS] == ELFCLASS64) fail(c, "is a 64-bit ELF file; ring3 runs 32-bit x86 kernels, build it with -m32");
  if (k[EI_CLASS] != ELFCLASS32 || k[EI_DATA] != ELFDATA2LSB) fail(c, "is not a little-endian 32-bit ELF file; build it with -m32");
  if (!in_file(k, 0, sizeof(Elf32_Ehdr))) fail(c, "is cut off inside its ELF header; fetch or build it again");
  const auto header = field<Elf32_Ehdr>(k, 0);
  if (header.e_machine != EM_386)
    fail(c, fmt::format("is an ELF file for another processor (machine {}); build it for i386", header.e_machine));
  if (header.e_phentsize != sizeof(Elf32_Phdr) || header.e_phnum == 0) fail(c, "has no ELF program headers; link it as an executable");
  if (!in_file(k, header.e_phoff, u64{header.e_phnum} * sizeof(Elf32_Phdr)))
    fail(c, "is cut off inside its ELF program headers; fetch or build it again");
  return header;
}

}  // namespace

LoadedImage load_elf32(const LoadContext& c) {
  const Elf32_Ehdr header = checked_header(c);
  LoadedImage image;
  image.entry = header.e_entry;
  bool entry_found = false;
  for (u32 i = 0; i < header.e_phnum; ++i) {
    const auto segment = field<Elf32_Phdr>(c.kernel, header.e_phoff + u64{i} * sizeof(Elf32_Phdr));
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    if (segment.p_filesz > segment.p_memsz)
      fail(c, fmt::format("its ELF segment {} has more bytes in the file than in memory; link it again", i));
    if (!in_file(c.kernel, segment.p_offset, segment.p_filesz))
      fail(c, fmt::format("is cut off: ELF segment {} ends at byte {}, the file at {}; fetch or build it again", i,
                          u64{segment.p_offset} + segment.p_filesz, c.kernel.size()));
    c.placement.claim(segment.p_paddr, segment.p_memsz, c.name);
    u8* to = c.ram.at(PhysAddr{segment.p_paddr});
    if (segment.p_filesz != 0) std::memcpy(to, c.kernel.data() + segment.p_offset, segment.p_filesz);
    std::memset(to + segment.p_filesz, 0, segment.p_memsz - segment.p_filesz);
    image.end = std::max(image.end, u64{segment.p_paddr} + segment.p_memsz);
    // The entry point is linked at virtual addresses; paging is off, so it is entered at the physical one.
    if (!entry_found && header.e_entry - segment.p_vaddr < segment.p_memsz) {
      image.entry = header.e_entry - segment.p_vaddr + segment.p_paddr;
      entry_found = true;
    }
  }
  if (image.end == 0) fail(c, "has no ELF segments to load; link it as an executable");
  return image;
}

}  // namespace ring3
