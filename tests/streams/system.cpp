// Instructions that touch segments, privileges, events and system registers.
#include "generator.h"

namespace ring3::streams {

void Generator::emit_segment_load() {
  u16 selector = some_selector();
  if (judged_ && selector < 8) selector = static_cast<u16>(stream_.record.state.ds);
  // Never SS at ring 0 with something that does not reach the stack: nothing could be delivered then.
  const bool keep_stack = ring_ == 0;
  switch (v_.below(4)) {
    case 0:
    case 1: {  // mov sreg, ax
      mov_imm(eax, selector);
      constexpr u8 targets[] = {0, 3, 4, 5, 4, 5, 2, 1};
      const u8 to = targets[v_.below(v_.one_in(12) ? 8 : keep_stack ? 6 : 7)];
      if (to == 2 && keep_stack) {
        operand32(), put8(0xB8), put32(stream_.record.state.ss);
      }
      put8(0x8E), put8(0xC0 | to << 3);
      if (to == 0 || to == 3) {
        if (v_.one_in(3)) emit_family(Family::mov);
        mov_imm(eax, to == 0 ? stream_.record.state.es : stream_.record.state.ds);
        put8(0x8E), put8(0xC0 | to << 3);
      }
      break;
    }
    case 2:  // push; pop sreg
      operand32(), put8(0x68), put32(selector);
      operand32();
      if (v_.one_in(2)) {
        put8(0x0F), put8(0xA1 | v_.below(2) << 3);
      } else {
        put8(v_.one_in(2) ? 0x07 : 0x1F);
      }
      break;
    default: {  // lfs, lgs, les, lds, lss
      const u32 offset = place_data({random(), selector | (random() << 16)});
      address32(), operand32();
      switch (v_.below(keep_stack ? 4 : 5)) {
        case 0:
        case 1: put8(0x0F), put8(0xB4 | v_.below(2)), absolute_operand(v_.below(3), offset); break;
        case 2: put8(0xC4), absolute_operand(v_.below(3), offset); break;
        case 3: put8(0xC5), absolute_operand(v_.below(3), offset); break;
        default: put8(0x0F), put8(0xB2), absolute_operand(v_.below(3), offset);
      }
    }
  }
  if (v_.one_in(3)) {  // the new segment in use
    address32();
    put8(0x64 | v_.below(2)), put8(0x8B), absolute_operand(v_.below(3), v_.below(0x2FF0));
  }
}

void Generator::emit_segment_query() {
  mov_imm(ecx, some_selector() | (random() << 16));
  switch (v_.below(6)) {
    case 0: {  // lar, whose bits 16 to 19 are undefined (SDM vol. 2)
      const unsigned to = v_.one_in(2) ? eax : edx;
      put8(0x0F), put8(0x02), put8(0xC1 | to << 3);
      if (judged_) {
        put8(0x0F), put8(0x94), put8(0xC0 | ecx);                     // setz cl
        operand32(), put8(0x81), put8(0xE0 | to), put32(0xFFF0FFFF);  // and
      }
      break;
    }
    case 1: put8(0x0F), put8(0x03), put8(0xC1 | v_.below(3) << 3); break;           // lsl
    case 2: put8(0x0F), put8(0x00), put8(0xE1); break;                              // verr cx
    case 3: put8(0x0F), put8(0x00), put8(0xE9); break;                              // verw cx
    case 4: put8(0x63), put8(0xC0 | v_.below(3) << 3 | v_.below(3)); break;         // arpl
    default: operand32(), put8(0x8C), put8(0xC0 | v_.below(6) << 3 | v_.below(3));  // mov r32, sreg
  }
}

// Far CALL, JMP, RET and IRET to the code ahead, through descriptors and gates of all rings.
void Generator::emit_far_transfer() {
  const u16 selector = v_.one_in(5) ? some_selector()
                                    : static_cast<u16>((code_selectors_[v_.below(static_cast<u32>(code_selectors_.size()))] & ~3u) |
                                                       (v_.one_in(6) ? v_.below(4) : ring_));
  const auto push_imm = [&](u32 value) { operand32(), put8(0x68), put32(value); };
  const auto push_target = [&] {
    push_imm(0);
    refer(Target::absolute, here() - 4, 4, 1);
  };
  switch (v_.below(6)) {
    case 0:  // direct
      operand32(), put8(v_.one_in(2) ? 0xEA : 0x9A);
      put32(0), put16(selector);
      refer(Target::absolute, here() - 6, 4, 1);
      break;
    case 1: {  // through a pointer on the stack
      push_imm(selector);
      push_target();
      address32(), operand32(), put8(0xFF), put8(v_.one_in(2) ? 0x2C : 0x1C), put8(0x24);
      break;
    }
    case 2:                              // retf
      if (ring_ != 3 && v_.one_in(3)) {  // to an outer ring: SS and ESP too
        push_imm(sysexit_data | 3);
        push_imm(space_->linear(page_stack) + 0x900);
        push_imm((selector & ~3u) | 3);
      } else {
        push_imm(selector);
      }
      push_target();
      operand32(), put8(v_.one_in(4) ? 0xCA : 0xCB);
      if (stream_.code.back() == 0xCA) put16(v_.below(4) * 4);
      break;
    case 3: {  // iret
      if (ring_ != 3 && v_.one_in(3)) {
        push_imm(sysexit_data | 3);
        push_imm(space_->linear(page_stack) + 0x900);
      }
      u32 flags = (random() & 0x240DD5) | 0x202;  // no TF, NT, VM
      if ((stream_.record.flags & stream_alignment) == 0) flags &= ~0x40000u;
      if (v_.one_in(6)) flags |= 0x100;
      if (v_.one_in(8)) flags |= 0x10000;
      push_imm(flags);
      push_imm(selector);
      push_target();
      operand32(), put8(0xCF);
      break;
    }
    default: {  // call or jump through a call gate
      const u8 access = static_cast<u8>((v_.one_in(10) ? 0 : 0x80) | (v_.one_in(4) ? v_.below(4) : 3) << 5 | 12);
      if (free_gdt_.size() < 2) return emit_segment_query();
      const u16 through = add_descriptor(gate(selector, 0, access, static_cast<u8>(v_.below(v_.one_in(2) ? 1 : 5))), 0);
      refer(Target::in_gate, static_cast<u32>(stream_.pokes.size() - 1), 8, 1);
      operand32(), put8(v_.one_in(3) ? 0xEA : 0x9A);
      put32(random()), put16(through | (v_.one_in(4) ? v_.below(4) : 0));
    }
  }
}

void Generator::emit_interrupt() {
  switch (v_.below(8)) {
    case 0: put8(0xCC); break;
    case 1: put8(0xCE); break;
    case 2: put8(0xCD), put8(v_.below(0x20)); break;
    case 3: put8(0xCD), put8(v_.below(0x100)); break;
    case 4: put8(judged_ ? 0xCC : 0xF1); break;  // INT1 is undefined in QEMU 7.2 (SDM vol. 2, INT n: "INT1")
    case 5: {                                    // bound
      const u32 offset = place_data({v_.integer(), v_.integer()});
      address32(), operand32(), put8(0x62), absolute_operand(v_.below(3), offset);
      break;
    }
    case 6: put8(0x0F), put8(0x0B); break;
    default: {  // a gate of the stream's own
      const u32 vector = 0x30 + v_.below(14);
      const u16 selector = static_cast<u16>(code_selectors_[v_.below(static_cast<u32>(code_selectors_.size()))] & ~3u);
      const u8 access = static_cast<u8>(0x80 | (v_.one_in(4) ? v_.below(4) : 3) << 5 | (v_.one_in(2) ? 14 : 15));
      Poke poke{idt_offset + vector * 8, {}};
      const u64 value = gate(selector, 0, access, 0);
      for (unsigned i = 0; i < 8; ++i) poke.bytes.push_back(static_cast<u8>(value >> (8 * i)));
      stream_.pokes.push_back(std::move(poke));
      refer(Target::in_gate, static_cast<u32>(stream_.pokes.size() - 1), 8, 1);
      put8(0xCD), put8(vector);
    }
  }
}

void Generator::emit_flags_image() {
  switch (v_.below(4)) {
    case 0: operand32(), put8(0x9C); break;
    case 1: put8(0x66), put8(0x9C); break;
    default: {
      u32 flags = random() & 0x203ED5;
      if (!v_.one_in(12)) flags &= ~0x4000u;
      if (ring_ == 0) flags |= 0x200;
      if (v_.one_in(8)) flags |= 0x100;
      if ((stream_.record.flags & stream_alignment) != 0 && v_.one_in(2)) flags |= 0x40000;
      operand32(), put8(0x68), put32(flags);
      operand32(), put8(0x9D);
    }
  }
}

void Generator::emit_system() {
  const auto mov_cr = [&](unsigned cr, u32 value) {
    mov_imm(eax, value);
    put8(0x0F), put8(0x22), put8(0xC0 | cr << 3);
  };
  const StreamRecord& r = stream_.record;
  switch (v_.below(16)) {
    case 0: {
      constexpr u32 bits[] = {2, 4, 8, 0x10000, 0x20};
      u32 value = r.cr0;
      if (v_.one_in(2)) value ^= bits[v_.below(v_.one_in(4) ? 5 : 1)];
      if (v_.one_in(2)) value ^= 0x10000;
      mov_cr(0, value);
      break;
    }
    case 1: mov_cr(3, r.cr3); break;
    case 2: {
      constexpr u32 bits[] = {0x80, 0x80, 4, 0x400, 0x80000000};
      mov_cr(4, r.cr4 ^ bits[v_.below(5)]);
      break;
    }
    case 3:
      put8(0x0F), put8(0x20), put8(0xC0 | (!judged_ && v_.one_in(8) ? v_.below(8) : v_.below(2) * 3) << 3 | v_.below(3));
      break;  // mov r, cr
    case 4: {
      address32(), put8(0x0F), put8(0x01);
      constexpr u8 rows[] = {0, 1, 4, 0};  // sgdt, sidt, smsw
      absolute_operand(rows[v_.below(4)], v_.below(0x2FF0));
      break;
    }
    case 5: address32(), put8(0x0F), put8(0x00), absolute_operand(v_.below(2), v_.below(0x2FF0)); break;  // sldt, str
    case 6: {
      const u32 limit = gdt_count * 8 - 1 - (v_.one_in(2) ? 0 : 8 * v_.below(4));
      const u32 offset = place_data({limit | (r.gdt_base << 16), r.gdt_base >> 16});
      address32(), operand32(), put8(0x0F), put8(0x01), absolute_operand(2, offset);
      break;
    }
    case 7: {
      const u32 offset = place_data({(idt_count * 8 - 1) | (r.idt_base << 16), r.idt_base >> 16});
      address32(), operand32(), put8(0x0F), put8(0x01), absolute_operand(3, offset);
      break;
    }
    case 8: mov_imm(eax, v_.one_in(2) ? r.ldt : some_selector()), put8(0x0F), put8(0x00), put8(0xD0); break;     // lldt
    case 9: mov_imm(eax, some_selector() | 8u), put8(0x0F), put8(0x00), put8(0xD8); break;                       // ltr: busy or no TSS
    case 10: put8(0x0F), put8(v_.one_in(3) ? 0x08 + v_.below(2) : 0x06); break;                                  // clts, invd, wbinvd
    case 11: address32(), put8(0x0F), put8(0x01), put8(0x3D), put32(space_->random_linear() - ds_base_); break;  // invlpg
    case 12:  // mov to and from debug registers; no breakpoint is enabled
      mov_imm(eax, v_.one_in(2) ? v_.integer() : 0x400);
      put8(0x0F), put8(0x23), put8(0xC0 | v_.below(4) << 3);
      put8(0x0F), put8(0x21), put8(0xC0 | v_.below(8) << 3 | v_.below(3));
      break;
    case 13: {  // another right for a mapped page, then its flush
      if (ring_ != 0) return emit_far_transfer();
      const unsigned page = page_data + v_.below(3);
      const u32 at = space_->entry_address(page) - ds_base_;
      constexpr u8 bits[] = {0, 1, 1, 2, 5, 6};
      address32(), operand32();
      put8(0x0F), put8(0xBA), put8(0x05 | (5 + v_.below(2)) << 3), put32(at), put8(bits[v_.below(6)]);  // bts, btr
      define_flags();
      // By INVLPG: a load of CR3 leaves global pages, and whether the old entry is still there then is chance.
      address32(), put8(0x0F), put8(0x01), put8(0x3D), put32(space_->linear(page) - ds_base_);
      break;
    }
    case 14:
      if (ring_ == 3 && v_.one_in(2)) {
        put8(0x0F), put8(0x34);  // sysenter
      } else {
        mov_imm(edx, 0), mov_imm(ecx, 0);
        operand32(), put8(0xBA), put32(0);
        refer(Target::absolute, here() - 4, 4, 1);
        mov_imm(ecx, space_->linear(page_stack) + 0x900);
        put8(0x0F), put8(0x35);  // sysexit
      }
      break;
    default:
      // Privileged ones for the rings that may not.
      if (ring_ == 0) return emit_segment_query();
      switch (v_.below(4)) {
        case 0: put8(0xF4); break;
        case 1: put8(0x0F), put8(0x30); break;
        case 2: put8(0x0F), put8(0x32); break;
        default: put8(0x0F), put8(0x33);
      }
  }
}

// Ports where nothing answers, and which the I/O map may allow.
void Generator::emit_port() {
  mov_imm(edx, 0x180 + v_.below(0x50));
  if (v_.one_in(3)) {
    put8(0xFC);
    mov_imm(esi, space_->linear(page_data) + v_.below(0x3000) - ds_base_);
    mov_imm(edi, space_->linear(page_data) + v_.below(0x3000) - es_base_);
    mov_imm(ecx, v_.below(20));
    if (v_.one_in(2)) put8(0xF3);
    address32(), put8(judged_ ? 0x6E | v_.below(2) : 0x6C | v_.below(4));
    return;
  }
  if (v_.one_in(4)) put8(0x66);
  put8(0xEC | v_.below(4));
  if (judged_) mov_imm(eax, random());  // what nobody answers with is the board's business
}

// Bytes that need not mean anything. Never where they could reach a device or leave protected mode.
void Generator::emit_noise() {
  if (judged_ || ring_ != 3 || (stream_.record.state.eflags & 0x3000) != 0) {
    constexpr u8 prefixes[] = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3};
    for (unsigned n = v_.below(16); n > 0; --n) put8(prefixes[v_.below(sizeof prefixes)]);
    put8(v_.one_in(2) ? 0x90 : 0x40);
    return;
  }
  if (v_.one_in(3)) put8(0x0F);
  for (unsigned n = 1 + v_.below(4); n > 0; --n) put8(random());
  put32(0x90909090), put32(0x90909090);
}

}  // namespace ring3::streams
