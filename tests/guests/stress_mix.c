// Random ring-3 code (integer, memory, stack, strings, branches, calls, x87, SSE) is run twice from the same state: with interrupts off,
// and preempted by the timer at a high rate. Registers, flags, memory and FPU state must be the same. Each program is new code, so the
// translator meets fresh blocks under interrupts too.
//
// timeout: 270
// expect:
//   programs without interrupts repeat themselves: ok
//   programs under interrupts: ok
//   programs with page faults on the way: ok
// end
#include "lib/guest.h"

enum { programs = 60, instructions = 120, turns = 300, data_bytes = 8192 };

static u8 code[16384] __attribute__((aligned(4096)));
static u8 data[data_bytes] __attribute__((aligned(4096)));
static u8 data_model[data_bytes];
static u8 fpu_before[512] __attribute__((aligned(64))), fpu_after[512] __attribute__((aligned(64))),
    fpu_now[512] __attribute__((aligned(64)));
static u32 seed = 0x2545F491;
static u32 at;

static u32 rnd(u32 below) { return next_random(&seed) % below; }
static void emit8(u32 value) { code[at++] = (u8)value; }
static void emit32(u32 value) {
  memcpy(code + at, &value, 4);
  at += 4;
}

// Registers for the program: not ESP, and EBP always points to the middle of the data.
static u32 any_register(void) {
  static const u8 registers[] = {0, 1, 2, 3, 6, 7};
  return registers[rnd(6)];
}
static u32 byte_register(void) { return rnd(8); }  // AL CL DL BL AH CH DH BH

// ModRM for [ebp + disp32] inside the data, any alignment, 16 bytes of room.
static void memory_operand(u32 reg) {
  emit8(0x85 | reg << 3);
  emit32(rnd(data_bytes - 64) - data_bytes / 2);
}
static void register_operand(u32 reg, u32 rm) { emit8(0xC0 | reg << 3 | rm); }
static void any_operand(u32 reg) {
  if (rnd(2))
    memory_operand(reg);
  else
    register_operand(reg, any_register());
}
// After an instruction that leaves flags undefined: all of them become defined again.
static void define_flags(void) {
  emit8(0x83);
  register_operand(0, any_register());  // add r32, imm8
  emit8(rnd(256));
}

static void emit_one(u32 depth);

static void emit_branch(u32 depth) {
  u32 start;
  switch (rnd(4)) {
    case 0:  // jcc over a few
    case 1:
      emit8(0x70 | rnd(16));
      emit8(0);
      start = at;
      for (u32 n = rnd(3) + 1; n; n--) emit_one(depth + 1);
      code[start - 1] = (u8)(at - start);
      break;
    case 2:  // call over the body; ret
      emit8(0xE8);
      emit32(2);
      emit8(0xEB);  // jmp over the function
      emit8(0);
      start = at;
      for (u32 n = rnd(3) + 1; n; n--) emit_one(depth + 1);
      emit8(0xC3);
      code[start - 1] = (u8)(at - start);
      break;
    default:  // push address; indirect jump through the stack; lea esp back
      emit8(0x68);
      emit32((u32)code + at + 4 + 3);
      emit8(0xFF);
      emit8(0x24);
      emit8(0x24);  // jmp [esp]
      emit8(0x8D);
      emit8(0x64);
      emit8(0x24);
      emit8(0x04);  // lea esp, [esp + 4]
  }
}

static void emit_string(void) {
  static const u8 opcodes[] = {0xA4, 0xA5, 0xAA, 0xAB};
  emit8(0x8D);  // lea esi, [ebp + disp]; lea edi, [ebp + disp]; mov ecx, count; (rep) op
  emit8(0xB5);
  emit32(rnd(data_bytes / 2) - data_bytes / 2);
  emit8(0x8D);
  emit8(0xBD);
  emit32(rnd(data_bytes / 2 - 512));
  emit8(0xB9);
  emit32(rnd(100));
  emit8(0xF3);
  emit8(opcodes[rnd(4)]);
}

static void emit_fpu(void) {
  switch (rnd(8)) {
    case 0:  // fild; fiadd; fistp of small integers
      emit8(0xDB);
      memory_operand(0);
      emit8(0xDB);
      memory_operand(3);
      break;
    case 1:
      emit8(0xD9), emit8(0xE8);           // fld1
      emit8(0xDC), emit8(0xC1 + rnd(2));  // fadd st(1..2), st
      emit8(0xDD), emit8(0xD8);           // fstp st(0)
      break;
    case 2: emit8(0xD9), emit8(0xC9 + rnd(3)); break;         // fxch
    case 3: emit8(0xD9), emit8(rnd(2) ? 0xE0 : 0xE1); break;  // fchs, fabs
    case 4:
      emit8(0x66), emit8(0x0F), emit8(0xFE);  // paddd xmm, xmm
      register_operand(rnd(8), rnd(8));
      break;
    case 5:
      emit8(0x0F), emit8(0x10);  // movups xmm, [m]
      memory_operand(rnd(8));
      break;
    case 6:
      emit8(0xF3), emit8(0x0F), emit8(0x7F);  // movdqu [m], xmm
      memory_operand(rnd(8));
      break;
    default:
      emit8(0x66), emit8(0x0F), emit8(0xEF);  // pxor
      register_operand(rnd(8), rnd(8));
  }
}

static void emit_one(u32 depth) {
  u32 r;
  switch (rnd(depth > 2 ? 16 : 18)) {
    case 0:
    case 1:  // op r, r/m (add or adc sbb and sub xor cmp)
      emit8(0x03 | rnd(8) << 3);
      any_operand(any_register());
      break;
    case 2:  // op r/m, r
      emit8(0x01 | rnd(8) << 3);
      any_operand(any_register());
      break;
    case 3:  // 8-bit
      emit8((rnd(2) ? 0x02 : 0x00) | rnd(8) << 3);
      if (rnd(2))
        memory_operand(byte_register());
      else
        register_operand(byte_register(), byte_register());
      break;
    case 4:  // 16-bit
      emit8(0x66);
      emit8(0x03 | rnd(8) << 3);
      any_operand(any_register());
      break;
    case 5:  // immediate
      emit8(0x81);
      any_operand(rnd(8));
      emit32(next_random(&seed));
      break;
    case 6:  // mov both ways
      emit8(rnd(2) ? 0x8B : 0x89);
      any_operand(any_register());
      break;
    case 7:  // shifts by 1 and by immediates other than 0
      emit8(0xC1);
      r = rnd(7);
      register_operand(r == 6 ? 7 : r, any_register());
      emit8(rnd(31) + 1);
      define_flags();
      break;
    case 8:  // inc, dec, not, neg
      emit8(0xFF);
      any_operand(rnd(2));
      emit8(0xF7);
      any_operand(2 + rnd(2));
      break;
    case 9:  // imul r, r/m; mul
      if (rnd(2)) {
        emit8(0x0F), emit8(0xAF);
        any_operand(any_register());
      } else {
        emit8(0xF7);
        any_operand(4 + rnd(2));
      }
      define_flags();
      break;
    case 10:  // push, pop
      r = any_register();
      emit8(0x50 | r);
      emit_one(depth + 3);
      emit8(0x58 | any_register());
      break;
    case 11:  // setcc, cmovcc
      emit8(0x0F);
      if (rnd(2)) {
        emit8(0x90 | rnd(16));
        register_operand(0, byte_register());
      } else {
        emit8(0x40 | rnd(16));
        any_operand(any_register());
      }
      break;
    case 12:  // lea, movzx, movsx, bswap, xchg
      switch (rnd(4)) {
        case 0:
          emit8(0x8D);
          memory_operand(any_register());
          break;
        case 1:
          emit8(0x0F), emit8(0xB6 + rnd(2) + 8 * rnd(2));
          any_operand(any_register());
          break;
        case 2: emit8(0x0F), emit8(0xC8 | any_register()); break;
        default: emit8(0x87); any_operand(any_register());
      }
      break;
    case 13:  // lock xadd, lock add, bts in memory
      if (rnd(2)) {
        emit8(0xF0), emit8(0x0F), emit8(0xC1);
        memory_operand(any_register());
      } else {
        emit8(0x0F), emit8(0xBA);
        memory_operand(4 + rnd(4));
        emit8(rnd(32));
        define_flags();
      }
      break;
    case 14: emit_string(); break;
    case 15: emit_fpu(); break;
    default: emit_branch(depth);
  }
}

static u32 body_at;

static void make_program(void) {
  at = 0;
  // The loop counter lies right before the code's end, outside of the data.
  u32 counter = (u32)code + sizeof(code) - 8;
  write32(counter, 0);
  body_at = at;
  for (u32 i = 0; i < instructions; i++) emit_one(0);
  emit8(0xFF), emit8(0x0D);  // dec dword ptr [counter]: its page is a code page too
  emit32(counter);
  emit8(0x0F), emit8(0x85);  // jnz start
  emit32((u32) - (i32)(at + 4 - body_at));
  emit8(0xCD), emit8(0x80);
  if (at > sizeof(code) - 64) panic("program too long");
}

static struct Cpu result;

static void run_program(u32 flags) {
  struct Cpu cpu = user_cpu(code);
  write32((u32)code + sizeof(code) - 8, turns);
  cpu.eax = 0x01234567;
  cpu.ebx = 0x89ABCDEF;
  cpu.ecx = 0x31415926;
  cpu.edx = 0x27182818;
  cpu.esi = (u32)data;
  cpu.edi = (u32)data + 100;
  cpu.ebp = (u32)data + data_bytes / 2;
  cpu.eflags |= flags;
  u32 random = 0x1234567;
  for (u32 i = 0; i < data_bytes; i += 4) write32((u32)data + i, next_random(&random));
  __asm__ volatile("fxrstor (%0)" ::"r"(fpu_before) : "memory");
  run_cpu(&cpu);
  __asm__ volatile("fxsave (%0)" ::"r"(fpu_now) : "memory");
  result = trap.cpu;
}

static void compare(const char* what, const struct Cpu* want, u32 number) {
  bool good = check_done(what);
  good &= check("eax", result.eax, want->eax);
  good &= check("ebx", result.ebx, want->ebx);
  good &= check("ecx", result.ecx, want->ecx);
  good &= check("edx", result.edx, want->edx);
  good &= check("esi", result.esi, want->esi);
  good &= check("edi", result.edi, want->edi);
  good &= check("esp", result.esp, want->esp);
  good &= check("flags", result.eflags & f_status, want->eflags & f_status);
  good &= check("memory", (u32)memcmp(data, data_model, data_bytes), 0);
  good &= check("x87 registers", (u32)memcmp(fpu_now + 32, fpu_after + 32, 128), 0);
  good &= check("SSE registers", (u32)memcmp(fpu_now + 160, fpu_after + 160, 128), 0);
  good &= check("x87 status and tags", *(u32*)fpu_now, *(u32*)fpu_after);
  if (!good && showing_failures()) printf("       program %u\n", number);
}

static struct Space space;
static u32 faults;
static bool on_page_fault(struct Frame* frame) {
  (void)frame;
  u32 address = read_cr2();
  if (address < (u32)data || address >= (u32)data + data_bytes) return false;
  faults++;
  set_pte(&space, address, get_pte(&space, address) | p_present);
  return true;
}

// Each tick takes a page of the data away; the next access brings it back.
static bool on_timer_unmap(struct Frame* frame) {
  u32 victim = (u32)data + (timer_ticks & 1) * page_bytes;
  count_tick(frame);
  set_pte(&space, victim, get_pte(&space, victim) & ~1ull);
  invlpg(victim);
  return true;
}

void guest_main(void) {
  descriptors_init();
  write_cr0((read_cr0() | cr0_ne) & ~(u32)(cr0_em | cr0_ts));
  write_cr4(read_cr4() | cr4_osfxsr);
  // Three values on the x87 stack, so that exchanges and sums have something to work on.
  __asm__ volatile("fninit; fldpi; fld1; fldl2t; fxsave (%0)" ::"r"(fpu_before) : "memory");
  pic_init();
  space = new_space(false);
  set_hook(v_page, on_page_fault);
  for (u32 phase = 0; phase < 3; phase++) {
    static const char* const names[] = {"programs without interrupts repeat themselves", "programs under interrupts",
                                        "programs with page faults on the way"};
    group(names[phase]);
    set_hook(irq_base, phase == 2 ? on_timer_unmap : count_tick);
    if (phase == 2) use_space(&space);
    u32 before = timer_ticks;
    for (u32 number = 0; number < programs || (phase && timer_ticks - before < 100 && number < 100000); number++) {
      make_program();
      pic_mask(0);
      run_program(0);
      check_done("alone");
      struct Cpu alone = result;
      memcpy(data_model, data, data_bytes);
      memcpy(fpu_after, fpu_now, 512);
      if (phase) pic_unmask(0);
      pit_periodic(phase == 0 ? 0 : 150 + rnd(200));
      run_program(phase ? f_if : 0);
      compare(names[phase], &alone, number);
    }
    pic_mask(0);
    if (phase) check_true("there were interrupts", timer_ticks - before >= 100);
  }
  check_true("there were page faults", faults > 10);
}
