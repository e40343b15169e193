// Runs the streams of an image (layout.h), one after another, and writes a result for each to port E9h: state at its events and its end,
// hashed, and the memory it touched. Between streams paging is off and all tables are the kernel's own.
//
// A second module is a list of streams (u32 each, ascending): those alone run, and everything about them is written as text.
//
// Command line: first=N and count=N (which streams), interpret=1
// (this kernel in code segments that ring3 interprets), tick=N (timer interrupts every N counts of the 8254; without it interrupts come a
// hundred times a second, only to end streams that do not end).
#include "guest.h"

#include "../layout.h"
#include "offsets.h"

// The state of the stream at its last event. Field order: offsets.h.
struct Current {
  struct StreamState state;
  u32 vector, error;
};
_Static_assert(offsetof(struct Current, vector) == CUR_VECTOR, "offsets.h");
_Static_assert(offsetof(struct StreamState, gs) == CUR_GS, "offsets.h");

enum {
  f_vm = 0x20000,
  f_vif = 0x80000,
  f_vip = 0x100000,
  event_timeout = 0x200,
  event_sysenter = 0x100,
  in_harness = 0x1000,
  identity_pages = 6,
  events_kept = 24,
  slow_divisor = 11932 /* 10 ms */
};

struct Event {
  struct Current at;
  u32 cr2, dr6;
};
_Static_assert(sizeof(struct Event) % 16 == 0, "hashed in blocks");

struct Result {
  u32 index;
  u8 events, last_vector, flags, unused;  // flags: 1 timed out, 2 ended in this kernel, 4 could see ticks, 8 cut off
  u32 registers, fpu, memory, tables;
  u32 lenient;  // as `registers`, without what QEMU gets wrong (run_streams)
};

struct Current current __attribute__((aligned(16)));
volatile u32 ticks, tick_limit;
volatile u32 visible_ticks;                                                                     // those whose return changed a register
u8 arena[arena_bytes] __attribute__((section(".arena,\"aw\",@nobits#"), aligned(arena_base)));  // behind .bss: modules come behind it

static struct Event events[events_kept] __attribute__((aligned(16)));
static u32 event_count, faults, pdpt_accessed;
static struct ImageHeader* image;
static const struct StreamRecord* next_record;
static struct StreamRecord current_record;  // a copy: the image is not mapped while a stream runs
static const struct StreamRecord* const record = &current_record;
static u32 background_hash[hashed_pages][4], page_hash[hashed_pages][4];
static u32 identity_hash[identity_pages][4], identity_hash_now[identity_pages][4];
static bool verbose;
static u32 tick_divisor;
static u64 kernel_gdt[8], kernel_idt[256];
static u8 fpu_area[512] __attribute__((aligned(16)));
static u8 misc[64] __attribute__((aligned(16)));
static bool nxe;
static bool cut_off;  // the stream changed the tables through which this kernel is mapped

extern const u8 event_entries[], tick_entry[], sysenter_entry[];
extern u8 image_end[], harness_stack[], harness_stack_top[];
void enter_stream(void);
void hash_pages(const void* from, u32 pages, u32 (*out)[4]);
void hash_blocks(const void* from, u32 blocks, u32* out);

static void put_bytes(const void* from, u32 size) { __asm__ volatile("rep outsb" : "+S"(from), "+c"(size) : "d"(0xE9) : "memory"); }
static void copy(void* to, const void* from, u32 size) {
  u32 words = size / 4;
  __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(words)::"memory");
}

static void say(const char* text) {
  for (; *text; text++) put_bytes(text, 1);
}
static void say_hex(const char* name, u32 value) {
  char digits[10];
  for (u32 i = 0; i < 8; i++) digits[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
  digits[8] = 0;
  say(name);
  say(digits);
}

static u32 read_dr(u32 number) {
  u32 value;
  if (number == 6)
    __asm__ volatile("mov %%db6, %0" : "=r"(value));
  else
    __asm__ volatile("mov %%db7, %0" : "=r"(value));
  return value;
}
static void write_dr(u32 number, u32 value) {
  if (number == 6)
    __asm__ volatile("mov %0, %%db6" ::"r"(value));
  else
    __asm__ volatile("mov %0, %%db7" ::"r"(value));
}

// Whatever a stream may have left there.
static void reset_debug_registers(void) {
  __asm__ volatile("mov %0, %%db0\nmov %0, %%db1\nmov %0, %%db2\nmov %0, %%db3" ::"r"(0));
  write_dr(7, 0x400);
  write_dr(6, 0xFFFF0FF0);
}

// --- events ---

// Called by entry.S on the kernel's own stack, DS, ES and SS flat, everything else as the stream left it. Nonzero: the stream goes on.
u32 on_event(void) {
  struct StreamState* s = &current.state;
  s->cs &= 0xFFFF;
  s->ss &= 0xFFFF;
  u32 cr2 = read_cr2();
  bool own_code = s->cs == harness_code && s->eip - 0x100000 < (u32)image_end - 0x100000 && s->eip < arena_base;
  if (own_code && current.vector < event_sysenter) current.vector |= in_harness;
  struct Event* e = &events[event_count];
  e->at = current;
  e->cr2 = current.vector == v_page || current.vector == (v_page | in_harness) ? cr2 : 0;
  if (current.vector == event_timeout) *e = (struct Event){.at = {.vector = event_timeout}};
  u32 dr6 = current.vector == v_debug ? read_dr(6) : 0;
  e->dr6 = dr6;
  event_count++;
  if (current.vector >= event_sysenter || current.vector == v_double || current.vector == vector_end) return 0;
  if (event_count >= events_kept || faults >= resume_count) return 0;
  s->eflags &= ~(u32)(f_nt | f_vm);
  switch (current.vector) {
    case v_debug:
      if (event_count > 8) s->eflags &= ~(u32)f_tf;
      write_dr(6, 0xFFFF0FF0);
      return 1;
    case v_breakpoint:
    case v_overflow: return 1;
    default: break;
  }
  if (current.vector >= 0x30) return 1;
  // A fault: on with another part of the stream, where its registers are as it found them.
  if ((s->cs & 3) != (record->state.cs & 3)) return 0;
  s->cs = record->state.cs;
  s->eip = record->resume[faults++];
  // Status flags as at the start: a CPU that has wrong ones at a fault is judged by that event, not by all that follows.
  s->eflags = (s->eflags & ~(u32)(f_tf | f_rf | f_status)) | (record->state.eflags & f_status);
  s->ss = record->state.ss;
  s->gpr[4] = record->state.gpr[4];
  s->gpr[3] = record->state.gpr[3];
  s->gpr[5] = record->state.gpr[5];
  s->gpr[6] = record->state.gpr[6];
  s->gpr[7] = record->state.gpr[7];
  return 1;
}

// --- one stream ---

static void apply_pokes(void) {
  const u32* at = (const u32*)(next_record + 1);
  for (u32 n = record->pokes; n; n--) {
    u32 offset = at[0], length = at[1];
    u8* to = arena + offset;
    const u8* from = (const u8*)(at + 2);
    copy(to, from, length);
    for (u32 i = length & ~3u; i < length; i++) to[i] = from[i];
    at += 2 + (length + 3) / 4;
  }
}

static bool equal(const u32* a, const u32* b) { return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]; }

// Nothing else than this kernel and the arena: a stream that runs away faults soon.
static void make_identity(void) {
  u8* tables = arena + page_identity * 4096;
  memset(tables, 0, identity_pages * 4096);
  for (u32 at = 0x100000; at < arena_base + hashed_pages * 4096;
       at += at + 4096 < (u32)image_end || at >= arena_base ? 4096 : arena_base - at) {
    ((u32*)tables)[at >> 12] = at | p_present | p_write | p_accessed | p_dirty;
    ((u64*)(arena + page_identity_pae * 4096))[at >> 12] = at | p_present | p_write | p_accessed | p_dirty;
  }
}

static void reset_arena(void) {
  for (u32 i = 0; i < hashed_pages; i++)
    if (!equal(page_hash[i], background_hash[i])) copy(arena + i * 4096, image->background + i * 4096, 4096);
  // A stream reaches these through its large page, which may show all of the arena.
  hash_pages(arena + page_identity * 4096, identity_pages, identity_hash_now);
  for (u32 i = 0; i < identity_pages; i++)
    if (!equal(identity_hash_now[i], identity_hash[i])) {
      make_identity();
      return;
    }
}

// The entries above the tables of make_identity, without accessed and dirty bits. After a stream that changed them, without a flush, it is
// left to the TLB whether this kernel goes on (SDM vol. 3, 4.10.4).
static u64 identity_entries(void) {
  u64 sum = 0;
  if ((record->cr4 & cr4_pae) == 0) {
    const u32* directory = (const u32*)(record->cr3 & ~0xFFFu);
    for (u32 i = 0; i < 2; i++) sum = sum * 31 + (directory[i] & ~0x60u);
    return sum;
  }
  const u64* pdpt = (const u64*)(record->cr3 & ~0x1Fu);
  const u64* directory = (const u64*)(u32)(pdpt[0] & 0xFFFFF000u);
  sum = pdpt[0] & ~0x20ull;
  for (u32 i = 0; i < 4; i++) sum = sum * 31 + (directory[i] & ~0x60ull);
  return sum;
}

static void load_own_tables(void) {
  struct TableRegister table = {sizeof(kernel_gdt) - 1, (u32)kernel_gdt};
  __asm__ volatile("lgdt %0" ::"m"(table));
  load_idt(kernel_idt, sizeof(kernel_idt) - 1);
  __asm__ volatile(
      "mov %0, %%ds\nmov %0, %%es\nmov %0, %%fs\nmov %0, %%gs\nmov %0, %%ss\nlldt %w1\n"
      "ljmp %2, $1f\n1:\n"
      "push $0\npopf" ::"r"(harness_data),
      "r"(0), "i"(harness_code)
      : "memory");
}

static void run_once(void) {
  reset_arena();
  memset(harness_stack, 0, (u32)(harness_stack_top - harness_stack));  // a stream that runs through it may change it
  apply_pokes();
  const u64 entries = identity_entries();
  event_count = faults = 0;
  ticks = visible_ticks = 0;
  current.state = record->state;
  if ((record->nxe != 0) != nxe) {
    nxe = record->nxe != 0;
    write_msr(MSR_EFER, nxe ? EFER_NXE : 0);
  }
  __asm__ volatile("fxrstor (%0)" ::"r"(image->fpu[record->fpu_image]) : "memory");
  write_cr2(0);
  write_cr4(record->cr4);
  write_cr3(record->cr3);
  write_cr0(record->cr0);
  struct TableRegister table = {(u16)record->gdt_limit, record->gdt_base};
  __asm__ volatile("lgdt %0" ::"m"(table));
  table = (struct TableRegister){(u16)record->idt_limit, record->idt_base};
  __asm__ volatile("lidt %0" ::"m"(table));
  __asm__ volatile("lldt %w0" ::"r"(record->ldt));
  enter_stream();
  u32 cr0 = read_cr0();
  *(u32*)(misc + 0) = cr0;
  *(u32*)(misc + 4) = read_cr3();
  *(u32*)(misc + 8) = read_cr4();
  __asm__ volatile("sgdt %0\nsidt %1\nsldt %w2\nstr %w3" : "=m"(misc[16]), "=m"(misc[24]), "=m"(misc[32]), "=m"(misc[34]));
  *(u32*)(misc + 36) = read_dr(7);
  *(u32*)(misc + 40) = read_dr(6);
  write_cr0((cr0 & ~(u32)(cr0_pg | cr0_ts | cr0_em | cr0_wp)) | cr0_ne);
  write_cr4(cr4_osfxsr | cr4_osxmmexcpt);
  load_own_tables();
  // Entries of the PDPT have no accessed bit (SDM vol. 3, table 4-8); QEMU sets one.
  pdpt_accessed = 0;
  for (u32 i = 0; i < 4; i++) {
    u32* entry = (u32*)(arena + pdpt_offset + i * 8);
    pdpt_accessed |= record->cr4 & cr4_pae ? (*entry & 0x20) << i : 0;
    if (record->cr4 & cr4_pae) *entry &= ~0x20u;
  }
  hash_pages(arena + page_identity * 4096, identity_pages, identity_hash_now);
  cut_off = identity_entries() != entries;
  for (u32 i = 0; i < identity_pages; i++) cut_off |= !equal(identity_hash_now[i], identity_hash[i]);
  reset_debug_registers();
  // QEMU went through v8086 mode with this one; no IRET but one back there clears these (SDM vol. 2, IRET: any at CPL 0 does).
  u32 eflags;
  __asm__ volatile("pushf\npop %0" : "=r"(eflags));
  if (eflags & (f_vif | f_vip)) outb(0xF4, 5);
}

static void show(const struct Result* result);

static u32 fold(const u32* hash) { return hash[0] ^ hash[1] ^ hash[2] ^ hash[3]; }

static void run_stream(u32 index) {
  copy(&current_record, next_record, sizeof(current_record));
  // Ticks are not part of what is compared: a stream that saw one is run again. In the variant with a fast timer they must not matter, and
  // only a stream that could see them is run again.
  u32 tries = 0;
  bool again;
  do {
    tick_limit = tick_divisor < slow_divisor ? 400 : 3;
    run_once();
    // FIP, FDP and FOP are left open (docs/isa.md); so is what FXSAVE writes behind the XMM registers.
    __asm__ volatile("fxsave (%0)" ::"r"(fpu_area) : "memory");
    *(u16*)(fpu_area + 6) = 0;
    memset(fpu_area + 8, 0, 16);
    hash_pages(arena, hashed_pages, page_hash);
    again = tick_divisor >= slow_divisor ? ticks && events[event_count - 1].at.vector != event_timeout : visible_ticks != 0;
  } while (again && ++tries < 10);

  u32 hash[4];
  struct Result result = {.index = index, .events = (u8)event_count};
  u32 last = events[event_count - 1].at.vector;
  result.last_vector = (u8)last;
  result.flags = (u8)((last == event_timeout) | (last & in_harness ? 2 : 0) | (again ? 4 : 0) | (cut_off ? 8 : 0));
  hash_blocks(events, event_count * sizeof(struct Event) / 16, hash);
  result.registers = fold(hash);
  hash_blocks(misc, sizeof(misc) / 16, hash);
  result.registers ^= fold(hash);
  result.lenient = fold(hash);
  result.registers ^= pdpt_accessed;
  hash_blocks(fpu_area, (32 + 128 + 128) / 16, hash);
  result.fpu = fold(hash);
  for (u32 i = 0; i < hashed_pages; i++) {
    // Under a fast timer the stacks that interrupts use have something else below their tops each time.
    if (tick_divisor < slow_divisor && (i == page_stack || i == page_inner_stack)) continue;
    u32* part = i < page_directory ? &result.memory : &result.tables;
    *part = (*part << 5 | *part >> 27) ^ fold(page_hash[i]);
  }
  if (last == event_timeout)
    result.events = 0, result.registers = result.fpu = result.memory = result.tables = result.lenient = 0;  // where it stood is chance
  if (verbose) {
    show(&result);
    return;
  }
  for (u32 i = 0; i < event_count; i++) {
    struct Event* e = &events[i];
    e->at.state.eflags &= ~(u32)f_rf;
    if (e->at.vector == v_page) e->at.error &= ~2u;
  }
  hash_blocks(events, event_count * sizeof(struct Event) / 16, hash);
  result.lenient ^= fold(hash);
  put_bytes(&result, sizeof(result));
}

// --- text ---

static void show(const struct Result* result) {
  say_hex("stream ", result->index);
  say_hex(" registers ", result->registers);
  say_hex(" fpu ", result->fpu);
  say_hex(" memory ", result->memory);
  say_hex(" tables ", result->tables);
  say_hex(" lenient ", result->lenient);
  say("\n");
  say_hex("code ", record->state.eip);
  say_hex(" ", record->code_start);
  say("\n");
  for (u32 i = 0; i < event_count; i++) {
    static const char* const names[] = {" eax ", " ecx ",    " edx ", " ebx ", " esp ", " ebp ", " esi ", " edi ",
                                        " eip ", " eflags ", " cs ",  " ss ",  " ds ",  " es ",  " fs ",  " gs "};
    say_hex("event vector ", events[i].at.vector);
    say_hex(" error ", events[i].at.error);
    say_hex(" cr2 ", events[i].cr2);
    say_hex(" dr6 ", events[i].dr6);
    const u32* field = (const u32*)&events[i].at.state;
    for (u32 k = 0; k < ARRAY_SIZE(names); k++) say_hex(names[k], field[k]);
    say("\n");
  }
  for (u32 i = 0; i < sizeof(misc); i += 4) say_hex(i ? " " : "misc ", *(u32*)(misc + i));
  say("\n");
  for (u32 i = 0; i < 288; i += 16) {
    say_hex("fpu ", i);
    for (u32 k = 0; k < 16; k += 4) say_hex(" ", *(u32*)(fpu_area + i + k));
    say("\n");
  }
  for (u32 i = 0; i < hashed_pages * 4096; i += 4) {
    u32 value = *(u32*)(arena + i), before = *(const u32*)(image->background + i);
    if (value == before) continue;
    say_hex("arena ", i);
    say_hex(" ", value);
    say("\n");
  }
}

// --- the whole ---

static u32 argument(const char* name, u32 otherwise) {
  const char* text = (const char*)((const u32*)multiboot_info)[4];
  for (; *text; text++) {
    const char *a = text, *b = name;
    while (*b && *a == *b) a++, b++;
    if (*b || *a != '=') continue;
    u32 value = 0;
    for (a++; *a >= '0' && *a <= '9'; a++) value = value * 10 + (u32)(*a - '0');
    return value;
  }
  return otherwise;
}

void guest_main(void) {
  const u32* modules = (const u32*)((const u32*)multiboot_info)[6];
  image = (struct ImageHeader*)modules[0];
  if ((u32)arena != arena_base || image->magic != stream_magic || (u32)image < arena_base + arena_bytes) panic("image");
  u32 first = argument("first", 0), count = argument("count", ~0u);
  const u32 *list = NULL, *list_end = NULL;
  if (((const u32*)multiboot_info)[5] > 1) {
    list = (const u32*)modules[4];
    list_end = (const u32*)modules[5];
    verbose = true;
  }
  tick_divisor = argument("tick", 0);
  if (!tick_divisor) tick_divisor = slow_divisor;

  // Segments that are not flat are interpreted, which spares lockstep the rehearsal of this kernel's loops.
  kernel_gdt[harness_code / 8] = descriptor(0, argument("interpret", 0) ? 0xFFFFE : 0xFFFFF, 0x9B, 0xC);
  kernel_gdt[harness_data / 8] = descriptor(0, 0xFFFFF, 0x93, 0xC);
  kernel_gdt[harness_tss / 8] = descriptor(arena_base + tss_offset, tss_bytes - 1, 0x89, 0);
  for (u32 i = 0; i < 64; i++) kernel_idt[i] = gate(harness_code, (u32)event_entries + i * 16, 0x8E);
  load_own_tables();
  __asm__ volatile("ltr %w0" ::"r"(harness_tss));

  write_cr0((read_cr0() | cr0_ne | cr0_mp) & ~(u32)(cr0_em | cr0_ts));
  write_cr4(cr4_osfxsr | cr4_osxmmexcpt);
  write_msr(MSR_EFER, 0);
  write_msr(msr_sysenter_cs, harness_code);
  write_msr(msr_sysenter_esp, arena_base + (page_inner_stack + 1) * 4096 - 64);
  write_msr(msr_sysenter_eip, (u32)sysenter_entry);
  make_identity();
  hash_pages(arena + page_identity * 4096, identity_pages, identity_hash);
  u64* idt = (u64*)(image->background + idt_offset);
  for (u32 i = 0; i < idt_count; i++) {
    const u8* entry = i >= vector_tick && i < vector_tick + 16 ? tick_entry : event_entries + i * 16;
    idt[i] = gate(harness_code, (u32)entry, i == vector_end ? 0xEE : 0x8E);
  }
  pic_init();
  pit_periodic(tick_divisor);
  pic_unmask(0);

  hash_pages(image->background, hashed_pages, background_hash);
  next_record = (const struct StreamRecord*)(image + 1);
  for (u32 i = 0; i < image->count && i < first; i++)
    next_record = (const struct StreamRecord*)((const u8*)next_record + next_record->bytes);
  for (u32 i = first; i < image->count && count; i++, count--) {
    if (!list || (list < list_end && *list == i)) {
      run_stream(i);
      if (list) list++;
    }
    next_record = (const struct StreamRecord*)((const u8*)next_record + next_record->bytes);
  }
}
