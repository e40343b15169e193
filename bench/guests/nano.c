// Nanobenchmark kernel, in the manner of Adams and Agesen (ASPLOS 2006): what one operation costs that a VMM has to do something about.
// Every row is a loop of guest code that runs until it traps with int 80h; the first row is the loop itself. A row is
// printed as "nano NAME: PICOSECONDS", the least of several batches: the machine may be busy, and the guest's clock does not stop then.
#include "guest.h"

enum { batches = 9, vector_fast = 0x81, spare = 0x40000000 };

struct Row {
  const char* name;
  const u8* code;
  bool user;
  void (*prepare)(struct Cpu* cpu);
};

// ebx counts down in every loop.
#define LOOP(name, text) SNIPPET(name, "1:\n" text "\ndec ebx\njnz 1b\n" DONE)
#define LOOP_WITH(name, text, rest) SNIPPET(name, "1:\n" text "\ndec ebx\njnz 1b\n" DONE rest)

LOOP(empty, "");
LOOP(int_80, "int 0x81");
SNIPPET(int_handler, "iretd\n");
LOOP(system_enter, "mov ecx, esp\nmov edx, offset 2f\nsysenter\n2:");
SNIPPET(sysenter_handler, "sysexit\n");
LOOP(port_read, "in al, 0x61");
LOOP(port_write, "out 0x80, al");
LOOP(cr3_alone, "mov cr3, eax");
LOOP(cr3_two, "mov cr3, esi\nmov eax, [ebp]\nmov eax, [ebp+0x1000]\nmov cr3, edi\nmov eax, [ebp]\nmov eax, [ebp+0x1000]");
LOOP_WITH(call_ret, "call 2f", "2: ret\n");
LOOP_WITH(call_one, "call edx", LABEL(one_target) "ret\n");
extern const u8 one_target[];
LOOP_WITH(call_four, "mov eax, ebx\nand eax, 3\ncall [eax*4 + 3f]", "4: ret\n5: ret\n6: ret\n7: ret\n.balign 4\n3: .long 4b, 5b, 6b, 7b\n");
LOOP(load_fault, "mov eax, [esi]");
LOOP(divide_fault, "div ecx");
LOOP(protection_fault, "cli\nnop");
// Handlers that step over the two bytes of the instruction that faulted.
SNIPPET(skip_error, "add esp, 4\nadd dword ptr [esp], 2\niretd\n");
SNIPPET(skip, "add dword ptr [esp], 2\niretd\n");
LOOP(pte_change, "xor dword ptr [edi], 0x1000\ninvlpg [esi]\nmov eax, [esi]");
LOOP(cli_sti, "cli\nsti");
LOOP(pushf_popf, "pushfd\npopfd");
LOOP(load_ds, "mov ds, ecx");
LOOP(pop_es, "push es\npop es");
LOOP(load_fs, "mov fs, ecx");
LOOP(cr0_write, "mov cr0, eax");
LOOP(cr0_read, "mov eax, cr0");
LOOP(clear_ts, "clts");
LOOP(read_an_msr, "rdmsr");
LOOP(write_an_msr, "wrmsr");
LOOP(cpu_id, "xor eax, eax\nmov esi, ebx\ncpuid\nmov ebx, esi");
LOOP(time_stamp, "rdtsc");
LOOP(load_table, "lgdt [esi]");
LOOP(load_tr, "and byte ptr [esi+5], 0xFD\nltr cx");
LOOP(inner_iret, "pushfd\npush cs\npush offset 2f\niretd\n2:");
LOOP(modify_code, "inc dword ptr [2f+1]\n2: mov eax, 1");
LOOP_WITH(data_by_code, "inc dword ptr [2f]", "2: .long 0\n");
LOOP(copy_page, "mov esi, edx\nmov edi, ebp\nmov ecx, 1024\nrep movsd");
LOOP(fill_64, "mov edi, ebp\nmov ecx, 64\nrep stosb");
LOOP(halt, "mov al, 0x30\nout 0x43, al\nmov al, 20\nout 0x40, al\nmov al, 0\nout 0x40, al\nsti\nhlt\ncli");
SNIPPET(timer_handler, "push eax\nmov al, 0x20\nout 0x20, al\npop eax\niretd\n");

static struct Space space, other;
static u64 saved[256];
static struct TableRegister gdtr;

static void handler(u32 vector, const u8* code) { idt[vector] = gate(kernel_code, (u32)code, vector >= 0x80 ? 0xEE : 0x8E); }
static void set_int(struct Cpu* cpu) { handler(vector_fast, int_handler); }
static void set_sysenter(struct Cpu* cpu) {
  write_msr(msr_sysenter_cs, kernel_code);
  write_msr(msr_sysenter_esp, (u32)(trap_stack + sizeof(trap_stack)));
  write_msr(msr_sysenter_eip, (u32)sysenter_handler);
}
static void set_cr3(struct Cpu* cpu) {
  cpu->eax = cpu->esi = space.root;
  cpu->edi = other.root;
  cpu->ebp = spare;
}
static void set_target(struct Cpu* cpu) { cpu->edx = (u32)one_target; }
static void set_page_fault(struct Cpu* cpu) {
  handler(v_page, skip_error);
  cpu->esi = spare + 0x100000;
}
static void set_divide(struct Cpu* cpu) { handler(v_divide, skip); }
static void set_protection(struct Cpu* cpu) { handler(v_protection, skip_error); }
static void prepare_pte(struct Cpu* cpu) {
  // The page table that maps `spare`, through the identity mapping.
  u32 table = (u32)get_pde(&space, spare) & ~0xFFFu;
  cpu->edi = table + (spare >> 12 & 0x3FF) * 4;
  cpu->esi = spare;
}
static void set_data(struct Cpu* cpu) { cpu->ecx = kernel_data; }
static void set_cr0(struct Cpu* cpu) { cpu->eax = read_cr0(); }
static void set_msr(struct Cpu* cpu) { cpu->ecx = msr_sysenter_cs; }
static void set_gdt(struct Cpu* cpu) {
  __asm__ volatile("sgdt %0" : "=m"(gdtr));
  cpu->esi = (u32)&gdtr;
}
static void set_tr(struct Cpu* cpu) {
  cpu->esi = (u32)&gdt[tss_selector / 8];
  cpu->ecx = tss_selector;
}
static void set_copy(struct Cpu* cpu) {
  static u32 from, to;
  if (from == 0) from = new_page(), to = new_page();
  cpu->edx = from;
  cpu->ebp = to;
}
static void set_timer(struct Cpu* cpu) {
  handler(irq_base, timer_handler);
  pic_unmask(0);
}

static const struct Row rows[] = {
    {"the loop itself", empty, false, NULL},
    {"int 80h and back", int_80, true, set_int},
    {"sysenter and sysexit", system_enter, true, set_sysenter},
    {"page fault, ring 3", load_fault, true, set_page_fault},
    {"page fault, ring 0", load_fault, false, set_page_fault},
    {"divide fault", divide_fault, true, set_divide},
    {"general protection", protection_fault, true, set_protection},
    {"iret in ring 0", inner_iret, false, NULL},
    {"mov cr3", cr3_alone, false, set_cr3},
    {"mov cr3, two spaces", cr3_two, false, set_cr3},
    {"pte change, invlpg", pte_change, false, prepare_pte},
    {"port read", port_read, false, NULL},
    {"port write", port_write, false, NULL},
    {"cli, sti", cli_sti, false, NULL},
    {"pushf, popf", pushf_popf, false, NULL},
    {"mov ds", load_ds, false, set_data},
    {"mov fs", load_fs, false, set_data},
    {"push es, pop es", pop_es, false, NULL},
    {"mov from cr0", cr0_read, false, NULL},
    {"mov to cr0", cr0_write, false, set_cr0},
    {"clts", clear_ts, false, NULL},
    {"rdmsr", read_an_msr, false, set_msr},
    {"wrmsr", write_an_msr, false, set_msr},
    {"cpuid", cpu_id, false, NULL},
    {"rdtsc", time_stamp, false, NULL},
    {"lgdt", load_table, false, set_gdt},
    {"ltr", load_tr, false, set_tr},
    {"call, ret", call_ret, false, NULL},
    {"indirect call, 1 target", call_one, false, set_target},
    {"indirect call, 4 targets", call_four, false, NULL},
    {"self-modifying code", modify_code, false, NULL},
    {"data on a code page", data_by_code, false, NULL},
    {"rep movsd, a page", copy_page, false, set_copy},
    {"rep stosb, 64 bytes", fill_64, false, set_copy},
    {"hlt until a timer, 17 us", halt, false, set_timer},
};

static u64 run_once(const struct Row* row, u32 count) {
  struct Cpu cpu = row->user ? user_cpu(row->code) : kernel_cpu(row->code);
  if (row->prepare) row->prepare(&cpu);
  cpu.ebx = count;
  u64 start = rdtsc();
  run_cpu(&cpu);
  u64 cycles = rdtsc() - start;
  memcpy(idt, saved, sizeof(saved));
  if (trap.vector != vector_done) panic("a row of the benchmark trapped");
  return cycles;
}

// Cycles of 1024 rounds, at least.
static u64 measure(const struct Row* row, u64 batch) {
  u32 count = 16;
  while (count < 1u << 24 && run_once(row, count) < batch) count *= 2;
  u64 best = ~0ull;
  for (u32 i = 0; i < batches; i++) {
    u64 cycles = run_once(row, count);
    if (cycles < best) best = cycles;
  }
  return (best << 10) / count;
}

// Cycles a microsecond, by the PIT.
static u32 clock_rate(void) {
  enum { ticks = 23864 };  // 20 ms
  u32 best = ~0u;
  for (u32 i = 0; i < 3; i++) {
    pit_oneshot(0xFFFF);
    u32 from = pit_read(), now = from;
    u64 start = rdtsc();
    while (((from - now) & 0xFFFF) < ticks) now = pit_read();
    u32 rate = (u32)((rdtsc() - start) / 20000);
    if (rate < best) best = rate;
  }
  return best;
}

void guest_main(void) {
  descriptors_init();
  pic_init();
  space = new_space(false);
  other = new_space(false);
  for (u32 i = 0; i < 4; i++) {
    map(&space, spare + i * page_bytes, new_page() | p_present | p_write | p_user);
    map(&other, spare + i * page_bytes, new_page() | p_present | p_write | p_user);
  }
  use_space(&space);
  write_cr0(read_cr0() | cr0_wp);
  memcpy(saved, idt, sizeof(saved));
  u32 rate = clock_rate();
  pit_oneshot(2);
  printf("nano clock: %u\n", rate);
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    printf("nano %s: %u\n", rows[i].name, (u32)(measure(&rows[i], (u64)rate * 2000) * 1000000 / rate >> 10));
  }
  printf("nano end\n");
}
