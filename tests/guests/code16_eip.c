// EIP above 64 KiB in a 16-bit code segment, which may have 4 GiB. It counts on in 32 bits from instruction to instruction, and over each
// border of 64 KiB; only a jump, call or return with a 16-bit operand cuts it off (SDM vol. 2, Jcc, JMP, CALL, RET: EIP AND 0000FFFFH). The
// manual says nothing of instructions that do not jump: an Intel CPU was asked (LDT segment in a user process; hostcpu asks each time).
//
// qemu: deviates in "counting on" (it goes on at 0 behind an instruction across a border)
// qemu: deviates in "jumps" (targets keep their upper half)
//
// expect:
//   counting on: ok
//   jumps: ok
// end
#include "lib/transfer.h"

enum { high = 0x14560, low = high & 0xFFFF };

static u8 area[0x30000] __attribute__((aligned(16)));
static const u8 undefined[] = {0x0F, 0x0B};

static void put(u32 offset, const u8* bytes, u32 count) {
  for (u32 i = 0; i < count; i++) area[offset + i] = bytes[i];
}

// What stands at `offset` runs in a 16-bit segment that begins at `area`, in each ring, until #UD at `end`.
static void stops_at(const char* what, u32 offset, u32 end, u32 pushed) {
  put(end, undefined, sizeof(undefined));
  for (u32 ring = 0; ring < 4; ring++) {
    gdt[other_slot / 8] = descriptor((u32)area, 0xFFFFF, (u8)(0x9B | ring << 5), 0x8);
    struct Cpu start = start_in(ring, area);
    start.cs = other_slot | ring;
    start.eip = offset;
    start.eflags |= f_zf;
    run_cpu(&start);
    check(what, trap.vector, v_opcode);
    check(what, trap.cpu.eip, end);
    check(what, trap.cpu.esp, start.esp - pushed);
  }
}

#define BYTES(...) (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__})

static void counting_on(void) {
  group("counting on");
  put(high, BYTES(0x90));
  stops_at("NOP", high, high + 1, 0);
  put(high, BYTES(0xB8, 0x00, 0x04));
  stops_at("MOV AX", high, high + 3, 0);
  put(high, BYTES(0x75, 0x10));
  stops_at("JNZ that does not jump", high, high + 2, 0);
  put(0x1FFFF, BYTES(0x90));
  stops_at("over a border", 0x1FFFF, 0x20000, 0);
  put(0x1FFFE, BYTES(0xB8, 0x00, 0x04));
  stops_at("across a border", 0x1FFFE, 0x20001, 0);
  put(high, BYTES(0x50));
  stops_at("PUSH AX", high, high + 1, 2);
}

static void jumps(void) {
  group("jumps");
  put(high, BYTES(0xEB, 0x10));
  stops_at("JMP", high, low + 0x12, 0);
  put(high, BYTES(0x66, 0xEB, 0x10));
  stops_at("JMP with a 32-bit operand", high, high + 0x13, 0);
  put(high, BYTES(0x74, 0x20));
  stops_at("JZ", high, low + 0x22, 0);
  put(high, BYTES(0xE8, 0x2D, 0x00));
  stops_at("CALL", high, low + 0x30, 2);
  check("its return address", *(u16*)trap.cpu.esp, low + 3);
  put(high, BYTES(0x66, 0xE8, 0x3A, 0x00, 0x00, 0x00));
  stops_at("CALL with a 32-bit operand", high, high + 0x40, 4);
  check("its return address", *(u32*)trap.cpu.esp, high + 6);
  put(high, BYTES(0x68, low & 0xFF, low >> 8, 0xC3));
  stops_at("RET", high, low, 0);
}

void guest_main(void) {
  transfer_init();
  for (u32 i = 0; i < sizeof(area); i++) area[i] = 0xCC;  // INT3 ends a run that goes astray
  counting_on();
  jumps();
}
