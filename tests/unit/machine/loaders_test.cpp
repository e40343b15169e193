// What the loaders leave in memory, read back the way a kernel does. Bad input is in tests/cli/test_bad_input.py.
#include "machine/loaders/loader.h"

#include "base/file.h"
#include "guest/cpu_state.h"
#include "machine/loaders/image.h"
#include "runtime/memory/ram.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <memory>

namespace ring3 {
namespace {

constexpr u64 MiB = u64{1} << 20;

class Loaders : public testing::Test {
 protected:
  ~Loaders() override {
    for (const std::string& path : made_) ::unlink(path.c_str());
  }

  std::string file(const std::vector<u8>& bytes) {
    std::string path = testing::TempDir() + "ring3-loader-XXXXXX";
    const Fd fd(::mkstemp(path.data()));
    EXPECT_TRUE(write_all(fd.get(), {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
    made_.push_back(path);
    return path;
  }
  u32 dword(u64 at) { return field<u32>({ram.at(PhysAddr{at}), 4}, 0); }
  u64 qword(u64 at) { return field<u64>({ram.at(PhysAddr{at}), 8}, 0); }
  std::string text(u64 at) { return reinterpret_cast<const char*>(ram.at(PhysAddr{at})); }

  // A relocatable image of protocol 2.15 whose protected-mode part is `size` bytes of 5Ah.
  static std::vector<u8> bzimage(u32 size) {
    std::vector<u8> image(1024 + size, 0x5A);
    std::fill_n(image.begin(), 1024, u8{0});
    u8* h = image.data();
    h[0x1F1] = 1;
    put<u32>(h + 0x1F4, size / 16);
    put<u16>(h + 0x1FE, 0xAA55);
    put<u16>(h + 0x200, 0x66EB);
    put<u32>(h + 0x202, 0x53726448);
    put<u16>(h + 0x206, 0x020F);
    h[0x211] = 1;
    put<u32>(h + 0x214, 0x100000);
    put<u32>(h + 0x22C, 0x7FFFFFFF);
    put<u32>(h + 0x230, 0x200000);
    h[0x234] = 1;
    put<u32>(h + 0x238, 2047);
    put<u64>(h + 0x258, 0x1000000);
    put<u32>(h + 0x260, 0x800000);
    return image;
  }

  GuestRam ram{64 * MiB};

 private:
  std::vector<std::string> made_;
};

TEST_F(Loaders, LinuxGetsItsBootParameters) {
  BootOptions options;
  options.kernel = file(bzimage(4096));
  options.initrd = file(std::vector<u8>(5000, 0xA5));
  options.append = "console=ttyS0 quiet";
  const EntryState entry = load_guest(ram, options);

  EXPECT_EQ(entry.eip, 0x1000000u);  // pref_address of a relocatable kernel
  EXPECT_EQ(dword(entry.eip), 0x5A5A5A5Au);
  const u32 zp = entry.esi;
  EXPECT_EQ(zp % 16, 0u);
  EXPECT_EQ(dword(zp + 0x202), 0x53726448u);  // the setup header is there
  EXPECT_EQ(*ram.at(PhysAddr{zp + 0x210u}), 0xFF);
  EXPECT_EQ(dword(zp + 0x214), entry.eip);
  EXPECT_EQ(text(dword(zp + 0x228)), options.append);
  EXPECT_EQ(dword(zp + 0x1E0), (64 * MiB - MiB) / 1024);

  const u32 initrd = dword(zp + 0x218);
  EXPECT_EQ(dword(zp + 0x21C), 5000u);
  EXPECT_EQ(initrd % 4096, 0u);
  EXPECT_GE(initrd, 0x1000000u + 0x800000u);  // not where the kernel unpacks itself
  EXPECT_EQ(*ram.at(PhysAddr{initrd + 4999u}), 0xA5);

  // e820: 20-byte entries; usable memory ends with RAM and covers nothing twice.
  const u32 count = *ram.at(PhysAddr{zp + 0x1E8u});
  u64 top = 0;
  for (u32 i = 0; i < count; ++i) {
    const u64 base = qword(zp + 0x2D0 + i * 20), size = qword(zp + 0x2D0 + i * 20 + 8);
    EXPECT_GE(base, top);
    top = base + size;
  }
  EXPECT_EQ(top, 64 * MiB);
}

TEST_F(Loaders, LinuxThatIsNotRelocatableGoesWhereItSays) {
  std::vector<u8> image = bzimage(4096);
  image[0x234] = 0;
  BootOptions options;
  options.kernel = file(image);
  const EntryState entry = load_guest(ram, options);
  EXPECT_EQ(entry.eip, 0x100000u);
  EXPECT_EQ(dword(0x100000), 0x5A5A5A5Au);
  EXPECT_EQ(dword(entry.esi + 0x218), 0u);
}

TEST_F(Loaders, ProtectedModeIsAsTheProtocolsSay) {
  auto cpu = std::make_unique<CpuState>();
  EntryState entry;
  entry.eip = 0x123456;
  entry.esi = 0x2000;
  enter_protected_mode(ram, *cpu, entry);
  EXPECT_EQ(cpu->eip, 0x123456u);
  EXPECT_EQ(cpu->gpr[esi], 0x2000u);
  EXPECT_EQ(cpu->gpr[ebp] | cpu->gpr[edi] | cpu->gpr[ebx], 0u);
  EXPECT_TRUE(cpu->protected_mode());
  EXPECT_FALSE(cpu->paging());
  EXPECT_EQ(cpu->eflags & flag::if_, 0u);
  EXPECT_EQ(cpu->cpl, 0);
  EXPECT_EQ(cpu->segment(Seg::cs).selector, 0x10);
  EXPECT_TRUE(cpu->segment(Seg::cs).is_code() && cpu->segment(Seg::cs).readable() && cpu->segment(Seg::cs).big());
  for (const Seg s : {Seg::ds, Seg::es, Seg::ss}) {
    EXPECT_EQ(cpu->segment(s).selector, 0x18);
    EXPECT_TRUE(cpu->segment(s).writable());
    EXPECT_EQ(cpu->segment(s).base, 0u);
    EXPECT_EQ(cpu->segment(s).limit, 0xFFFFFFFFu);
  }
  // The descriptors in memory say the same as the caches (SDM vol. 3, 3.4.5).
  for (const Seg s : {Seg::cs, Seg::ds}) {
    const u64 d = qword(cpu->gdtr.base + cpu->segment(s).selector);
    EXPECT_EQ(d >> 40 & 0xFF, cpu->segment(s).attributes & 0xFFu);
    EXPECT_EQ(d >> 52 & 0xF, cpu->segment(s).attributes >> 12);
    EXPECT_EQ((d & 0xFFFF) | (d >> 32 & 0xF0000), 0xFFFFFu);
  }
}

// Address fields that leave a header of 32 bytes at 1 MiB followed by code and `bss` bytes.
std::vector<u8> multiboot(u32 bss) {
  std::vector<u8> image(64, 0x90);
  u8* h = image.data();
  const u32 flags = 0x10003;
  put<u32>(h, 0x1BADB002);
  put<u32>(h + 4, flags);
  put<u32>(h + 8, 0u - 0x1BADB002u - flags);
  put<u32>(h + 12, 0x100000);
  put<u32>(h + 16, 0x100000);
  put<u32>(h + 20, 0x100000 + 64);
  put<u32>(h + 24, 0x100000 + 64 + bss);
  put<u32>(h + 28, 0x100020);
  return image;
}

TEST_F(Loaders, MultibootInformation) {
  BootOptions options;
  options.kernel = file(multiboot(0x3000));
  options.append = "root=device:hd0";
  const std::string module = file(std::vector<u8>(4097, 0x11));
  options.modules = {{module, module + " first"}, {module, module + " second --flag"}};
  std::fill_n(ram.at(PhysAddr{0x100000}), 0x10000, u8{0xEE});
  const EntryState entry = load_guest(ram, options);

  EXPECT_EQ(entry.eax, 0x2BADB002u);
  EXPECT_EQ(entry.eip, 0x100020u);
  EXPECT_EQ(dword(0x100040), 0u);  // bss
  EXPECT_EQ(dword(0x10303C), 0u);
  const u32 mbi = entry.ebx;
  const u32 flags = dword(mbi);
  EXPECT_EQ(flags & 0x24Du, 0x24Du);  // memory, command line, modules, memory map, loader name
  EXPECT_EQ(dword(mbi + 4), 639u);
  EXPECT_EQ(dword(mbi + 8), 63 * 1024u);
  EXPECT_EQ(text(dword(mbi + 16)), options.append);
  EXPECT_EQ(text(dword(mbi + 64)), "ring3");

  ASSERT_EQ(dword(mbi + 20), 2u);
  const u32 list = dword(mbi + 24);
  u32 end = 0x100000 + 64 + 0x3000;
  for (u32 i = 0; i < 2; ++i) {
    const u32 start = dword(list + i * 16);
    EXPECT_EQ(start % 4096, 0u);
    EXPECT_GE(start, end);
    end = dword(list + i * 16 + 4);
    EXPECT_EQ(end - start, 4097u);
    EXPECT_EQ(*ram.at(PhysAddr{end - 1u}), 0x11);
    EXPECT_EQ(text(dword(list + i * 16 + 8)), options.modules[i].text);
  }

  // Memory map: each entry's size field does not count itself; usable memory is what mem_upper says.
  u64 usable_above = 0;
  for (u32 at = dword(mbi + 48); at < dword(mbi + 48) + dword(mbi + 44); at += dword(at) + 4)
    if (dword(at + 20) == 1 && qword(at + 4) >= MiB) usable_above += qword(at + 12);
  EXPECT_EQ(usable_above, 63 * MiB);
}

// A kernel that fills the memory below 640 KiB: what the loader makes goes above 1 MiB.
TEST_F(Loaders, MultibootInformationFindsAnotherPlace) {
  constexpr u32 load = low_memory::first_free;
  std::vector<u8> image = multiboot(0);
  put<u32>(image.data() + 12, load);
  put<u32>(image.data() + 16, load);
  put<u32>(image.data() + 20, load + 64);
  put<u32>(image.data() + 24, low_memory::ebda);
  put<u32>(image.data() + 28, load + 32);
  BootOptions options;
  options.kernel = file(image);
  options.append = "filled";
  const EntryState entry = load_guest(ram, options);
  EXPECT_EQ(entry.eip, load + 32);
  EXPECT_GE(entry.ebx, low_memory::extended);
  EXPECT_EQ(dword(entry.ebx) & 0x247u, 0x245u);  // memory, command line, memory map, loader name
  EXPECT_GE(dword(entry.ebx + 16), low_memory::extended);
  EXPECT_EQ(text(dword(entry.ebx + 16)), options.append);
}

TEST_F(Loaders, MultibootHeaderMustLieInTheFirst8KiB) {
  std::vector<u8> late(16384);
  const std::vector<u8> header = multiboot(0);
  std::copy(header.begin(), header.end(), late.begin() + 8192 - 12);
  EXPECT_EQ(find_multiboot_header(late), 8180u);
  std::fill(late.begin(), late.end(), u8{0});
  std::copy(header.begin(), header.end(), late.begin() + 8184);
  EXPECT_FALSE(find_multiboot_header(late).has_value());
  std::fill(late.begin(), late.end(), u8{0});
  std::copy(header.begin(), header.end(), late.begin() + 2);  // not aligned
  EXPECT_FALSE(find_multiboot_header(late).has_value());
}

}  // namespace
}  // namespace ring3
