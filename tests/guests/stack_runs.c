// Runs of instructions on the stack that fault at any place, at both ends of the page that the stack lies in: registers, memory and the
// fault must be those of the same run in single steps (SDM vol. 3, 6.5: a fault leaves the state as it was before the instruction).
//
// expect:
//   faults: ok
//   faults mended: ok
//   esp around 0: ok
// end
#include "lib/guest.h"

enum { area = 0x40000000, middle = area + page_bytes, code_at = 0x50000000, data_at = 0x60000000, longest = 14 };
enum { open = p_present | p_write | p_user };
static struct Space space;
static u32 stack_frame, spare_frames[2], code_frame, data_frame;
static bool mending;

// Each piece is an instruction, or a few; `random` bytes at its end are displacements or immediates.
struct Piece {
  u8 length, random, bytes[10];
};
static const struct Piece pieces[] = {
    {1, 0, {0x50}},                    // push eax
    {1, 0, {0x53}},                    // push ebx
    {1, 0, {0x55}},                    // push ebp
    {1, 0, {0x56}},                    // push esi
    {1, 0, {0x58}},                    // pop eax
    {1, 0, {0x59}},                    // pop ecx
    {1, 0, {0x5A}},                    // pop edx
    {1, 0, {0x5B}},                    // pop ebx
    {1, 0, {0x54}},                    // push esp
    {2, 1, {0x6A, 0}},                 // push imm8
    {5, 2, {0x68, 0, 0, 0, 0}},        // push imm32
    {4, 1, {0xFF, 0x74, 0x24, 0}},     // push [esp + disp8]
    {4, 1, {0x8F, 0x44, 0x24, 0}},     // pop [esp + disp8]
    {2, 0, {0xFF, 0x36}},              // push [esi]
    {2, 0, {0x8F, 0x06}},              // pop [esi]
    {4, 1, {0x8B, 0x44, 0x24, 0}},     // mov eax, [esp + disp8]
    {4, 1, {0x89, 0x4C, 0x24, 0}},     // mov [esp + disp8], ecx
    {4, 1, {0x01, 0x54, 0x24, 0}},     // add [esp + disp8], edx
    {4, 1, {0x8D, 0x54, 0x24, 0}},     // lea edx, [esp + disp8]
    {5, 1, {0x66, 0x8D, 0x54, 0x24, 0}},  // lea dx, [esp + disp8]
    {4, 1, {0x0F, 0xB6, 0x44, 0x24}},  // movzx eax, byte [esp + disp8]
    {2, 0, {0x89, 0xE3}},              // mov ebx, esp
    {3, 0, {0x75, 1, 0x50}},           // jnz over push eax
    {3, 0, {0x72, 1, 0x58}},           // jb over pop eax
    {5, 0, {0xE2, 3, 0x83, 0xC4, 8}},  // loop over add esp, 8
    {3, 0, {0xE3, 1, 0x53}},           // jecxz over push ebx
    {3, 1, {0x83, 0xC4, 0}},           // add esp, imm8
    {2, 0, {0x01, 0xD0}},              // add eax, edx
    {2, 0, {0x31, 0xC9}},              // xor ecx, ecx
    {2, 0, {0x8B, 0x07}},              // mov eax, [edi]
    {2, 0, {0x66, 0x50}},              // push ax
    {2, 0, {0x66, 0x59}},              // pop cx
    {1, 0, {0xC9}},                    // leave
    {1, 0, {0x60}},                    // pusha
    {1, 0, {0x61}},                    // popa
    {1, 0, {0x5C}},                    // pop esp
    {2, 0, {0x87, 0xEC}},              // xchg esp, ebp
    {4, 0, {0xC8, 8, 0, 0}},           // enter 8, 0
    {2, 0, {0x0F, 0xA2}},              // cpuid
    {5, 0, {0xE8, 0, 0, 0, 0}},        // call the next instruction
    {8, 0, {0xE8, 2, 0, 0, 0, 0xEB, 1, 0xC3}},      // call a ret
    {10, 0, {0xE8, 2, 0, 0, 0, 0xEB, 3, 0xC2, 8}},  // call a ret 8
    {4, 0, {0x31, 0xC9, 0xF7, 0xF1}},  // xor ecx, ecx; div ecx
};
enum { usual = 32 };  // the ones behind these are drawn less often

static u32 state = 20261128;

static u32 make_code(u8* out) {
  u32 size = 0, count = 2 + next_random(&state) % longest;
  for (u32 i = 0; i < count; i++) {
    const u32 which = next_random(&state);
    const struct Piece* piece = &pieces[(which & 0x70) ? (which >> 8) % usual : (which >> 8) % ARRAY_SIZE(pieces)];
    memcpy(out + size, piece->bytes, piece->length);
    for (u32 n = 0; n < piece->random; n++) out[size + piece->length - 1 - n] = (u8)(next_random(&state) >> 8) & 0xFC;
    size += piece->length;
  }
  out[size++] = 0xCD;
  out[size++] = 0x80;
  return size;
}

static bool on_page_fault(struct Frame* frame) {
  (void)frame;
  u32 at;
  __asm__ volatile("mov %%cr2, %0" : "=r"(at));
  const u32 page = (at - area) >> 12;
  if (!mending || (page != 0 && page != 2)) return false;
  set_pte(&space, at, spare_frames[page / 2] | open);
  return true;
}

static bool on_step(struct Frame* frame) {
  (void)frame;
  return true;
}

struct Outcome {
  struct Trap trap;
  u8 stack[page_bytes], spare[2][page_bytes], data[64];
};
static struct Outcome first, second;
static u8 fresh[page_bytes];  // what the pages hold before a run

static void copy_words(void* to, const void* from, u32 bytes) {
  bytes /= 4;
  __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
}

static bool equal_words(const void* a, const void* b, u32 bytes) {
  bytes /= 4;
  bool equal;
  __asm__ volatile("repe cmpsl" : "+D"(a), "+S"(b), "+c"(bytes), "=@ccz"(equal)::"memory");
  return equal;
}

static void run_from(const struct Cpu* cpu, struct Outcome* out) {
  copy_words((void*)stack_frame, fresh, page_bytes);
  for (u32 i = 0; i < 2; i++) copy_words((void*)spare_frames[i], fresh, page_bytes);
  for (u32 i = 0; i < 16; i++) ((u32*)data_frame)[i] = i * 0x1234567;
  set_pte(&space, area, 0);
  set_pte(&space, area + 2 * page_bytes, 0);
  invlpg(area);
  invlpg(area + 2 * page_bytes);
  run_cpu(cpu);
  out->trap = trap;
  copy_words(out->stack, (void*)stack_frame, page_bytes);
  for (u32 i = 0; i < 2; i++) copy_words(out->spare[i], (void*)spare_frames[i], page_bytes);
  memcpy(out->data, (void*)data_frame, 64);
}

static void compare(const struct Cpu* start, u32 times) {
  struct Cpu stepped = *start;
  stepped.eflags |= f_tf;
  run_from(&stepped, &second);
  second.trap.cpu.eflags &= ~f_tf;
  for (u32 i = 0; i < times; i++) {
    run_from(start, &first);
    if (equal_words(&first, &second, sizeof(first))) {
      check_true("as in single steps", true);
      continue;
    }
    check("vector", first.trap.vector, second.trap.vector);
    check("error code", first.trap.error, second.trap.error);
    check("address", first.trap.cr2, second.trap.cr2);
    check("eip", first.trap.cpu.eip, second.trap.cpu.eip);
    check("esp", first.trap.cpu.esp, second.trap.cpu.esp);
    check("eax", first.trap.cpu.eax, second.trap.cpu.eax);
    check("flags", first.trap.cpu.eflags, second.trap.cpu.eflags);
    check_true("as in single steps", false);
  }
}

static void rounds(u32 count) {
  for (u32 round = 0; round < count; round++) {
    const u32 at = code_at + (round * 256 & (page_bytes - 1));
    (void)make_code((u8*)(code_frame + (at & (page_bytes - 1))));
    const u32 random = next_random(&state);
    const u32 distance = random % 80 & ~3u;
    struct Cpu cpu = user_cpu((void*)at);
    cpu.esp = (random & 0x1000 ? middle + distance : middle + page_bytes - distance) + (random >> 16 & 7 ? 0 : random >> 20 & 3);
    cpu.ebp = middle + (random >> 20 & 0xFFC);
    cpu.esi = data_at + (random & 0x3C);
    cpu.edi = random & 0xE000000 ? data_at : 0x70000000;
    cpu.eax = 5;
    cpu.ecx = random >> 28 & 1;
    compare(&cpu, 1 + (random >> 24 & 3));
  }
}

// The page below 0 and the one above: esp wraps.
SNIPPET(pops_over, "pop eax\n pop ebx\n pop ecx\n add eax, ebx\n pop edx\n push eax\n push ecx\n push dword ptr [esp + 12]\n int 0x80\n");

static void around_zero(void) {
  const u32 last = new_page(), zero = new_page();
  const u64 old_zero = get_pte(&space, 0);
  map(&space, 0xFFFFF000u, last | open);
  set_pte(&space, 0, zero | open);
  set_pde(&space, 0, get_pde(&space, 0) | p_user);
  write_cr3(space.root);
  for (u32 i = 0; i < 8; i++) {
    *(u32*)(last + page_bytes - 32 + i * 4) = 100 + i;
    *(u32*)(zero + i * 4) = 200 + i;
  }
  for (u32 round = 0; round < 6; round++) {
    for (u32 i = 0; i < 8; i++) {
      struct Cpu cpu = user_cpu((void*)code_at);
      memcpy((void*)code_frame, pops_over, (size_t)(pops_over_end - pops_over));
      cpu.esp = 0xFFFFFFF0u + i * 4;
      u32 value[5];
      for (u32 n = 0; n < 5; n++) {
        const u32 at = cpu.esp + n * 4;
        value[n] = at >= 0xFFFFF000u ? *(u32*)(last + (at & 0xFFF)) : *(u32*)(zero + at);
      }
      run_cpu(&cpu);
      check_done("over 0");
      check("eax", trap.cpu.eax, value[0] + value[1]);
      check("ecx", trap.cpu.ecx, value[2]);
      check("edx", trap.cpu.edx, value[3]);
      check("esp", trap.cpu.esp, cpu.esp + 4);
      for (u32 n = 0; n < 4; n++) {  // back to what they were
        const u32 at = cpu.esp + 4 + n * 4;
        *(u32*)(at >= 0xFFFFF000u ? last + (at & 0xFFF) : zero + at) = value[n + 1];
      }
    }
  }
  set_pte(&space, 0, old_zero);
  write_cr3(space.root);
}

void guest_main(void) {
  descriptors_init();
  space = new_space(false);
  stack_frame = new_page();
  spare_frames[0] = new_page();
  spare_frames[1] = new_page();
  code_frame = new_page();
  data_frame = new_page();
  map(&space, middle, stack_frame | open);
  map(&space, area, 0);
  map(&space, area + 2 * page_bytes, 0);
  map(&space, code_at, code_frame | p_present | p_user);
  map(&space, data_at, data_frame | open);
  // Esp may go anywhere: nothing else is the program's.
  for (u32 at = 0; at < area; at += 4u << 20) set_pde(&space, at, get_pde(&space, at) & ~(u64)p_user);
  use_space(&space);
  for (u32 i = 0; i < page_bytes / 4; i++) ((u32*)fresh)[i] = middle + (i * 0x9E3779B1u >> 20 & 0xFFC);
  set_hook(v_debug, on_step);
  set_hook(v_page, on_page_fault);
  group("faults");
  rounds(600);
  group("faults mended");
  mending = true;
  rounds(600);
  group("esp around 0");
  around_zero();
  finish();
}
