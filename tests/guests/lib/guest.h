// What every guest test stands on: output, checks, descriptor tables, traps, paging, interrupt controller and timer.
//
// A test checks itself and prints one line for each group of checks. `finish` leaves through isa-debug-exit at port F4h:
// value 10h (exit status 33) when everything held, 11h (35) when not.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

// --- output.c: serial port and checks ---
void print_char(char c);
void print(const char* text);
// %x (8 digits), %d, %u, %s and %c.
void printf(const char* format, ...) __attribute__((format(gnu_printf, 1, 2)));
// Opens a group; the line "name: ok" or "name: N of M checks failed" is printed by the next `group` or by `finish`.
void group(const char* name);
// One check of the open group. A failure prints `what`, the value and what was wanted.
bool check(const char* what, u32 got, u32 want);
bool check_true(const char* what, bool holds);
// False once a group has printed so many failures that more details would only be noise.
bool showing_failures(void);
_Noreturn void finish(void);
_Noreturn void panic(const char* why);
void* memset(void* to, int value, size_t size);
void* memcpy(void* to, const void* from, size_t size);
int memcmp(const void* a, const void* b, size_t size);

// --- descriptors.c ---
enum Selector {
  kernel_code = 0x08,
  kernel_data = 0x10,
  user_code = 0x1B,
  user_data = 0x23,
  tss_selector = 0x28,
  ring1_code = 0x31,
  ring1_data = 0x39,
  first_free = 0x40,   // up to the next one: for the test
  ring2_code = 0x1F2,  // the last two
  ring2_data = 0x1FA,
};
enum { gdt_entries = 64, vector_done = 0x80 };

struct Tss {
  u32 back_link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, gpr[8], segment[6], ldt;
  u16 trap, io_base;
  u8 io_map[8193];
} __attribute__((packed));
extern struct Tss tss;
extern u64 gdt[gdt_entries];
extern u64 idt[256];

struct TableRegister {
  u16 limit;
  u32 base;
} __attribute__((packed));

// `access` is byte 5 of the descriptor (P, DPL, S, type), `flags` the high nibble of byte 6 (G, D/B, L, AVL); limit in units of G.
u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);
u64 gate(u16 selector, u32 offset, u8 access);
// GDT, IDT (interrupt gates, vector 80h open to ring 3), TSS, segment registers.
void descriptors_init(void);
void load_idt(const void* base, u16 limit);
void load_gdt(u32 base, u16 limit);
void own_gdt(void);  // back to `gdt`
void load_ldt(u16 selector);
void load_task(u16 selector);

// --- traps.c ---
// Registers of code to start, or of trapped code. Field order is known to traps.S.
struct Cpu {
  u32 eax, ebx, ecx, edx, esi, edi, ebp, esp, eip, eflags;
  u32 cs, ss, ds, es, fs, gs;
};

// The trap that ended the last `run`.
struct Trap {
  u32 vector, error, cr2;
  struct Cpu cpu;
};
extern struct Trap trap;

// The stack frame that traps.S builds.
struct Frame {
  u32 gs, fs, es, ds, edi, esi, ebp, unused_esp, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss;
};

// A hook handles its vector and the interrupted code goes on (hook returns true), or the trap ends the run (false).
typedef bool (*TrapHook)(struct Frame* frame);
void set_hook(u32 vector, TrapHook hook);

// Flat state for code at `eip`: interrupts off, registers 0, its own stack of 64 KiB. Ring 3 or ring 0.
struct Cpu user_cpu(const void* eip);
struct Cpu kernel_cpu(const void* eip);
// The same for any ring, 0 to 3.
struct Cpu ring_cpu(u32 ring, const void* eip);
extern u8 user_stack[65536];
extern u8 trap_stack[65536];

// Runs until a trap that no hook handles; that trap is then in `trap`.
void run_cpu(const struct Cpu* cpu);

// Checks vector, error code and EIP of the last trap.
bool check_trap(const char* what, u32 vector, u32 error, const void* eip);
bool check_page_fault(const char* what, u32 error, u32 address, const void* eip);
// The last run came to its closing `int 0x80`.
bool check_done(const char* what);
// The last run ended with the general and segment registers and the flags (RF apart) that it started with.
bool check_unchanged(const char* what, const struct Cpu* start);

enum Vector {
  v_divide = 0,
  v_debug = 1,
  v_breakpoint = 3,
  v_overflow = 4,
  v_bound = 5,
  v_opcode = 6,
  v_no_fpu = 7,
  v_double = 8,
  v_tss = 10,
  v_not_present = 11,
  v_stack = 12,
  v_protection = 13,
  v_page = 14,
  v_x87 = 16,
  v_simd = 19,
};

enum Flag {
  f_cf = 1,
  f_fixed = 2,
  f_pf = 4,
  f_af = 0x10,
  f_zf = 0x40,
  f_sf = 0x80,
  f_tf = 0x100,
  f_if = 0x200,
  f_df = 0x400,
  f_of = 0x800,
  f_iopl = 0x3000,
  f_nt = 0x4000,
  f_rf = 0x10000,
  f_ac = 0x40000,
  f_id = 0x200000,
  f_status = 0x8D5,
};

// Assembly (Intel syntax) between labels NAME and NAME_end; `DONE` ends a run.
#define SNIPPET(name, text)                                                                                                       \
  __asm__(".pushsection .text\n.intel_syntax noprefix\n.globl " #name ", " #name "_end\n.balign 16\n" #name ":\n" text "\n" #name \
          "_end:\n.att_syntax prefix\n.popsection\n");                                                                            \
  extern const u8 name[], name##_end[]
#define DONE "int 0x80\n"
// A label inside a snippet that C can see.
#define LABEL(name) ".globl " #name "\n" #name ":\n"

// --- paging.c ---
enum PageFlag {
  p_present = 1,
  p_write = 2,
  p_user = 4,
  p_accessed = 0x20,
  p_dirty = 0x40,
  p_large = 0x80,
  p_global = 0x100,
};
#define P_NX (1ull << 63)

// One address space in either format. Everything below `identity_end` is mapped to itself, open to ring 3.
struct Space {
  bool pae;
  u32 root;
};
enum { identity_end = 32 << 20, page_bytes = 4096 };

// Physical pages for tests and page tables, zeroed; from 8 MiB upward, below identity_end.
u32 new_page(void);
u32 new_pages(u32 count);
u32 new_aligned(u32 bytes, u32 alignment);
struct Space new_space(bool pae);
void map(const struct Space* space, u32 linear, u64 entry);        // entry: physical address and flags
void map_large(const struct Space* space, u32 linear, u64 entry);  // 4 MiB, or 2 MiB under PAE
u32 large_bytes(const struct Space* space);
u64 get_pte(const struct Space* space, u32 linear);
void set_pte(const struct Space* space, u32 linear, u64 entry);
u64 get_pde(const struct Space* space, u32 linear);
void set_pde(const struct Space* space, u32 linear, u64 entry);
// Turns paging on in this format, or changes to this space; always flushes.
void use_space(const struct Space* space);
void paging_off(void);

// --- probe.c: single accesses whose fault is looked at ---
enum Probe { probe_read, probe_write, probe_modify, probe_fetch, probe_count };
enum PageError { e_present = 1, e_write = 2, e_user = 4, e_reserved = 8, e_fetch = 16 };
enum { probe_word = 0x000080CD };  // `int 0x80`: what a page must hold that is fetched from; writes write it
// Four bytes at `linear` from this ring; their page faults and `int 0x80` are then in `trap`.
void probe(enum Probe kind, u32 ring, u32 linear);
// What the last probe did: `error` is the page fault's error code at `linear`, or -1 for no fault.
bool check_probe(const char* what, enum Probe kind, u32 linear, i32 error);
static inline bool probe_writes(enum Probe kind) { return kind == probe_write || kind == probe_modify; }

// --- irq.c ---
enum { irq_base = 0x20, pit_hz = 1193182 };
void pic_init(void);  // both 8259s: vectors 20h-2Fh, all masked
void pic_unmask(u32 irq);
void pic_mask(u32 irq);
void pic_eoi(u32 irq);
u8 pic_read_irr(void);  // of the first 8259
u8 pic_read_isr(void);
void pit_periodic(u32 divisor);  // channel 0, mode 2
void pit_oneshot(u32 count);     // channel 0, mode 0
void pit_quiet(void);            // stops channel 0 and takes a request that is still latched: its hook must be set
u32 pit_read(void);              // channel 0's counter
// A hook for IRQ 0 that counts and acknowledges.
extern volatile u32 timer_ticks;
bool count_tick(struct Frame* frame);
void wait_irr(u8 mask);  // until a request is latched, interrupts off

// --- instructions ---
static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) {
  u8 value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
#define CONTROL_REGISTER(name)                                       \
  static inline u32 read_##name(void) {                              \
    u32 value;                                                       \
    __asm__ volatile("mov %%" #name ", %0" : "=r"(value)::"memory"); \
    return value;                                                    \
  }                                                                  \
  static inline void write_##name(u32 value) { __asm__ volatile("mov %0, %%" #name ::"r"(value) : "memory"); }
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr2)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
static inline void invlpg(u32 linear) { __asm__ volatile("invlpg (%0)" ::"r"(linear) : "memory"); }
static inline void write_msr(u32 index, u64 value) { __asm__ volatile("wrmsr" ::"c"(index), "A"(value)); }
static inline u64 read_msr(u32 index) {
  u64 value;
  __asm__ volatile("rdmsr" : "=A"(value) : "c"(index));
  return value;
}
static inline u64 rdtsc(void) {
  u64 value;
  __asm__ volatile("rdtsc" : "=A"(value));
  return value;
}
struct Cpuid {
  u32 eax, ebx, ecx, edx;
};
static inline struct Cpuid cpuid(u32 leaf) {
  struct Cpuid r;
  __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
  return r;
}
static inline u32 read_flags(void) {
  u32 value;
  __asm__ volatile("pushf; pop %0" : "=r"(value)::"memory");
  return value;
}
static inline u32 read32(u32 address) { return *(volatile u32*)address; }
static inline void write32(u32 address, u32 value) { *(volatile u32*)address = value; }
static inline void sti(void) { __asm__ volatile("sti" ::: "memory"); }
static inline void cli(void) { __asm__ volatile("cli" ::: "memory"); }

enum Cr0 { cr0_pe = 1, cr0_mp = 2, cr0_em = 4, cr0_ts = 8, cr0_ne = 0x20, cr0_wp = 0x10000, cr0_pg = (int)0x80000000 };
enum Cr4 { cr4_tsd = 4, cr4_pse = 0x10, cr4_pae = 0x20, cr4_pge = 0x80, cr4_osfxsr = 0x200, cr4_osxmmexcpt = 0x400 };
enum Msr { msr_sysenter_cs = 0x174, msr_sysenter_esp = 0x175, msr_sysenter_eip = 0x176 };
#define MSR_EFER 0xC0000080u
#define EFER_NXE 0x800u

// A repeatable random sequence (xorshift32); the state must not be 0.
static inline u32 next_random(u32* state) {
  u32 x = *state;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return *state = x;
}

extern u32 multiboot_magic, multiboot_info;
// The test.
void guest_main(void);
