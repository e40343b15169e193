// 16-bit operand and address sizes in 32-bit code (SDM vol. 1, 3.6; vol. 2, the operation of each instruction): addresses wrap at
// 64 KiB, upper halves stay, branches truncate EIP, stack operations move 2 bytes.
//
// expect:
//   addressing: ok
//   arithmetic: ok
//   stack: ok
//   loops: ok
//   strings: ok
//   branches: ok
//   far and interrupt returns: ok
// end
#include "lib/guest.h"

// Low memory at 0x8000..0x9FFF is RAM that nobody uses.
enum { low = 0x8000 };

static void run(const u8* code, struct Cpu cpu) {
  cpu.eip = (u32)code;
  run_cpu(&cpu);
}

SNIPPET(addresses,
        ".byte 0x67, 0x8B, 0x07\n"              // mov eax, [bx]
        ".byte 0x67, 0x8B, 0x48, 0x10\n"        // mov ecx, [bx + si + 10h]
        ".byte 0x67, 0x8B, 0x16, 0x20, 0x80\n"  // mov edx, [8020h]
        ".byte 0x67, 0x8D, 0xBF, 0xFF, 0xFF\n"  // lea edi, [bx - 1]
        DONE);
SNIPPET(wrap_address, ".byte 0x67, 0x8B, 0x81, 0x00, 0xF0\n" DONE);                  // mov eax, [bx + di - 1000h]
SNIPPET(bp_address, ".byte 0x67, 0x8B, 0x46, 0x04\n.byte 0x67, 0x8B, 0x0B\n" DONE);  // mov eax, [bp + 4]; mov ecx, [bp + di]
SNIPPET(lea_16,
        ".byte 0x66, 0x67, 0x8D, 0x40, 0x05\n.byte 0x66, 0x8D, 0x4C, 0x33, 0x05\n" DONE);  // lea ax, [bx + si + 5]; lea cx, [ebx + esi + 5]
SNIPPET(moffs_16, ".byte 0x67, 0xA1, 0x20, 0x80\n.byte 0x67, 0xA2, 0x40, 0x80\n" DONE);
SNIPPET(xlat_16, ".byte 0x67, 0xD7\n" DONE);

static void addressing(void) {
  for (u32 i = 0; i < 256; i++) write32(low + 4 * i, 0xA5000000 + i);
  struct Cpu cpu = user_cpu(NULL);
  cpu.ebx = 0xFFFF8000;
  cpu.esi = 0xABCD0008;
  run(addresses, cpu);
  check_done("forms");
  check("[bx]", trap.cpu.eax, 0xA5000000);
  check("[bx + si + disp8]", trap.cpu.ecx, 0xA5000006);
  check("[disp16]", trap.cpu.edx, 0xA5000008);
  check("lea", trap.cpu.edi, 0x7FFF);
  cpu = user_cpu(NULL);
  cpu.ebx = 0x1234C004;
  cpu.edi = 0x5678D000;
  run(wrap_address, cpu);  // C004h + D000h - 1000h = 1_8004h
  check("wraps at 64 KiB", trap.cpu.eax, 0xA5000001);
  cpu = user_cpu(NULL);
  cpu.ebp = 0xFFFF8000;
  cpu.edi = 0x11110010;
  run(bp_address, cpu);
  check("[bp + disp8]", trap.cpu.eax, 0xA5000001);
  check("[bp + di]", trap.cpu.ecx, 0xA5000004);
  cpu = user_cpu(NULL);
  cpu.eax = cpu.ecx = 0x99990000;
  cpu.ebx = 0x11118000;
  cpu.esi = 0x22228001;
  run(lea_16, cpu);
  check("16-bit lea of a 16-bit sum", trap.cpu.eax, 0x99990006);
  check("16-bit lea of a 32-bit sum", trap.cpu.ecx, 0x99990006);
  run(moffs_16, user_cpu(NULL));
  check("mov eax, [moffs16]", trap.cpu.eax, 0xA5000008);
  check("mov [moffs16], al", read32(low + 0x40), 0xA5000008);
  cpu = user_cpu(NULL);
  cpu.ebx = 0xEEEE8000;
  cpu.eax = 0x77777704;
  run(xlat_16, cpu);
  check("xlat [bx + al]", trap.cpu.eax, 0x77777701);
}

SNIPPET(alu_16, "add ax, bx\nadc cx, dx\nxor si, di\n" DONE);
SNIPPET(muls_16, "mov ax, 0x1234\nmul bx\nmov esi, edx\nmov ax, 0xFFFE\nimul bx\nmov edi, edx\n" DONE);
SNIPPET(extends_16,
        "mov ax, 0x8001\ncwd\nmov ecx, edx\nmov al, 0x85\ncbw\nmovsx ebx, ax\nmovzx esi, ax\n.byte 0x66, 0x0F, 0xBE, 0xF8\n" DONE);
SNIPPET(shifts_16, "shl ax, 4\nshld bx, cx, 4\nror dx, 1\nrcl si, 3\nsar di, 15\n" DONE);
SNIPPET(memory_16, "add word ptr [esi], 0x1111\nmov word ptr [esi + 2], 0x2222\ninc word ptr [esi + 4]\nbts word ptr [esi + 6], 17\n" DONE);

static void arithmetic(void) {
  struct Cpu cpu = user_cpu(NULL);
  cpu.eax = 0x1111FFFF;
  cpu.ebx = 0x22220001;
  cpu.ecx = 0x3333FFFF;
  cpu.edx = 0x44440000;
  cpu.esi = 0x5555F0F0;
  cpu.edi = 0x6666FF00;
  run(alu_16, cpu);
  check("add", trap.cpu.eax, 0x11110000);
  check("adc", trap.cpu.ecx, 0x33330000);
  check("xor", trap.cpu.esi, 0x55550FF0);
  check("flags of the last", trap.cpu.eflags & (f_cf | f_of | f_sf | f_zf | f_pf), f_pf);
  cpu = user_cpu(NULL);
  cpu.ebx = 0xAAAA0100;
  cpu.edx = 0x77770000;
  run(muls_16, cpu);
  check("mul: dx", trap.cpu.esi, 0x77770012);
  check("imul: dx", trap.cpu.edi, 0x7777FFFF);
  check("imul: ax", trap.cpu.eax & 0xFFFF, 0xFE00);
  cpu = user_cpu(NULL);
  cpu.edx = 0x12340000;
  cpu.edi = 0x98760000;
  run(extends_16, cpu);
  check("cwd", trap.cpu.ecx, 0x1234FFFF);
  check("cbw, movsx", trap.cpu.ebx, 0xFFFFFF85);
  check("movzx", trap.cpu.esi, 0xFF85);
  check("movsx di, al", trap.cpu.edi, 0x9876FF85);
  cpu = user_cpu(NULL);
  cpu.eax = 0x11118765;
  cpu.ebx = 0x22221234;
  cpu.ecx = 0x3333FEDC;
  cpu.edx = 0x44440001;
  cpu.esi = 0x55558001;
  cpu.edi = 0x66668000;
  run(shifts_16, cpu);
  check("shl", trap.cpu.eax, 0x11117650);
  check("shld", trap.cpu.ebx, 0x2222234F);
  check("ror", trap.cpu.edx, 0x44448000);
  check("sar", trap.cpu.edi, 0x6666FFFF);
  // rcl si, 3 with CF = 1 from ror: C=1, 8001h -> 1:0003h, 0:0007h, 0:000Eh
  check("rcl", trap.cpu.esi, 0x5555000E);
  static u16 words[6];
  words[0] = 0xF000;
  words[1] = 0;
  words[2] = 0xFFFF;
  words[3] = 0;
  words[4] = 0;
  cpu = user_cpu(NULL);
  cpu.esi = (u32)words;
  run(memory_16, cpu);
  check("add", words[0], 0x0111);
  check("mov", words[1], 0x2222);
  check("inc", words[2], 0);
  check("bts takes the bit modulo 16", words[3], 2);
  check("neighbour", words[4], 0);
}

SNIPPET(stack_words, "push ax\npushw 0x1234\n.byte 0x66, 0x6A, 0xFE\nmov esi, esp\npop bx\npop cx\npop dx\nmov edi, esp\n" DONE);
SNIPPET(stack_all,
        "pushaw\npush dword ptr [esp + 4]\npop dword ptr [esp - 32]\nxor eax, eax\nxor ebx, ebx\npopaw\nmov edi, esp\nmov ecx, [esp - "
        "48]\n" DONE);
SNIPPET(stack_flags, "stc\npushfw\nmov esi, esp\npopw ax\npushw 0\npopfw\nmov edi, esp\npushfd\npop ebx\n" DONE);
SNIPPET(stack_enter, ".byte 0x66\nenter 8, 0\nmov esi, esp\nmov ecx, ebp\n.byte 0x66\nleave\nmov edi, esp\n" DONE);
SNIPPET(stack_memory, "pushw [eax]\nmov esi, esp\npopw [eax + 2]\nmov edi, esp\n" DONE);

static void stack(void) {
  struct Cpu cpu = user_cpu(NULL);
  cpu.eax = 0x1111AAAA;
  cpu.ebx = cpu.ecx = cpu.edx = 0x99999999;
  run(stack_words, cpu);
  check("6 bytes", trap.cpu.esi, cpu.esp - 6);
  check("sign-extended imm8", trap.cpu.ebx, 0x9999FFFE);
  check("imm16", trap.cpu.ecx, 0x99991234);
  check("ax", trap.cpu.edx, 0x9999AAAA);
  check("back", trap.cpu.edi, cpu.esp);
  cpu.ebp = 0x12345678;
  run(stack_all, cpu);
  check("sp before, and bp", trap.cpu.ecx, cpu.esp << 16 | 0x5678);
  check("ax", trap.cpu.eax, 0x0000AAAA);
  check("bp; the upper half stays", trap.cpu.ebp, 0x12345678);
  check("popaw skips sp", trap.cpu.edi, cpu.esp);
  run(stack_flags, user_cpu(NULL));
  check("2 bytes", trap.cpu.esi, cpu.esp - 2);
  check("image", trap.cpu.eax & 0xFFFF, f_fixed | f_cf);
  check("back", trap.cpu.edi, cpu.esp);
  check("loaded", trap.cpu.ebx & f_status, 0);
  cpu.ebp = 0xABCD1234;
  run(stack_enter, cpu);
  check("enter: 2 + 8 bytes", trap.cpu.esi, cpu.esp - 10);
  check("bp gets sp, upper half stays", trap.cpu.ecx, 0xABCD0000 | ((cpu.esp - 2) & 0xFFFF));
  static u16 words[2] = {0xBEEF, 0};
  cpu.eax = (u32)words;
  run(stack_memory, cpu);
  check("pushw mem", trap.cpu.esi, cpu.esp - 2);
  check("popw mem", words[1], 0xBEEF);
  check("back", trap.cpu.edi, cpu.esp);
}

SNIPPET(loop_16, "1: inc eax\n.byte 0x67\nloop 1b\n" DONE);
SNIPPET(jcxz_16, ".byte 0x67\njecxz 1f\nmov eax, 1\n1:\n" DONE);
SNIPPET(loopne_16, "1: inc eax\ncmp eax, 5\n.byte 0x67\nloopne 1b\n" DONE);

static void loops(void) {
  struct Cpu cpu = user_cpu(NULL);
  cpu.ecx = 0x12340003;
  run(loop_16, cpu);
  check("loop counts cx", trap.cpu.eax, 3);
  check("upper half stays", trap.cpu.ecx, 0x12340000);
  cpu.ecx = 0x12340000;
  run(loop_16, cpu);
  check("cx = 0 means 65536 turns", trap.cpu.eax, 65536);
  check("upper half stays", trap.cpu.ecx, 0x12340000);
  run(jcxz_16, cpu);
  check("jcxz looks at cx", trap.cpu.eax, 0);
  cpu.ecx = 0x00010009;
  run(loopne_16, cpu);
  check("loopne", trap.cpu.ecx, 0x00010004);
}

SNIPPET(movs_16, ".byte 0x67\nrep movsb\n" DONE);
SNIPPET(stos_16, ".byte 0x67\nrep stosd\n" DONE);
SNIPPET(lods_16, ".byte 0x67\nlodsw\n" DONE);
SNIPPET(scas_16, ".byte 0x67\nrepne scasb\n" DONE);

static void strings(void) {
  for (u32 i = 0; i < 64; i++) ((u8*)low)[i] = (u8)(i + 1);
  struct Cpu cpu = user_cpu(NULL);
  cpu.esi = 0xAAAA8000;
  cpu.edi = 0xBBBB9000;
  cpu.ecx = 0xCCCC0010;
  run(movs_16, cpu);
  check_done("movs");
  check("si", trap.cpu.esi, 0xAAAA8010);
  check("di", trap.cpu.edi, 0xBBBB9010);
  check("cx", trap.cpu.ecx, 0xCCCC0000);
  check("moved", read32(0x900C), 0x100F0E0D);
  cpu.edi = 0xBBBB9000;
  cpu.ecx = 0xFFFF0002;
  cpu.eax = 0x01020304;
  run(stos_16, cpu);
  check("stos", read32(0x9004), 0x01020304);
  check("di", trap.cpu.edi, 0xBBBB9008);
  cpu.esi = 0xAAAA8004;
  run(lods_16, cpu);
  check("lodsw", trap.cpu.eax, 0x01020605);
  check("si", trap.cpu.esi, 0xAAAA8006);
  cpu.edi = 0x8000;
  cpu.ecx = 0x00050040;
  cpu.eax = 9;
  run(scas_16, cpu);
  check("scas", trap.cpu.edi, 0x8009);
  check("cx", trap.cpu.ecx, 0x00050037);
  // SI and DI wrap at 64 KiB: FFFEh, FFFFh, 0, 1 (the first bytes of memory are the real-mode vectors, unused here).
  static u8 saved[4];
  for (u32 i = 0; i < 4; i++) saved[i] = *(volatile u8*)i;
  cpu = user_cpu(NULL);
  cpu.esi = 0x8000;
  cpu.edi = 0x1234FFFE;
  cpu.ecx = 4;
  *(volatile u8*)0x0 = 0;
  u8 top0 = *(volatile u8*)0xFFFE, top1 = *(volatile u8*)0xFFFF;
  run(movs_16, cpu);
  check("di wraps", trap.cpu.edi, 0x12340002);
  check("byte at FFFFh", *(volatile u8*)0xFFFF, 2);
  check("byte at 0", *(volatile u8*)0x0, 3);
  check("byte at 1", *(volatile u8*)0x1, 4);
  *(volatile u8*)0xFFFE = top0;
  *(volatile u8*)0xFFFF = top1;
  for (u32 i = 0; i < 4; i++) *(volatile u8*)i = saved[i];
}

// The instruction pointer is cut to 16 bits: a target in low memory.
SNIPPET(jump_16, ".byte 0x66, 0xE9, 0, 0\n");
SNIPPET(jump_r16, "mov eax, 0x77779100\n.byte 0x66\njmp eax\n");
SNIPPET(call_r16, "mov eax, 0x77779100\n.byte 0x66\ncall eax\n");
SNIPPET(ret_16, "pushw 0x9100\n.byte 0x66\nret\n");
SNIPPET(jz_16, "xor ecx, ecx\n.byte 0x66, 0x0F, 0x84, 0, 0\n");

static void branches(void) {
  // mov ebx, esp; int 0x80
  static const u8 landing[] = {0x89, 0xE3, 0xCD, 0x80};
  memcpy((void*)0x9100, landing, sizeof(landing));
  static const struct {
    const char* what;
    const u8* code;
    i32 esp;
  } rows[] = {
      {"jmp rel16", jump_16, 0}, {"jmp r16", jump_r16, 0}, {"call r16", call_r16, -2}, {"ret 16", ret_16, 0}, {"jz rel16", jz_16, 0}};
  for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
    struct Cpu cpu = user_cpu(NULL);
    // rel16 forms: the sum is cut to 16 bits, so the distance counts from the low half of the next EIP.
    if (rows[i].code == jump_16) *(u16*)(jump_16 + 2) = (u16)(0x9100 - (u32)(jump_16 + 4));
    if (rows[i].code == jz_16) *(u16*)(jz_16 + 5) = (u16)(0x9100 - (u32)(jz_16 + 7));
    run(rows[i].code, cpu);
    check_done(rows[i].what);
    check(rows[i].what, trap.cpu.eip, 0x9104);
    check("esp", trap.cpu.ebx, cpu.esp + (u32)rows[i].esp);
  }
  check("call pushes IP", *(u16*)(user_stack + sizeof(user_stack) - 2) != 0, 1);
}

SNIPPET(retf_16, "pushw 0x1B\npushw 0x9100\n.byte 0x66\nretf\n");
SNIPPET(iret_16, "pushfw\npushw 0x1B\npushw 0x9100\n.byte 0x66\niretd\n");
SNIPPET(jmpf_16, ".byte 0x66, 0xEA\n.word 0x9100, 0x1B\n");

static void returns(void) {
  static const u8* const codes[] = {retf_16, iret_16, jmpf_16};
  for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
    struct Cpu cpu = user_cpu(NULL);
    run(codes[i], cpu);
    check_done("far");
    check("eip", trap.cpu.eip, 0x9104);
    check("esp", trap.cpu.ebx, cpu.esp);
  }
}

void guest_main(void) {
  descriptors_init();
  group("addressing");
  addressing();
  group("arithmetic");
  arithmetic();
  group("stack");
  stack();
  group("loops");
  loops();
  group("strings");
  strings();
  group("branches");
  branches();
  group("far and interrupt returns");
  returns();
}
