// What the generator of instruction streams (C++) and the kernel that runs them (C, assembly) agree on. An image is a Multiboot module:
// struct ImageHeader, the background of the arena's pages, then one record per stream.
#pragma once

#include <stdint.h>

enum {
  stream_magic = 0x53334752,

  // The arena is all the physical memory that streams mean to touch: 4 MiB at this address, of which the first pages are used and hashed.
  arena_base = 0x400000,
  arena_bytes = 0x400000,
  page_tables = 0,  // GDT, LDT, IDT, TSS, PDPT
  page_code = 1,    // two pages
  page_data = 3,    // three pages
  page_stack = 6,
  page_inner_stack = 7,  // where the TSS leads: stack of exceptions that come from an outer ring
  page_directory = 8,    // under PAE also the next one
  page_table_a = 10,
  page_table_b = 11,
  hashed_pages = 12,
  // Identity maps of the first 8 MiB, supervisor only; made by the kernel, not hashed.
  page_identity = 12,      // two tables of 4-byte entries
  page_identity_pae = 14,  // four tables of 8-byte entries

  // Offsets in page_tables.
  gdt_offset = 0x000,
  gdt_count = 64,
  ldt_offset = 0x200,
  ldt_count = 32,
  idt_offset = 0x300,
  idt_count = 64,
  tss_offset = 0x500,
  tss_bytes = 104 + 64 + 1,  // with an I/O map for ports 0 to 1FFh
  pdpt_offset = 0x5C0,

  // Selectors that every stream's GDT has (order as SYSENTER and SYSEXIT want it).
  harness_code = 0x08,
  harness_data = 0x10,
  sysexit_code = 0x18,
  sysexit_data = 0x20,
  harness_tss = 0x28,
  first_free_selector = 0x30,

  vector_tick = 0x20,
  vector_end = 0x3E,  // INT 3Eh ends a stream

  resume_count = 8,
  fpu_images = 4,
};

struct ImageHeader {
  uint32_t magic, count, bytes;
  uint32_t reserved[5];  // keeps the images below aligned
  uint8_t background[hashed_pages * 4096];
  uint8_t fpu[fpu_images][512];
};

// Registers in the order of their encodings.
struct StreamState {
  uint32_t gpr[8];
  uint32_t eip, eflags;
  uint32_t cs, ss, ds, es, fs, gs;
};

enum StreamFlag {
  // Why QEMU does not judge a stream; `stream_maker` prints the reasons.
  stream_limits = 1,     // has segments whose limit or type an access may violate
  stream_float = 2,      // floating-point arithmetic
  stream_alignment = 4,  // alignment checks
  stream_undefined = 8,  // looks at what the manual leaves undefined
  stream_ring0 = 16,
  stream_ring3 = 32,
};

struct StreamRecord {
  uint32_t bytes;  // of the record, with its pokes
  uint32_t flags;
  struct StreamState state;
  uint32_t cr0, cr3, cr4, nxe;
  uint32_t gdt_base, gdt_limit, idt_base, idt_limit, ldt;
  uint32_t fpu_image;
  uint32_t resume[resume_count];  // EIPs to go on at after the n-th fault
  uint32_t code_end;              // offset in the arena behind the stream's bytes, and where they begin
  uint32_t code_start;
  uint32_t pokes;
  // Then for each poke: arena offset (u32), length (u32), bytes padded to 4.
};
