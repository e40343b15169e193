// Accesses across two pages, with every pair of page states: the fault of the lower page comes first, as the host's CPU has it; of the
// upper one CR2 is the first byte. Nothing is marked in the entry that faults, and both are marked when the access takes place (SDM vol.
// 3, 4.7 and 4.8). Reads, writes, read-modify-writes and instructions, rings 0 and 3, both formats, 4 KiB pages beside large ones.
//
// qemu: deviates (faults of read-modify-write instructions are reported as reads, RSVD without P, the upper page is written before the
// lower)
//
// expect:
//   32-bit: ok
//   PAE: ok
//   small beside large: ok
// end
#include "lib/guest.h"

enum { border = 0x40400000, marks = p_accessed | p_dirty };  // also a border of large pages
static struct Space space;
static u32 frames;  // 8 MiB at a 4 MiB boundary, mapped around the border

// PAE with NXE.
static const u64 states[] = {p_present | p_write | p_user,
                             0,
                             p_present | p_user,
                             p_present | p_write,
                             p_present | p_write | p_user | P_NX,
                             p_present | p_write | p_user | 1ull << 62};

static i32 error_of(u64 state, enum Probe kind, u32 ring) {
  u32 access = (probe_writes(kind) ? e_write : 0u) | (ring == 3 ? e_user : 0u) | (kind == probe_fetch && space.pae ? e_fetch : 0u);
  if (!(state & p_present)) return (i32)access;
  if (state & 1ull << 62) return (i32)(access | e_present | e_reserved);
  bool denied = (ring == 3 && !(state & p_user)) || (probe_writes(kind) && !(state & p_write) && ring == 3) ||
                (kind == probe_fetch && (state & P_NX));
  return denied ? (i32)(access | e_present) : -1;
}

static bool large[2];

static u64 get_entry(u32 which) {
  u32 linear = which ? border : border - 1;
  return large[which] ? get_pde(&space, linear) : get_pte(&space, linear);
}

static void set_entry(u32 which, u64 state) {
  u32 linear = which ? border : border - 1;
  if (large[which])
    map_large(&space, linear, ((frames + (4 << 20) - (which ? 0 : large_bytes(&space)))) | state);
  else
    map(&space, linear, (frames + (4 << 20) - (which ? 0 : page_bytes)) | state);
  invlpg(linear);
}

static void every_pair(void) {
  const u32 count = space.pae ? ARRAY_SIZE(states) : 4;
  for (u32 low = 0; low < count; low++) {
    for (u32 high = 0; high < count; high++) {
      for (u32 kind = 0; kind < probe_count; kind++) {
        for (u32 ring = 0; ring < 4; ring += 3) {
          set_entry(0, states[low]);
          set_entry(1, states[high]);
          const u64 before[2] = {get_entry(0), get_entry(1)};
          const u32 at = border - (kind == probe_fetch ? 1 : 2);
          i32 errors[2] = {error_of(states[low], kind, ring), error_of(states[high], kind, ring)};
          const u32 word = frames + (4 << 20) - (kind == probe_fetch ? 1 : 2);
          *(volatile u32*)word = kind == probe_fetch ? probe_word : 0;
          probe(kind, ring, at);
          const u32 written = *(volatile u32*)word;
          const u32 eip = trap.cpu.eip;
          bool good;
          if (errors[0] >= 0) {
            good = check_probe("lower page", kind, at, errors[0]);
            good &= check_true("its entry", get_entry(0) == before[0]);
          } else if (errors[1] >= 0) {
            good = check("upper page", trap.vector, v_page);
            good &= check("error code", trap.error, (u32)errors[1]);
            good &= check("CR2", trap.cr2, border);
            if (kind == probe_fetch) good &= check("EIP", eip, at);
            good &= check_true("its entry", get_entry(1) == before[1]);
          } else {
            good = check_done("both");
            u64 want = p_accessed | (probe_writes(kind) ? p_dirty : 0);
            good &= check_true("both marked", get_entry(0) == (before[0] | want) && get_entry(1) == (before[1] | want));
          }
          u32 want = kind == probe_fetch ? (u32)probe_word : kind == probe_write && errors[0] < 0 && errors[1] < 0 ? (u32)probe_word : 0;
          good &= check("memory", written, want);
          if (!good && showing_failures()) printf("       low %u high %u probe %u ring %u\n", low, high, kind, ring);
        }
      }
    }
  }
}

static void prepare(bool pae) {
  space = new_space(pae);
  use_space(&space);
}

void guest_main(void) {
  descriptors_init();
  frames = new_aligned(8 << 20, 4 << 20);
  group("32-bit");
  prepare(false);
  every_pair();
  group("PAE");
  write_msr(MSR_EFER, EFER_NXE);
  prepare(true);
  every_pair();
  group("small beside large");
  for (u32 pae = 0; pae < 2; pae++) {
    for (u32 which = 1; which < 4; which++) {
      prepare(pae);
      large[0] = which & 1;
      large[1] = which & 2;
      every_pair();
    }
  }
  finish();
}
