// From guest bytes to an installed block, step by step, and what the code cache does with it. Items are guest instructions in the first
// four, blocks in the others.
#include "codecache/code_cache.h"
#include "frontend/guest_block.h"
#include "guest_code.h"
#include "translator/translator.h"

#include <benchmark/benchmark.h>

#include <vector>

namespace ring3 {
namespace {

constexpr u32 linear = 0xC0100000;
constexpr u32 physical = 0x100000;
constexpr u32 max_block = 64;
const SiteForms no_sites;

// A page of code with its blocks, each starting where the one before it ended.
struct Page {
  Page() : bytes(page_size + 15) {
    bench::fill_page(bytes.data());
    for (u32 at = 0; at < page_size;) {
      GuestBlock& block = blocks.emplace_back();
      build(at, block);
      if (block.insns.empty() || block.crosses_page) {
        blocks.pop_back();
        return;
      }
      instructions += block.insns.size();
      at += block.length;
    }
  }
  void build(u32 at, GuestBlock& out) const {
    const u32 in_page = page_size - at;
    const BlockKey key{physical + at, linear + at, bench::kernel_mode, 0, 0xFFFFFFFF};
    build_block(decoder, key, {bytes.data() + at, in_page}, in_page, max_block, {}, out);
  }
  BlockKey key(std::size_t block, u32 copy) const {
    BlockKey k = blocks[block].key;
    k.physical += u64{copy} * page_size;
    return k;
  }

  Decoder decoder;
  std::vector<u8> bytes;
  std::vector<GuestBlock> blocks;
  u64 instructions = 0;
};

// What a code cache and a translator need around them.
struct Cache {
  Cache() : region(u64{32} << 20), cache(region), translator({}, cache.stubs(), cache.base()) {}
  Block& install(GuestBlock& guest) {
    translator.translate(guest, no_sites, cache.next_offset(), nullptr, translated);
    if (!cache.has_room(translated.code.size())) cache.flush();
    return cache.install(guest, 0, translated, nullptr);
  }
  // Copies of the page's blocks at one physical page after another, as if the same code were there.
  std::vector<Block*> fill(Page& page, u32 copies) {
    std::vector<Block*> installed;
    for (u32 copy = 0; copy < copies; ++copy) {
      for (std::size_t i = 0; i < page.blocks.size(); ++i) {
        GuestBlock& guest = page.blocks[i];
        const BlockKey saved = guest.key;
        guest.key = page.key(i, copy);
        installed.push_back(&install(guest));
        guest.key = saved;
      }
    }
    return installed;
  }

  CodeRegion region;
  CodeCache cache;
  Translator translator;
  TranslatedBlock translated;
};

void decode(benchmark::State& state) {
  const Page page;
  GuestBlock out;
  for (auto _ : state) {
    for (const GuestBlock& block : page.blocks) {
      page.build(static_cast<u32>(block.key.linear - linear), out);
      benchmark::DoNotOptimize(out.length);
    }
  }
  state.SetItemsProcessed(state.iterations() * static_cast<i64>(page.instructions));
}
BENCHMARK(decode);

void translate(benchmark::State& state) {
  const Page page;
  Cache c;
  for (auto _ : state) {
    for (const GuestBlock& block : page.blocks) {
      c.translator.translate(block, no_sites, c.cache.next_offset(), nullptr, c.translated);
      benchmark::DoNotOptimize(c.translated.code.size());
    }
  }
  state.SetItemsProcessed(state.iterations() * static_cast<i64>(page.instructions));
}
BENCHMARK(translate);

void install(benchmark::State& state) {
  Page page;
  Cache c;
  std::vector<TranslatedBlock> translated(page.blocks.size());
  for (std::size_t i = 0; i < page.blocks.size(); ++i)
    c.translator.translate(page.blocks[i], no_sites, c.cache.next_offset(), nullptr, translated[i]);
  u32 copy = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < page.blocks.size(); ++i) {
      if (!c.cache.has_room(translated[i].code.size())) {
        c.cache.flush();
        copy = 0;
      }
      page.blocks[i].key.physical = physical + u64{copy} * page_size + (page.blocks[i].key.physical & page_mask);
      benchmark::DoNotOptimize(c.cache.install(page.blocks[i], 0, translated[i], nullptr));
    }
    ++copy;
  }
  state.SetItemsProcessed(state.iterations() * static_cast<i64>(page.instructions));
}
BENCHMARK(install);

// All of it: decode, translate, install.
void translate_page(benchmark::State& state) {
  Page page;
  Cache c;
  GuestBlock guest;
  u32 copy = 0;
  for (auto _ : state) {
    for (const GuestBlock& block : page.blocks) {
      page.build(static_cast<u32>(block.key.linear - linear), guest);
      guest.key.physical += u64{copy} * page_size;
      benchmark::DoNotOptimize(c.install(guest));
    }
    copy = (copy + 1) % 4096;
  }
  state.SetItemsProcessed(state.iterations() * static_cast<i64>(page.instructions));
}
BENCHMARK(translate_page);

// By key, in a cache of many blocks.
void look_up(benchmark::State& state) {
  Page page;
  Cache c;
  const u32 copies = static_cast<u32>(state.range(0));
  c.fill(page, copies);
  u32 n = 0;
  for (auto _ : state) {
    n = n * 1664525 + 1013904223;
    benchmark::DoNotOptimize(c.cache.find(page.key((n >> 8) % page.blocks.size(), (n >> 20) % copies)));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(look_up)->Arg(1)->Arg(512);

// By host address, as after a host fault.
void find_host(benchmark::State& state) {
  Page page;
  Cache c;
  const auto blocks = c.fill(page, 512);
  u32 n = 0;
  for (auto _ : state) {
    n = n * 1664525 + 1013904223;
    const Block& block = *blocks[(n >> 8) % blocks.size()];
    benchmark::DoNotOptimize(c.cache.find_host(c.cache.base() + block.host_offset + block.host_size / 2));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(find_host);

// A write of four bytes to a page of code: the blocks in it die. Translating them again is not counted.
void invalidate(benchmark::State& state) {
  Page page;
  Cache c;
  const u32 copies = 64;
  i64 items = 0;
  for (auto _ : state) {
    state.PauseTiming();
    c.cache.flush();
    c.fill(page, copies);
    state.ResumeTiming();
    for (u32 copy = 0; copy < copies; ++copy) {
      for (u32 at = 0; at < page_size; at += 128) c.cache.invalidate({physical + u64{copy} * page_size + at}, 4);
    }
    items += copies * (page_size / 128);
  }
  state.SetItemsProcessed(items);
}
BENCHMARK(invalidate);

}  // namespace
}  // namespace ring3
