// The listing of a cache whose blocks come from real translations, and the names it gives to what emitted code refers to. Expected host
// encodings are worked out by hand from the opcode maps (Intel SDM vol. 2).
#include "inspect/cache_listing.h"

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "codecache/code_cache.h"
#include "inspect/block_listing.h"
#include "inspect/disassembly.h"
#include "inspect/host_names.h"
#include "runtime/memory/ram.h"
#include "translator/contract.h"
#include "translator/translator.h"

namespace ring3 {
namespace {

constexpr u32 kernel_mode = mode::code32 | mode::stack32 | mode::cpl0 | mode::protected_mode | mode::cs_flat | mode::ds_es_ss_flat;

class CacheListingTest : public testing::Test {
 protected:
  CacheListingTest() : region_(1 << 20), cache_(region_), translator_(options_, cache_.stubs(), cache_.base()), ram_(1 << 20) {}

  // Translates the bytes at physical `at`, linear C0000000h above, and installs the block.
  Block& install(u32 at, std::initializer_list<int> bytes, u64 count) {
    u32 to = at;
    for (const int b : bytes) *ram_.at({to++}) = static_cast<u8>(b);
    GuestBlock guest;
    const u32 in_page = page_size - (at & page_mask);
    build_block(decoder_, {at, 0xC0000000 + at, kernel_mode, 0, 0xFFFFFFFF}, {ram_.at({at}), in_page}, in_page, 64, {}, guest);
    u64* counter = cache_.new_counter();
    *counter = count;
    TranslatedBlock translated;
    translator_.translate(guest, {}, cache_.next_offset(), counter, translated);
    return cache_.install(guest, 0, translated, counter);
  }
  std::string listing() {
    std::string text;
    write_cache_listing(cache_, ram_, [&text](std::string_view piece) {
      text += piece;
      return true;
    });
    return text;
  }

  CodeRegion region_;
  CodeCache cache_;
  TranslatorOptions options_;
  Translator translator_;
  Decoder decoder_;
  GuestRam ram_;
};

TEST_F(CacheListingTest, OrderTotalsAndLinks) {
  Block& loop = install(0x1000, {0x49, 0x75, 0xFD}, 7);        // dec ecx; jnz -3
  Block& last = install(0x1010, {0x31, 0xC0, 0xEB, 0xEC}, 7);  // xor eax, eax; jmp 1000h
  install(0x1020, {0xC3}, 100);                                // ret
  cache_.kill(install(0x1030, {0xC3}, 5));
  cache_.link(last.first_exit, loop);
  const std::string text = listing();
  EXPECT_TRUE(text.starts_with("3 blocks, 1 more invalidated"));
  EXPECT_NE(text.find("5 guest instructions, 8 bytes to "), std::string::npos);
  EXPECT_NE(text.find("executed 114 times together"), std::string::npos);
  const size_t first = text.find("block c0001020: physical 00001020");
  const size_t second = text.find("block c0001000: physical 00001000");
  const size_t third = text.find("block c0001010: physical 00001010");
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  ASSERT_NE(third, std::string::npos);
  EXPECT_EQ(text.find("block c0001030"), std::string::npos);
  EXPECT_NE(text.find("  to   c0001000: linked", third), std::string::npos);
  EXPECT_NE(text.find("  from c0001010: exit at +0x", second), std::string::npos);
  EXPECT_NE(text.find("jmp -> block c0001000", third), std::string::npos);
  EXPECT_NE(text.substr(second, third - second).find("jnz exit c0001000"), std::string::npos);
  EXPECT_NE(text.find("mode code32 stack32 cpl0 protected cs-flat data-flat"), std::string::npos);
}

TEST_F(CacheListingTest, GuestInstructionBesideItsHostCode) {
  Block& block = install(0x2000, {0x8B, 0x03, 0xF4}, 1);  // mov eax, [ebx]; hlt
  const auto lines = list_block(block, cache_, {ram_.at({0x2000}), 3}, [](u64) { return std::string(); });
  ASSERT_GE(lines.size(), 3u);
  EXPECT_EQ(lines[0].guest, "(entry)");
  EXPECT_EQ(lines[0].host.front().text, "mov r9, execution counter");
  EXPECT_EQ(lines[1].guest, "c0002000  8b 03                   mov eax, [ebx]");
  EXPECT_EQ(lines[1].host.back().text, "mov eax, [r9+r8*1]");
  EXPECT_EQ(lines[2].guest, "c0002002  f4                      hlt  [interpreted]");
  EXPECT_EQ(lines[2].host.back().text, "jmp interpret");
}

TEST_F(CacheListingTest, ChangedAndMissingGuestBytes) {
  Block& block = install(0x2000, {0x8B, 0x03, 0xF4}, 1);
  const u8 changed[] = {0x90, 0x03, 0xF4};  // nop: one byte where two were
  const NameOfBlock nothing = [](u64) { return std::string(); };
  EXPECT_NE(list_block(block, cache_, changed, nothing)[1].guest.find("[changed since it was translated]"), std::string::npos);
  EXPECT_EQ(list_block(block, cache_, {}, nothing)[1].guest, "c0002000  (not in memory)");
}

TEST_F(CacheListingTest, PageCrossing) {
  // mov eax, 12345678h: one byte before the page end, four behind it, in a page elsewhere.
  *ram_.at({0x3FFF}) = 0xB8;
  const u8 rest[] = {0x78, 0x56, 0x34, 0x12};
  std::memcpy(ram_.at({0x8000}), rest, sizeof rest);
  std::vector<u8> joined{0xB8, 0x78, 0x56, 0x34, 0x12};
  GuestBlock guest;
  build_block(decoder_, {0x3FFF, 0x3FFF, kernel_mode, 0, 0xFFFFFFFF}, joined, 1, 64, {}, guest);
  TranslatedBlock translated;
  translator_.translate(guest, {}, cache_.next_offset(), nullptr, translated);
  cache_.install(guest, 0x8000, translated, nullptr);
  const std::string text = listing();
  EXPECT_NE(text.find("crosses into page 00008000"), std::string::npos);
  EXPECT_NE(text.find("b8 78 56 34 12          mov eax, 0x12345678"), std::string::npos);
  EXPECT_EQ(text.find("executed"), std::string::npos);  // nothing was counted
}

TEST_F(CacheListingTest, StopsWhenTheReaderHasEnough) {
  install(0x1000, {0xC3}, 1);
  int pieces = 0;
  write_cache_listing(cache_, ram_, [&pieces](std::string_view) {
    ++pieces;
    return false;
  });
  EXPECT_EQ(pieces, 1);
}

TEST(HostNames, Fields) {
  EXPECT_EQ(field_name(contract::offset::poll), "poll");
  EXPECT_EQ(field_name(contract::offset::gpr + 16), "esp");
  EXPECT_EQ(field_name(contract::offset::segment_gate + 4 * 8), "segment_gate.fs");
  EXPECT_EQ(field_name(contract::offset::selector(2)), "selector.ss");
  EXPECT_TRUE(field_name(contract::offset::poll + 1).starts_with("cpu+0x"));
  EXPECT_EQ(field_name(-16), "cpu-0x10");
}

TEST(HostNames, ModeBits) {
  EXPECT_EQ(mode_names(0), "");
  EXPECT_EQ(mode_names(mode::user | mode::code32 | 1u << 31), "code32 user 0x80000000");
}

TEST(DisassembleEmitted, NamesTablesAndTargets) {
  const auto text = [](std::initializer_list<int> bytes) {
    std::vector<u8> code;
    for (const int b : bytes) code.push_back(static_cast<u8>(b));
    const DisassembledLine line =
        disassemble_emitted(code, 0x1000, [](u64 host) { return host == 0x2005 ? std::string("there") : std::string(); });
    EXPECT_EQ(line.length, code.size());
    return line.text;
  };
  EXPECT_EQ(text({0x4F, 0x8B, 0x4C, 0xCD, 0x00}), "mov r9, [read_table+r9*8]");
  EXPECT_EQ(text({0x4F, 0x8B, 0x8C, 0xCD, 0x00, 0x00, 0x80, 0x00}), "mov r9, [write_table+r9*8]");
  EXPECT_EQ(text({0x47, 0x8B, 0x8C, 0x85, 0x00, 0x00, 0x00, 0x01}), "mov r9d, [jump_table+r8*4]");
  EXPECT_EQ(text({0x4F, 0x8D, 0x8C, 0x0F, 0x00, 0x00, 0x01, 0x00}), "lea r9, [cache+r9]");
  EXPECT_EQ(text({0xE9, 0x00, 0x10, 0x00, 0x00}), "jmp there");
  EXPECT_EQ(text({0xE9, 0x01, 0x10, 0x00, 0x00}), "jmp 0x0000000000002006");
  EXPECT_EQ(text({0x49, 0xB9, 0x05, 0x20, 0, 0, 0, 0, 0, 0}), "mov r9, there");
  EXPECT_EQ(text({0xB9, 0x05, 0x20, 0, 0}), "mov ecx, 0x2005");  // 32 bits hold no host address
}

}  // namespace
}  // namespace ring3
