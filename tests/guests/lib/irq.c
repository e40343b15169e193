// The 8259 pair and channel 0 of the 8254 (Intel 8259A and 8254 data sheets).
#include "guest.h"

static u16 pic_masks = 0xFFFF;

static void write_masks(void) {
  outb(0x21, (u8)pic_masks);
  outb(0xA1, (u8)(pic_masks >> 8));
}

void pic_init(void) {
  outb(0x20, 0x11);
  outb(0xA0, 0x11);
  outb(0x21, irq_base);
  outb(0xA1, irq_base + 8);
  outb(0x21, 4);
  outb(0xA1, 2);
  outb(0x21, 1);
  outb(0xA1, 1);
  pic_masks = 0xFFFF;
  write_masks();
}

void pic_unmask(u32 irq) {
  pic_masks &= (u16) ~(1u << irq);
  if (irq >= 8) pic_masks &= (u16)~4u;
  write_masks();
}

void pic_mask(u32 irq) {
  pic_masks |= (u16)(1u << irq);
  write_masks();
}

void pic_eoi(u32 irq) {
  if (irq >= 8) outb(0xA0, 0x20);
  outb(0x20, 0x20);
}

u8 pic_read_irr(void) {
  outb(0x20, 0x0A);
  return inb(0x20);
}

u8 pic_read_isr(void) {
  outb(0x20, 0x0B);
  return inb(0x20);
}

void pit_periodic(u32 divisor) {
  outb(0x43, 0x34);
  outb(0x40, (u8)divisor);
  outb(0x40, (u8)(divisor >> 8));
}

void pit_oneshot(u32 count) {
  outb(0x43, 0x30);
  outb(0x40, (u8)count);
  outb(0x40, (u8)(count >> 8));
}

void pit_quiet(void) {
  outb(0x43, 0x30);  // mode 0 counts only once it was given a count
  __asm__ volatile("sti\nnop\nnop\ncli" ::: "memory");
}

u32 pit_read(void) {
  outb(0x43, 0x00);
  u32 low = inb(0x40);
  return low | (u32)inb(0x40) << 8;
}

void wait_irr(u8 mask) {
  while (!(pic_read_irr() & mask)) {
  }
}

volatile u32 timer_ticks;
bool count_tick(struct Frame* frame) {
  (void)frame;
  timer_ticks++;
  pic_eoi(0);
  return true;
}
