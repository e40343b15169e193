#include "transfer.h"

u64 ldt[ldt_entries] __attribute__((aligned(8)));
u8 ring_stacks[3][4096] __attribute__((aligned(4096)));
struct FarPointer far_pointer;
SNIPPET(pad, "mov edi, ss\n" DONE);
enum { pad_bytes = 4, slot_count = (slots_end - slot) / 8 };

u16 code_of(u32 ring) {
  static const u16 selectors[] = {kernel_code, ring1_code, ring2_code, user_code};
  return selectors[ring];
}

u16 data_of(u32 ring) {
  static const u16 selectors[] = {kernel_data, ring1_data, ring2_data, user_data};
  return selectors[ring];
}

u32 stack_top(u32 ring) { return ring == 0 ? (u32)trap_stack + sizeof(trap_stack) : (u32)ring_stacks[ring] + sizeof(ring_stacks[ring]); }

void tss_stacks_init(void) {
  tss.ss0 = kernel_data;
  tss.esp0 = stack_top(0);
  tss.ss1 = ring1_data;
  tss.esp1 = stack_top(1);
  tss.ss2 = ring2_data;
  tss.esp2 = stack_top(2);
}

void transfer_init(void) {
  descriptors_init();
  tss_stacks_init();
  gdt[ldt_slot / 8] = descriptor((u32)ldt, sizeof(ldt) - 1, 0x82, 0);
  __asm__ volatile("lldt %w0" ::"r"((u32)ldt_slot));
  gdt[base_slot / 8] = descriptor((u32)pad - pad_offset, 0xFFFFF, 0x9F, 0xC);
}

struct Cpu start_in(u32 ring, const void* code) {
  struct Cpu cpu = ring_cpu(ring, code);
  cpu.eax = 0xA1A2A3A4;
  cpu.ebx = (u32)&far_pointer;
  cpu.ecx = 0xC1C2C3C4;
  cpu.edx = 0xD1D2D3D4;
  cpu.esi = 0xE1E2E3E4;
  cpu.ebp = 0xB1B2B3B4;
  cpu.esp -= 0x400;
  return cpu;
}

static u32 accessed_noted, accessed_wrong;
static u64 first_before, first_after;

void note_accessed(u16 selector, u64 before) {
  const u64 now = (selector & 4 ? ldt : gdt)[selector / 8];
  accessed_noted++;
  if (now == (before | 1ull << 40)) return;
  if (accessed_wrong++) return;
  first_before = before;
  first_after = now;
}

void check_accessed(void) {
  group("accessed bits");
  if (!check("descriptors without accessed bit", accessed_wrong, 0))
    printf("       first: %x, was %x\n", (u32)(first_after >> 32), (u32)(first_before >> 32));
  check_true("some were looked at", accessed_noted > 0);
}

u8 access_of(u16 selector) { return (u8)((selector & 4 ? ldt : gdt)[selector / 8] >> 40); }

u64 segment_with(u8 access) {
  bool expand_down = (access & 0x1C) == 0x14;
  return expand_down ? descriptor(0, 0, access, 0xC) : descriptor(0, 0xFFFFF, access, 0xC);
}

u64 call_gate(u16 selector, u32 offset, u8 access, u32 parameters) { return gate(selector, offset, access) | (u64)parameters << 32; }

static u64 slots_before[slot_count + ldt_entries];

static void note_slots(u64* to) {
  for (u32 i = 0; i < slot_count; i++) to[i] = gdt[slot / 8 + i];
  for (u32 i = 0; i < ldt_entries; i++) to[slot_count + i] = ldt[i];
}

static bool slots_unchanged(void) {
  u64 now[slot_count + ldt_entries];
  note_slots(now);
  for (u32 i = 0; i < ARRAY_SIZE(now); i++) {
    if (now[i] != slots_before[i]) return false;
  }
  return true;
}

static bool changed_nothing(const char* what, const struct Cpu* start) {
  bool good = check_unchanged(what, start);
  if (!slots_unchanged()) good = check_true("no descriptor changes", false);
  return good;
}

bool refused(const char* what, const struct Cpu* start, u32 vector, u32 error) {
  note_slots(slots_before);
  run_cpu(start);
  bool good = check_trap(what, vector, error, (void*)start->eip);
  return changed_nothing(what, start) && good;
}

bool refused_by_page(const char* what, const struct Cpu* start, u32 error, u32 address) {
  bool good = refused(what, start, v_page, error);
  return check(what, trap.cr2, address) && good;
}

bool landed(const char* what, const struct Cpu* start, const struct Cpu* want) {
  run_cpu(start);
  const struct Cpu* end = &trap.cpu;
  bool good = trap.vector == vector_done && end->eip == want->eip + pad_bytes && end->cs == want->cs && (end->edi & 0xFFFF) == want->ss &&
              end->esp == want->esp && ((end->eflags ^ want->eflags) & ~(u32)f_rf) == 0 && end->ds == want->ds && end->es == want->es &&
              end->fs == want->fs && end->gs == want->gs && end->eax == want->eax && end->ebx == want->ebx && end->ecx == want->ecx &&
              end->edx == want->edx && end->esi == want->esi && end->ebp == want->ebp;
  if (!check_true(what, good) && showing_failures()) {
    printf("       got  vector %x error %x cr2 %x\n", trap.vector, trap.error, trap.cr2);
    printf("       got  cs %x eip %x ss %x esp %x flags %x ds %x es %x fs %x gs %x\n", end->cs, end->eip, end->edi, end->esp, end->eflags,
           end->ds, end->es, end->fs, end->gs);
    printf("       want cs %x eip %x ss %x esp %x flags %x ds %x es %x fs %x gs %x\n", want->cs, want->eip + pad_bytes, want->ss, want->esp,
           want->eflags, want->ds, want->es, want->fs, want->gs);
  }
  return good;
}

bool check_items(const char* what, u32 address, const u32* want, u32 count, u32 size) {
  bool good = true;
  for (u32 i = 0; i < count; i++) {
    u32 got = size == 4 ? read32(address + 4 * i) : *(volatile u16*)(address + 2 * i);
    u32 expected = size == 4 ? want[i] : want[i] & 0xFFFF;
    if (got == expected) continue;
    good = check(what, got, expected);
    if (showing_failures()) printf("       item %u of %u at %x\n", i, count, address);
  }
  return good;
}

struct Outcome inner_stack(u8 access, u32 rpl, u32 level, u16 selector, u32 ext) {
  const u32 error = (selector & ~3u) | ext;
  bool writable_data = (access & 0x1A) == 0x12;
  if (rpl != level || (access >> 5 & 3u) != level || !writable_data) return (struct Outcome){v_tss, error};
  if (!(access & 0x80)) return (struct Outcome){v_stack, error};
  return (struct Outcome){vector_done, 0};
}

void every_inner_stack(const struct Cpu* start, u32 level, u32 ext, u32 frame, const struct Cpu* landing) {
  for (u32 access = 0; access < 256; access++) {
    for (u32 rpl = 0; rpl < 4; rpl++) {
      gdt[stack_slot / 8] = segment_with((u8)access);
      if (level == 1) tss.ss1 = stack_slot | rpl;
      if (level == 2) tss.ss2 = stack_slot | rpl;
      struct Outcome want = inner_stack((u8)access, rpl, level, stack_slot, ext);
      bool good;
      if (want.vector == vector_done) {
        struct Cpu end = *landing;
        end.ss = stack_slot | rpl;
        end.esp = stack_top(level) - frame;
        const u64 before = gdt[stack_slot / 8];
        good = landed("stack taken", start, &end);
        note_accessed(stack_slot, before);
      } else {
        good = refused("stack refused", start, want.vector, want.error);
      }
      if (!good && showing_failures()) printf("       stack access %x rpl %u level %u\n", access, rpl, level);
    }
  }
  tss_stacks_init();
}
