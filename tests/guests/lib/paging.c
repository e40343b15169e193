// Page tables in both 32-bit formats (SDM vol. 3, 4.3 and 4.4). Tables lie in identity-mapped memory, so they are written directly.
#include "guest.h"

static u32 next_free = 8 << 20;

u32 new_aligned(u32 bytes, u32 alignment) {
  next_free = (next_free + alignment - 1) & ~(alignment - 1);
  u32 result = next_free;
  next_free += bytes;
  if (next_free > identity_end) panic("out of pages");
  memset((void*)result, 0, bytes);
  return result;
}

u32 new_pages(u32 count) { return new_aligned(count * page_bytes, page_bytes); }
u32 new_page(void) { return new_pages(1); }

u32 large_bytes(const struct Space* space) { return space->pae ? 2u << 20 : 4u << 20; }

static u64* pae_directory(const struct Space* space, u32 linear) { return (u64*)(u32)(((u64*)space->root)[linear >> 30] & 0xFFFFF000u); }

u64 get_pde(const struct Space* space, u32 linear) {
  return space->pae ? pae_directory(space, linear)[linear >> 21 & 511] : ((u32*)space->root)[linear >> 22];
}

void set_pde(const struct Space* space, u32 linear, u64 entry) {
  if (space->pae)
    pae_directory(space, linear)[linear >> 21 & 511] = entry;
  else
    ((u32*)space->root)[linear >> 22] = (u32)entry;
}

u64 get_pte(const struct Space* space, u32 linear) {
  u32 table = (u32)get_pde(space, linear) & 0xFFFFF000u;
  return space->pae ? ((u64*)table)[linear >> 12 & 511] : ((u32*)table)[linear >> 12 & 1023];
}

void set_pte(const struct Space* space, u32 linear, u64 entry) {
  u32 table = (u32)get_pde(space, linear) & 0xFFFFF000u;
  if (space->pae)
    ((u64*)table)[linear >> 12 & 511] = entry;
  else
    ((u32*)table)[linear >> 12 & 1023] = (u32)entry;
}

void map(const struct Space* space, u32 linear, u64 entry) {
  if (!(get_pde(space, linear) & p_present)) set_pde(space, linear, new_page() | p_present | p_write | p_user);
  set_pte(space, linear, entry);
}

void map_large(const struct Space* space, u32 linear, u64 entry) { set_pde(space, linear, entry | p_large); }

struct Space new_space(bool pae) {
  struct Space space = {pae, 0};
  if (pae) {
    space.root = new_page();
    for (u32 i = 0; i < 4; i++) ((u64*)space.root)[i] = new_page() | p_present;
  } else {
    space.root = new_page();
  }
  // Table by table in tight loops: lockstep pays for every block.
  const u32 per_table = pae ? 512 : 1024, open = p_present | p_write | p_user;
  for (u32 address = 0; address < identity_end; address += per_table * page_bytes) {
    u32 table = new_page();
    set_pde(&space, address, table | open);
    for (u32 i = 0, entry = address | open; i < per_table; i += 4, entry += 4 * page_bytes) {
      for (u32 n = 0; n < 4; n++) {
        if (pae)
          ((u64*)table)[i + n] = entry + n * page_bytes;
        else
          ((u32*)table)[i + n] = entry + n * page_bytes;
      }
    }
  }
  return space;
}

void paging_off(void) { write_cr0(read_cr0() & ~(u32)cr0_pg); }

void use_space(const struct Space* space) {
  bool was_pae = (read_cr4() & cr4_pae) != 0;
  if (was_pae != space->pae) paging_off();
  u32 cr4 = (read_cr4() | cr4_pse) & ~(u32)cr4_pae;
  write_cr4(space->pae ? cr4 | cr4_pae : cr4);
  write_cr3(space->root);
  write_cr0(read_cr0() | (u32)cr0_pg);
}
