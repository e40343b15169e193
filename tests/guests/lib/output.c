#include "guest.h"

#include <stdarg.h>

enum { com1 = 0x3F8, shown_failures = 20 };

static const char* group_name;
static u32 group_checks;
static u32 group_failures;
static u32 all_failures;

// Called by start.S. After a reset a real 16550 sends 5-bit characters at an unknown rate.
void guest_start(void) {
  outb(com1 + 1, 0);     // no interrupts
  outb(com1 + 3, 0x80);  // divisor latch
  outb(com1 + 0, 1);     // 115200 baud
  outb(com1 + 1, 0);
  outb(com1 + 3, 3);  // 8 data bits, no parity, 1 stop bit
  outb(com1 + 2, 7);  // FIFOs on and empty
  // Firmware may have left a timer running: no interrupts before a test asks for them.
  outb(0x21, 0xFF);
  outb(0xA1, 0xFF);
  guest_main();
  finish();
}

void print_char(char c) {
  while (!(inb(com1 + 5) & 0x20)) {
  }
  outb(com1, (u8)c);
}

void print(const char* text) {
  for (; *text; text++) print_char(*text);
}

static void print_number(u32 value, u32 base, u32 width) {
  char digits[12];
  u32 n = 0;
  do {
    digits[n++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value || n < width);
  while (n) print_char(digits[--n]);
}

void printf(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  for (; *format; format++) {
    if (*format != '%') {
      print_char(*format);
      continue;
    }
    switch (*++format) {
      case 'x': print_number(va_arg(arguments, u32), 16, 8); break;
      case 'u': print_number(va_arg(arguments, u32), 10, 1); break;
      case 'd': {
        i32 value = va_arg(arguments, i32);
        if (value < 0) print_char('-');
        print_number(value < 0 ? -(u32)value : (u32)value, 10, 1);
        break;
      }
      case 's': print(va_arg(arguments, const char*)); break;
      case 'c': print_char((char)va_arg(arguments, int)); break;
      default: print_char(*format);
    }
  }
  va_end(arguments);
}

static void close_group(void) {
  if (!group_name) return;
  if (group_failures)
    printf("%s: %u of %u checks failed\n", group_name, group_failures, group_checks);
  else
    printf("%s: ok\n", group_name);
  group_name = NULL;
}

void group(const char* name) {
  close_group();
  group_name = name;
  group_checks = 0;
  group_failures = 0;
}

bool check(const char* what, u32 got, u32 want) {
  group_checks++;
  if (got == want) return true;
  all_failures++;
  if (group_failures++ < shown_failures) printf("  FAIL %s: got %x, want %x\n", what, got, want);
  return false;
}

bool showing_failures(void) { return group_failures <= shown_failures; }

bool check_true(const char* what, bool holds) { return check(what, holds, true); }

_Noreturn void finish(void) {
  close_group();
  outb(0xF4, all_failures ? 0x11 : 0x10);
  for (;;) __asm__ volatile("cli; hlt");
}

_Noreturn void panic(const char* why) {
  printf("PANIC %s: vector %x error %x eip %x cr2 %x\n", why, trap.vector, trap.error, trap.cpu.eip, trap.cr2);
  all_failures++;
  finish();
}

void* memset(void* to, int value, size_t size) {
  // Megabytes are cleared with this, and lockstep pays for every block.
  u8* p = to;
  const u32 four = (u8)value * 0x01010101u;
  for (; size >= 32; size -= 32, p += 32) {
    for (u32 i = 0; i < 32; i += 4) *(u32*)(p + i) = four;
  }
  while (size--) *p++ = (u8)value;
  return to;
}

void* memcpy(void* to, const void* from, size_t size) {
  u8* p = to;
  const u8* q = from;
  while (size--) *p++ = *q++;
  return to;
}

int memcmp(const void* a, const void* b, size_t size) {
  const u8 *p = a, *q = b;
  for (; size; size--, p++, q++) {
    if (*p != *q) return *p < *q ? -1 : 1;
  }
  return 0;
}
