// stream_maker SEED COUNT FILE: an image of streams.   stream_maker SEED COUNT --show N...: these streams as text.
#include "generator.h"

#include "inspect/disassembly.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace ring3::streams {
namespace {

void put(std::vector<u8>& out, const void* from, std::size_t size) {
  const u8* bytes = static_cast<const u8*>(from);
  out.insert(out.end(), bytes, bytes + size);
}

// What the arena holds before a stream's pokes.
void make_background(u64 seed, ImageHeader& header) {
  hostcpu::Values v(~seed);
  u8* const arena = header.background;
  std::memset(arena + page_code * 4096, 0xCC, 2 * 4096);
  v.fill({arena + page_data * 4096, 5 * 4096});
  const auto put64 = [&](u32 offset, u64 value) { std::memcpy(arena + offset, &value, 8); };
  const auto some = [&] {
    const u8 access = static_cast<u8>(0x93 | v.below(4) << 5 | (v.one_in(3) ? 8 : 0));
    return descriptor(v.one_in(3) ? static_cast<u32>(v.bits()) : 0, 0xFFFFF, v.one_in(8) ? access & 0x7Fu : access, v.one_in(6) ? 8 : 0xC);
  };
  for (u32 i = 1; i < gdt_count; ++i) put64(gdt_offset + i * 8, some());
  for (u32 i = 0; i < ldt_count; ++i) put64(ldt_offset + i * 8, some());
  put64(gdt_offset, v.bits());
  put64(gdt_offset + harness_code, descriptor(0, 0xFFFFF, 0x9B, 0xC));
  put64(gdt_offset + harness_data, descriptor(0, 0xFFFFF, 0x93, 0xC));
  put64(gdt_offset + sysexit_code, descriptor(0, 0xFFFFF, 0xFB, 0xC));
  put64(gdt_offset + sysexit_data, descriptor(0, 0xFFFFF, 0xF3, 0xC));
  put64(gdt_offset + harness_tss, descriptor(arena_base + tss_offset, tss_bytes - 1, 0x8B, 0));
  u32 tss[26]{};
  tss[1] = arena_base + (page_inner_stack + 1) * 4096 - 0x200;  // what pops too much meets no page table
  tss[2] = harness_data;
  tss[3] = tss[5] = arena_base + page_inner_stack * 4096 + 0x800;  // rings 1 and 2 can be entered, but their stack is not theirs to use
  tss[25] = 104u << 16;
  std::memcpy(arena + tss_offset, tss, sizeof tss);
  std::memset(arena + tss_offset + 104, 0xFF, tss_bytes - 104);
  for (unsigned i = 0; i < fpu_images; ++i) {
    u8* image = header.fpu[i];
    const u16 fcw = static_cast<u16>(0x037F ^ (v.below(4) << 10) ^ (i == 1 ? 0x0100 : 0));
    std::memcpy(image, &fcw, 2);
    image[4] = static_cast<u8>(i == 0 ? 0 : v.bits());
    const u32 mxcsr = 0x1F80 ^ (i == 2 ? 0x2000u : 0u);
    std::memcpy(image + 24, &mxcsr, 4);
    for (unsigned k = 0; k < 8; ++k) v.float80(image + 32 + 16 * k);
    for (unsigned k = 0; k < 8; ++k) v.vector(image + 160 + 16 * k);
  }
}

// As text: tables and registers, then the code with the places <n> where the stream goes on after its n-th fault.
void show(u64 seed, u32 number, const Stream& s) {
  const StreamRecord& r = s.record;
  fmt::print("seed {} stream {} flags {:x} cr0 {:08x} cr3 {:08x} cr4 {:08x} nxe {} ldt {:04x}\n", seed, number, r.flags, r.cr0, r.cr3,
             r.cr4, r.nxe, r.ldt);
  fmt::print("cs {:04x} ss {:04x} ds {:04x} es {:04x} fs {:04x} gs {:04x} eflags {:08x}\n", r.state.cs, r.state.ss, r.state.ds, r.state.es,
             r.state.fs, r.state.gs, r.state.eflags);
  for (const Poke& poke : s.pokes) {
    if (poke.offset == r.code_start) continue;
    fmt::print("poke {:05x}", poke.offset);
    for (auto byte = poke.bytes.rbegin(); byte != poke.bytes.rend(); ++byte)
      fmt::print("{}{:02x}", byte == poke.bytes.rbegin() ? " " : "", *byte);
    fmt::print("\n");
  }
  for (std::size_t at = 0; at < s.code.size();) {
    const DisassembledLine line =
        disassemble(std::span(s.code).subspan(at), r.state.eip + at, s.code32 ? CodeWidth::bits32 : CodeWidth::bits16);
    std::string marks;
    for (unsigned i = 0; i < resume_count; ++i)
      if (r.resume[i] == r.state.eip + at) marks += fmt::format(" <{}>", i);
    fmt::print("  {:08x}  {:<34} {}{}\n", r.state.eip + at, line.bytes, line.text, marks);
    at += line.length;
  }
}

int run(int count, char** arguments) {
  if (count < 4) {
    std::fputs("usage: stream_maker SEED COUNT FILE | SEED COUNT --show N...\n", stderr);
    return 2;
  }
  const u64 seed = std::strtoull(arguments[1], nullptr, 0);
  const u32 streams = static_cast<u32>(std::strtoul(arguments[2], nullptr, 0));
  const Decoder decoder;
  const hostcpu::Forms forms(decoder);
  Generator generator(decoder, forms);
  if (count >= 5) {
    for (int i = 4; i < count; ++i) {
      const u32 number = static_cast<u32>(std::strtoul(arguments[i], nullptr, 0));
      show(seed, number, generator.make(seed, number));
    }
    return 0;
  }
  const auto header = std::make_unique<ImageHeader>();
  header->magic = stream_magic;
  header->count = streams;
  make_background(seed, *header);
  std::vector<u8> out;
  put(out, header.get(), sizeof(ImageHeader));
  for (u32 number = 0; number < streams; ++number) {
    Stream s = generator.make(seed, number);
    std::vector<u8> pokes;
    for (const Poke& poke : s.pokes) {
      const u32 head[] = {poke.offset, static_cast<u32>(poke.bytes.size())};
      put(pokes, head, sizeof head);
      put(pokes, poke.bytes.data(), poke.bytes.size());
      while (pokes.size() % 4 != 0) pokes.push_back(0);
    }
    s.record.pokes = static_cast<u32>(s.pokes.size());
    s.record.bytes = static_cast<u32>(sizeof(StreamRecord) + pokes.size());
    put(out, &s.record, sizeof s.record);
    put(out, pokes.data(), pokes.size());
  }
  const u32 bytes = static_cast<u32>(out.size());
  std::memcpy(out.data() + offsetof(ImageHeader, bytes), &bytes, 4);
  std::FILE* file = std::fopen(arguments[3], "wb");
  if (file == nullptr || std::fwrite(out.data(), 1, out.size(), file) != out.size() || std::fclose(file) != 0) {
    std::perror(arguments[3]);
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace ring3::streams

int main(int count, char** arguments) { return ring3::streams::run(count, arguments); }
