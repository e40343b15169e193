// Random page tables, accesses, flushes, contexts and code pages against a plain walk of the same tables.
#include "memory_fixture.h"

#include <unistd.h>

#include <random>
#include <set>

namespace ring3::test {
namespace {

// Linear space used: a few page tables' worth at several places, all mapped to few physical pages, so that aliases abound.
class MemoryRandom : public MemoryTest, public ::testing::WithParamInterface<std::tuple<bool, bool, bool>> {
 protected:
  static constexpr u32 frames = 0x400000;  // physical pages that get mapped: 32 of them
  static constexpr u32 region_count = 6;

  u32 pick(u32 count) { return static_cast<u32>(random() % count); }
  u32 span() const { return pae() ? 2u << 20 : 4u << 20; }
  // Neighbouring spans, the last and the first of the address space among them.
  u32 random_linear() {
    static constexpr u32 starts[region_count] = {0, 1, 100, 101, 300, ~0u};
    return starts[pick(region_count)] * span() + pick(24) * page_size + (pick(4) == 0 ? 0xFF8 + pick(8) : pick(4096));
  }
  // Spaces 1 to 3 share the page tables of two spans and of the last one with space 0; only these have global pages.
  static constexpr u32 space_count = 4;
  [[nodiscard]] u32 span_number(u32 linear) const {
    const u32 n = linear / span();
    return n <= 1 ? n : n <= 101 ? n - 98 : n == 300 ? 4 : 5;
  }
  [[nodiscard]] bool is_shared(u32 linear) const {
    return span_number(linear) == 2 || span_number(linear) == 3 || span_number(linear) == 5;
  }
  [[nodiscard]] u32 table_for(u32 linear) const {
    return 0x100000 + (is_shared(linear) ? 0 : space * 0x10000) + span_number(linear) * page_size;
  }
  void use_space(u32 number) {
    space = number;
    directory = 0x10000 + number * 0x4000;
    pointer_table = 0x8000 + number * 0x20;
  }
  // MOV CR3.
  void load_space(u32 number) {
    use_space(number);
    cpu.cr3 = pae() ? pointer_table : directory;
    if (pae()) {
      ASSERT_TRUE(memory.load_pdptes(cpu.cr3));
    }
    (cpu.cr4 & cr4::pge) != 0 ? memory.flush_non_global() : memory.flush_global();
  }

  struct Expected {
    bool ok = false;
    u32 error_code = 0;
    u64 physical = 0;
    u32 pde_address = 0, pte_address = 0;  // 0: none
    bool large = false;
  };
  // SDM vol. 3, 4.3-4.7, for entries without reserved bits; the random tables have none.
  Expected look(u32 linear, Access access, bool user) {
    Expected e;
    const bool w = access == Access::write;
    e.error_code = (w ? 2u : 0) | (user ? 4u : 0) | (access == Access::execute && pae() ? 16u : 0);
    e.pde_address = pde_at(linear);
    const u64 pde = get(e.pde_address);
    if ((pde & P) == 0) return e;
    u64 rights = pde, nx = pde & NX;
    e.large = (pde & PS) != 0;
    if (e.large) {
      e.physical = (pde & 0xFFE00000) + (linear & (span() - 1));
    } else {
      e.pte_address = pte_at(linear, static_cast<u32>(pde & 0xFFFFF000));
      const u64 pte = get(e.pte_address);
      if ((pte & P) == 0) return e;
      rights &= pte;
      nx |= pte & NX;
      e.physical = (pte & 0xFFFFF000) + (linear & 0xFFF);
    }
    if ((user && (rights & U) == 0) || (w && (rights & W) == 0 && (user || (cpu.cr0 & cr0::wp) != 0)) ||
        (access == Access::execute && nx != 0)) {
      e.error_code |= 1;
      return e;
    }
    e.ok = true;
    return e;
  }

  void put_directory_entry(u32 linear, u64 entry) {
    const u32 current = space;
    if (is_shared(linear)) {
      for (u32 other = 0; other < space_count; ++other) {
        use_space(other);
        put(pde_at(linear), entry);
      }
      use_space(current);
    } else {
      put(pde_at(linear), entry);
    }
  }

  u64 random_flags(u32 linear) {
    return (pick(8) != 0 ? P : 0) | (pick(3) != 0 ? W : 0) | (pick(3) != 0 ? U : 0) | (pick(2) != 0 ? A : 0) | (pick(3) == 0 ? D : 0) |
           (is_shared(linear) && pick(3) == 0 ? G : 0) | (pae() && pick(5) == 0 ? NX : 0);
  }
  // Returns whether something global may be stale.
  bool edit_directory(u32 linear) {
    u64 flags = random_flags(linear);
    // An entry of a global page needs no walk in another space, so it would not set A there.
    if (is_shared(linear)) flags = (flags | A) & ~G;
    put_directory_entry(linear, pick(3) == 0 ? 0x400000 | PS | flags : table_for(linear) | (flags & ~(G | D)));
    return is_shared(linear);
  }
  bool edit_page(u32 linear) {
    const u32 at = pte_at(linear, table_for(linear));
    put(at, pick(4) == 0 ? get(at) & ~u64{pick(2) != 0 ? D : A | D} : (frames + pick(32) * page_size) | random_flags(linear));
    return is_shared(linear);
  }

  // One entry and INVLPG; or several, and what drops all of them.
  void edit_space() {
    if (pick(2) == 0) {
      const u32 linear = random_linear();
      edit_page(linear);
      memory.flush_page(linear);
      return;
    }
    bool global = false;
    for (u32 i = pick(4); i < 4; ++i) {
      const u32 linear = random_linear();
      global |= pick(3) == 0 ? edit_directory(linear) : edit_page(linear);
    }
    if (pick(8) == 0) {
      memory.flush_all();
    } else if (global || pick(8) == 0) {
      if (pick(2) == 0) cpu.cr4 ^= cr4::pge;
      memory.flush_global();
    } else {
      load_space(pick(3) == 0 ? pick(space_count) : space);
    }
  }
  // Of a space that is not loaded: no flush is due.
  void edit_another_space() {
    const u32 current = space;
    use_space((current + 1 + pick(space_count - 1)) % space_count);
    for (u32 i = pick(4); i < 4; ++i) {
      const u32 linear = random_linear();
      if (!is_shared(linear)) pick(4) == 0 ? edit_directory(linear) : edit_page(linear);
    }
    use_space(current);
  }

  // After any access that took place the tables are as before plus A and D; after a fault nothing changed.
  void access() {
    const Access kind = static_cast<Access>(pick(3));
    const bool user = pick(2) != 0;
    const u32 linear = random_linear();
    const unsigned size = kind == Access::execute ? 1 : 1 + pick(16);
    const u32 first_size = std::min<u32>(size, page_size - (linear & page_mask));
    std::vector<std::pair<u32, u32>> parts{{linear, first_size}};
    if (first_size != size) parts.emplace_back(linear + first_size, size - first_size);

    bool ok = true;
    u32 fault_address = 0, fault_code = 0;
    std::map<u32, u64> entries;
    std::vector<u64> bytes_at;
    for (const auto& [start, count] : parts) {
      const Expected e = look(start, kind, user);
      if (!e.ok && ok) {
        ok = false;
        fault_address = start;
        fault_code = e.error_code;
      }
      for (u32 i = 0; i < count; ++i) bytes_at.push_back(e.physical + i);
      const u64 leaf = A | (kind == Access::write ? D : 0);
      for (const u32 entry : {e.pde_address, e.pte_address})
        if (entry != 0) entries.try_emplace(entry, get(entry));
      if (e.ok) {
        entries[e.pde_address] |= e.large ? leaf : A;
        if (!e.large) entries[e.pte_address] |= leaf;
      }
    }
    if (!ok)
      for (auto& [address, value] : entries) value = get(address);

    watcher.written.clear();
    fault = {};
    u8 data[16];
    for (u8& byte : data) byte = static_cast<u8>(random());
    bool done = false;
    if (kind == Access::execute) {
      const auto result = memory.translate_fetch(linear, user, fault);
      done = result.has_value();
      if (done && ok) {
        ASSERT_EQ(result->address.value, bytes_at[0]);
      }
    } else if (kind == Access::write) {
      done = pick(8) == 0 ? memory.probe_write(linear, size, user, fault) && memory.write(linear, data, size, user, fault)
                          : memory.write(linear, data, size, user, fault);
    } else {
      u8 out[16];
      done = memory.read(linear, out, size, user, fault);
      for (u32 i = 0; i < (done && ok ? size : 0); ++i) ASSERT_EQ(out[i], *ram.at({bytes_at[i]}));
    }
    ASSERT_EQ(done, ok) << std::hex << linear << " size " << size;
    if (!ok) expect_page_fault(fault_address, fault_code);
    for (const auto& [address, value] : entries) ASSERT_EQ(get(address), value) << std::hex << linear;
    if (kind != Access::write || !ok) return;
    u32 reported = 0;
    u32 on_code = 0;
    for (const auto& [address, count] : watcher.written) reported += count;
    for (u32 i = 0; i < size; ++i) {
      // Where both parts hit one byte, the later part wins; the check takes the last.
      bool overwritten = false;
      for (u32 j = i + 1; j < size; ++j) overwritten = overwritten || bytes_at[j] == bytes_at[i];
      if (!overwritten) {
        ASSERT_EQ(*ram.at({bytes_at[i]}), data[i]);
      }
      on_code += watched.count(bytes_at[i] >> 12) != 0;
    }
    ASSERT_EQ(reported, on_code);
  }

  // What the host grants at an address: the kernel is asked, which reports what would be a signal here.
  enum class Granted : u8 { nothing, read, write };
  Granted granted(u8* at) {
    if (::write(pipe_ends[1], at, 1) != 1) return Granted::nothing;
    if (::read(pipe_ends[0], at, 1) == 1) return Granted::write;  // the byte that was there
    u8 rest = 0;
    EXPECT_EQ(::read(pipe_ends[0], &rest, 1), 1);
    return Granted::read;
  }
  // A window grants no more than the tables do, and what is asked for where they allow it.
  void check_window(u64 context, u32 linear) {
    const bool readable = read_slot(context, linear) != 0, writable = write_slot(context, linear) != 0;
    u8* const at = reinterpret_cast<u8*>(memory.window_base() + linear) + pick(4096);
    const Granted before = granted(at);
    ASSERT_LE(before, writable ? Granted::write : readable ? Granted::read : Granted::nothing);
    if (before != Granted::nothing) {
      ASSERT_EQ(*at, *(at - memory.window_base() + read_slot(context, linear)));
    }
    const bool write = pick(2) != 0;
    const bool may = (write ? writable : readable) && (!memory.window_low() || linear >= contract::low_window_begin);
    ASSERT_EQ(memory.map_window(linear, write), may);
    if (may) {
      ASSERT_GE(granted(at), write ? Granted::write : Granted::read);
      ASSERT_EQ(*at, *(at - memory.window_base() + read_slot(context, linear)));
    }
  }

  // The tables agree with the walk: no entry grants more than the page tables do, no code page is writable.
  void check_tables(u64 context, bool user) {
    for (u32 i = 0; i < 8; ++i) {
      const u32 linear = random_linear() & ~page_mask;
      const u64 read_entry = read_slot(context, linear), write_entry = write_slot(context, linear);
      if (read_entry != 0) {
        const Expected e = look(linear, Access::read, user);
        ASSERT_TRUE(e.ok);
        ASSERT_EQ(read_entry + linear, reinterpret_cast<u64>(ram.at({e.physical})));
        ASSERT_NE(get(e.large ? e.pde_address : e.pte_address) & A, 0u);
      }
      if (write_entry != 0) {
        const Expected e = look(linear, Access::write, user);
        ASSERT_TRUE(e.ok);
        ASSERT_EQ(write_entry, read_entry);
        ASSERT_NE(get(e.large ? e.pde_address : e.pte_address) & D, 0u);
        ASSERT_EQ(watched.count(e.physical >> 12), 0u);
      }
      if (std::get<1>(GetParam())) {
        ASSERT_NO_FATAL_FAILURE(check_window(context, linear));
      }
    }
  }

  std::mt19937 random{20240611};
  std::set<u64> watched;
  u32 space = 0;
  int pipe_ends[2] = {-1, -1};
};

TEST_P(MemoryRandom, AgreesWithAPlainWalk) {
  const auto [with_pae, with_windows, crowded] = GetParam();
  if (crowded) memory.limit_contexts(0);  // a context that is not at work is given back to the host
  enable_paging(with_pae);
  if (with_windows) memory.set_windows(0, true);
  ASSERT_EQ(pipe(pipe_ends), 0);
  cpu.efer = pae() ? efer::nxe : 0;
  for (u32 number = 1; number < space_count && pae(); ++number) {
    for (u32 i = 0; i < 4; ++i) put64(0x8000 + 0x20 * number + 8 * i, (0x10000 + 0x4000 * number + 0x1000 * i) | P);
  }
  for (u32 step = 0; step < 300'000; ++step) {
    switch (pick(16)) {
      case 0: ASSERT_NO_FATAL_FAILURE(edit_space()); break;
      case 1: pick(2) == 0 ? edit_another_space() : load_space(pick(space_count)); break;
      case 2: {
        const u64 page = (frames >> page_shift) + pick(32);
        if (watched.erase(page) != 0) {
          memory.unwatch_code({page << page_shift});
        } else {
          watched.insert(page);
          memory.watch_code({(page << page_shift) + pick(4096)});
        }
        break;
      }
      case 3: {
        const bool user = pick(2) != 0;
        const u64 context = memory.select_context((user ? mode::user : 0) | (pick(5) << 16));
        ASSERT_NO_FATAL_FAILURE(check_tables(context, user));
        break;
      }
      case 4:
        if (pick(8) == 0) {
          cpu.cr0 ^= cr0::wp;
          memory.flush_all();
        } else if (pick(4) == 0) {
          load_space(space);
        } else {
          memory.flush_page(random_linear());
        }
        break;
      default: ASSERT_NO_FATAL_FAILURE(access()) << "step " << step;
    }
  }
  EXPECT_EQ(memory.stats().contexts_released != 0, crowded);
}

INSTANTIATE_TEST_SUITE_P(Formats, MemoryRandom, ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Bool()),
                         [](const auto& kind) {
                           return std::string(std::get<0>(kind.param) ? "pae" : "two_level") + (std::get<1>(kind.param) ? "_windows" : "") +
                                  (std::get<2>(kind.param) ? "_crowded" : "");
                         });

}  // namespace
}  // namespace ring3::test
