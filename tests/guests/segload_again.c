// Loading ES, DS, FS and GS again and again at the same place, with the descriptor as it was and with one that changed since: what was
// learned from an earlier load must never hide a change of the descriptor, the GDT or the selector (SDM vol. 2, MOV and POP).
//
// qemu: deviates in "null" (it lets accesses through NULL in ES and DS pass)
// qemu: deviates in "limits" (it checks no limits of data segments)
//
// expect:
//   mov: ok
//   pop: ok
//   null: ok
//   refused: ok
//   limits: ok
//   table: ok
// end
#include "lib/guest.h"

enum { slot = first_free, words = 16 };
enum Register { r_es, r_ds, r_fs, r_gs, register_count };

// EAX: selector. EBX: offset to read, from ring 0. The answers: ECX the word there, EDX the selector.
#define MOV(r) SNIPPET(mov_##r, "mov " #r ", eax\nmov ecx, " #r ":[ebx]\nmov edx, " #r "\nmov eax, edx\n" DONE)
#define POP(r) SNIPPET(pop_##r, "push eax\npop " #r "\nmov ecx, " #r ":[ebx]\nmov edx, " #r "\nmov eax, edx\n" DONE)
MOV(es);
MOV(ds);
MOV(fs);
MOV(gs);
POP(es);
POP(ds);
POP(fs);
POP(gs);
static const u8* const movs[] = {mov_es, mov_ds, mov_fs, mov_gs};
static const u8* const pops[] = {pop_es, pop_ds, pop_fs, pop_gs};
SNIPPET(mov_memory, "mov fs, [esi]\nmov ecx, fs:[ebx]\nmov edx, fs\n" DONE);

static u32 data[words];

static void set_slot(u64 value) { gdt[slot / 8] = value; }
static u64 flat(u32 base, u8 access) { return descriptor(base, 0xFFFFF, access, 0xC); }

static void load(const u8* code, u32 selector, u32 offset) {
  struct Cpu cpu = kernel_cpu(code);
  cpu.eax = selector;
  cpu.ebx = offset;
  run_cpu(&cpu);
}

static void expect(const char* what, u32 selector, u32 word) {
  check_done(what);
  check(what, trap.cpu.ecx, word);
  check(what, trap.cpu.edx, selector);
}

static void sweep(const u8* const* codes) {
  for (u32 i = 0; i < words; i++) data[i] = 0xABCD0000 + i;
  for (u32 r = 0; r < register_count; r++) {
    for (u32 round = 0; round < 3; round++) {
      set_slot(flat(0, 0x93));
      for (u32 n = 0; n < 4; n++) {
        load(codes[r], slot, (u32)&data[n]);
        expect("same descriptor", slot, data[n]);
      }
      // Another base, while the register may still hold the old one; and the same again.
      for (u32 n = 1; n < 4; n++) {
        set_slot(flat((u32)&data[n], 0x93));
        for (u32 again = 0; again < 3; again++) {
          load(codes[r], slot, 4);
          expect("another base", slot, data[n + 1]);
        }
      }
      // Not accessed yet: the load sets the bit.
      set_slot(flat((u32)&data[5], 0x92));
      load(codes[r], slot, 0);
      expect("accessed", slot, data[5]);
      check("bit 40", (u32)(gdt[slot / 8] >> 40) & 0xFF, 0x93);
      // Selectors of the same descriptor.
      set_slot(flat((u32)&data[6], 0xF3));
      for (u32 rpl = 0; rpl < 4; rpl++) {
        load(codes[r], slot + rpl, 4);
        expect("RPL", slot + rpl, data[7]);
      }
      // Another selector with the same low index bits.
      gdt[(slot / 8 + 32) % gdt_entries] = flat((u32)&data[9], 0x93);
      load(codes[r], ((slot / 8 + 32) % gdt_entries) * 8, 4);
      expect("32 entries on", ((slot / 8 + 32) % gdt_entries) * 8, data[10]);
      load(codes[r], slot, 4);
      expect("and back", slot, data[7]);
    }
  }
}

static void null_selectors(void) {
  for (u32 r = 0; r < register_count; r++) {
    for (u32 n = 0; n < 12; n++) {
      const u8* code = n & 1 ? pops[r] : movs[r];
      set_slot(flat((u32)&data[n], 0x93));
      load(code, slot, 0);
      expect("before", slot, data[n]);
      load(code, n & 3, 0);
      check("null faults at the access", trap.vector, v_protection);
      check("error", trap.error, 0);
    }
  }
}

static void refused(void) {
  for (u32 r = 0; r < register_count; r++) {
    for (u32 n = 0; n < 8; n++) {
      const u8* code = n & 1 ? pops[r] : movs[r];
      set_slot(flat((u32)&data[n], 0xF3));
      for (u32 again = 0; again < 2; again++) {
        load(code, slot, 0);
        expect("good", slot, data[n]);
      }
      set_slot(flat((u32)&data[n], 0x13));
      load(code, slot, 0);
      check("not present", trap.vector, v_not_present);
      check("its selector", trap.error, slot);
      set_slot(flat((u32)&data[n], 0x93));
      load(code, slot + 3, 0);
      check("RPL 3, DPL 0", trap.vector, v_protection);
      check("its selector", trap.error, slot);
      set_slot(flat((u32)&data[n], 0x99));
      load(code, slot, 0);
      check("execute-only code", trap.vector, v_protection);
      set_slot(flat((u32)&data[n], 0x91));
      load(code, slot, 0);
      expect("read-only", slot, data[n]);
      // Ring 3 must not get what ring 0 may have.
      struct Cpu cpu = user_cpu(code);
      set_slot(flat((u32)&data[n], 0x93));
      load(code, slot, 0);
      expect("ring 0", slot, data[n]);
      cpu.eax = slot;
      run_cpu(&cpu);
      check("ring 3", trap.vector, v_protection);
      check("its selector", trap.error, slot);
    }
  }
}

static void limits(void) {
  for (u32 r = 0; r < register_count; r++) {
    for (u32 n = 0; n < 6; n++) {
      const u8* code = n & 1 ? pops[r] : movs[r];
      set_slot(flat((u32)&data[n], 0x93));
      for (u32 again = 0; again < 2; again++) {
        load(code, slot, 4);
        expect("4 GiB", slot, data[n + 1]);
      }
      set_slot(descriptor((u32)&data[n], 6, 0x93, 4));
      load(code, slot, 4);
      check("over the limit", trap.vector, v_protection);
      set_slot(descriptor((u32)&data[n], 7, 0x93, 4));
      load(code, slot, 4);
      expect("at the limit", slot, data[n + 1]);
      set_slot(descriptor((u32)&data[n], 3, 0x97, 4));  // expand-down: offsets from 4
      load(code, slot, 4);
      expect("expand-down", slot, data[n + 1]);
      load(code, slot, 0);
      check("below an expand-down segment", trap.vector, v_protection);
    }
  }
}

static void tables(void) {
  static u8 room[gdt_entries * 8 + 16] __attribute__((aligned(8)));
  static u16 in_memory;
  for (u32 n = 0; n < 6; n++) {
    set_slot(flat((u32)&data[n], 0x93));
    for (u32 r = 0; r < register_count; r++) {
      const u8* code = n & 1 ? pops[r] : movs[r];
      for (u32 again = 0; again < 2; again++) {
        load(code, slot, 4);
        expect("own table", slot, data[n + 1]);
      }
      load_gdt((u32)gdt, slot + 6);
      load(code, slot, 4);
      check("one byte over the table", trap.vector, v_protection);
      check("its selector", trap.error, slot);
      load_gdt((u32)gdt, slot + 7);
      load(code, slot, 4);
      expect("the last entry", slot, data[n + 1]);
      // Another table, aligned and not, with another descriptor there.
      for (u32 at = 0; at < 9; at += 4) {
        memcpy(room + at, gdt, sizeof(gdt));
        u64 other = flat((u32)&data[n + 1], 0x93);
        memcpy(room + at + slot, &other, 8);
        load_gdt((u32)room + at, sizeof(gdt) - 1);
        for (u32 again = 0; again < 2; again++) {
          load(code, slot, 4);
          expect("another table", slot, data[n + 2]);
        }
      }
      own_gdt();
      load(code, slot, 4);
      expect("own table again", slot, data[n + 1]);
    }
    in_memory = slot;
    for (u32 again = 0; again < 3; again++) {
      struct Cpu cpu = kernel_cpu(mov_memory);
      cpu.esi = (u32)&in_memory;
      cpu.ebx = 4;
      run_cpu(&cpu);
      expect("from memory", slot, data[n + 1]);
    }
  }
}

void guest_main(void) {
  descriptors_init();
  group("mov");
  sweep(movs);
  group("pop");
  sweep(pops);
  group("null");
  null_selectors();
  group("refused");
  refused();
  group("limits");
  limits();
  group("table");
  tables();
}
