#include "devices/pic.h"

namespace ring3 {

namespace {

constexpr unsigned cascade_input = 2;

u8 bit(unsigned n) { return static_cast<u8>(1u << (n & 7)); }

}  // namespace

Pic8259::Pic8259(u8 vector_base, u8 elcr_writable, u8 cascade_inputs) : elcr_writable_(elcr_writable), cascade_inputs_(cascade_inputs) {
  state_.vector_base = vector_base;
}

void Pic8259::set_line(unsigned input, bool level) {
  const u8 mask = bit(input);
  if (level) {
    if ((state_.lines & mask) == 0) state_.latched |= mask;
    state_.lines |= mask;
  } else {
    // The input has to stay high until INTA; a request that goes away before is the spurious IR7 case (data sheet, "Edge and level
    // triggered modes").
    state_.lines &= static_cast<u8>(~mask);
    state_.latched &= static_cast<u8>(~mask);
  }
}

u8 Pic8259::irr() const {
  const u8 level = level_mask();
  return static_cast<u8>((state_.lines & level) | (state_.latched & ~level));
}

int Pic8259::highest_of(u8 bits) const {
  for (unsigned i = 1; i <= 8; ++i) {
    const unsigned input = (state_.lowest + i) & 7u;
    if (bits & bit(input)) return static_cast<int>(input);
  }
  return -1;
}

int Pic8259::pick() const {
  if (state_.icw_expected != 0) return -1;
  const int request = highest_of(static_cast<u8>(irr() & ~state_.imr));
  if (request < 0) return -1;
  const unsigned input = static_cast<unsigned>(request);
  // In special mask mode a masked level in service holds nothing back but itself (data sheet, "Special mask mode"); itself is masked.
  const u8 in_service = state_.special_mask ? static_cast<u8>(state_.isr & ~state_.imr) : state_.isr;
  const int serving = highest_of(in_service);
  if (serving < 0) return request;
  const unsigned current = static_cast<unsigned>(serving);
  if (priority_of(input) < priority_of(current)) return request;
  // Special fully nested mode: a slave in service is not locked out of the master's priority logic, for its own higher requests.
  if (input == current && state_.special_fully_nested && (cascade_inputs_ & bit(input))) return request;
  return -1;
}

void Pic8259::enter_service(unsigned input) {
  state_.latched &= static_cast<u8>(~bit(input));
  if (!state_.auto_eoi)
    state_.isr |= bit(input);
  else if (state_.rotate_on_auto_eoi)
    state_.lowest = static_cast<u8>(input);
}

Pic8259::Acknowledged Pic8259::acknowledge() {
  const int input = pick();
  if (input < 0) return {7, true};
  enter_service(static_cast<unsigned>(input));
  return {static_cast<unsigned>(input), false};
}

u8 Pic8259::read(bool a0) {
  if (state_.poll) {
    // The read pulse after a poll command is the acknowledge; bit 7 says whether there was a request.
    state_.poll = false;
    const int input = pick();
    if (input < 0) return 0;
    enter_service(static_cast<unsigned>(input));
    return static_cast<u8>(0x80 | input);
  }
  if (a0) return state_.imr;
  return state_.read_isr ? state_.isr : irr();
}

void Pic8259::initialise(u8 icw1) {
  // Data sheet, ICW1: edge sense reset, IMR cleared, IR7 lowest, special mask off, status read is IRR; without ICW4 its functions are off.
  const u8 lines = state_.lines;
  const u8 elcr = state_.elcr;
  const u8 base = state_.vector_base;
  state_ = State{};
  state_.lines = lines;
  state_.elcr = elcr;
  state_.vector_base = base;
  state_.imr = 0;
  state_.level_all = (icw1 & 0x08) != 0;
  state_.single = (icw1 & 0x02) != 0;
  state_.icw4_needed = (icw1 & 0x01) != 0;
  state_.icw_expected = 2;
}

void Pic8259::end_of_interrupt(u8 ocw2) {
  const unsigned level = ocw2 & 7u;
  const bool rotate = (ocw2 & 0x80) != 0;
  const bool specific = (ocw2 & 0x40) != 0;
  const bool eoi = (ocw2 & 0x20) != 0;
  if (!eoi) {
    if (specific) {
      if (rotate) state_.lowest = static_cast<u8>(level);  // set priority; without R: no operation
    } else {
      state_.rotate_on_auto_eoi = rotate;
    }
    return;
  }
  unsigned ended = level;
  if (!specific) {
    // In special mask mode a non-specific EOI does not clear a level that is masked (data sheet, "End of interrupt").
    const int highest = highest_of(state_.special_mask ? static_cast<u8>(state_.isr & ~state_.imr) : state_.isr);
    if (highest < 0) return;
    ended = static_cast<unsigned>(highest);
  }
  state_.isr &= static_cast<u8>(~bit(ended));
  if (rotate) state_.lowest = static_cast<u8>(ended);
}

void Pic8259::write(bool a0, u8 value) {
  if (!a0) {
    if (value & 0x10) {
      initialise(value);
    } else if (value & 0x08) {
      if (value & 0x40) state_.special_mask = (value & 0x20) != 0;
      state_.poll = (value & 0x04) != 0;
      if (value & 0x02) state_.read_isr = (value & 0x01) != 0;
    } else {
      end_of_interrupt(value);
    }
    return;
  }
  switch (state_.icw_expected) {
    case 0: state_.imr = value; return;
    case 2:
      state_.vector_base = value & 0xF8;
      state_.icw_expected = state_.single ? (state_.icw4_needed ? 4 : 0) : 3;
      return;
    case 3:  // which inputs have slaves, or the slave's number: wired, not programmed, on this board
      state_.icw_expected = state_.icw4_needed ? 4 : 0;
      return;
    default:
      // Buffered mode has no visible effect; the MCS-80 interrupt sequence (bit 0 clear) does not exist on an x86 bus and acts as 8086
      // mode.
      state_.special_fully_nested = (value & 0x10) != 0;
      state_.auto_eoi = (value & 0x02) != 0;
      state_.icw_expected = 0;
      return;
  }
}

// Inputs 0, 1, 2, 8 and 13 are edge-triggered for good (PIIX data sheet, ELCR1 bits 0-2, ELCR2 bits 0 and 5).
PicPair::PicPair(InterruptLine intr)
    : master_(0x08, 0xF8, bit(cascade_input)),
      slave_(0x70, 0xDE, 0),
      intr_(std::move(intr)),
      master_ports_(*this, master_),
      slave_ports_(*this, slave_),
      elcr_ports_(*this) {}

void PicPair::set_irq(unsigned irq, bool level) {
  if (irq == cascade_input || irq > 15) return;
  if (irq < 8)
    master_.set_line(irq, level);
  else
    slave_.set_line(irq - 8, level);
  update();
}

InterruptLine PicPair::line(unsigned irq) {
  return InterruptLine([this, irq](bool level) { set_irq(irq, level); });
}

u8 PicPair::acknowledge() {
  const Pic8259::Acknowledged first = master_.acknowledge();
  u8 vector = static_cast<u8>(master_.vector_base() | first.input);
  if (!first.spurious && first.input == cascade_input) {
    const Pic8259::Acknowledged second = slave_.acknowledge();
    vector = static_cast<u8>(slave_.vector_base() | second.input);
    // The slave's INT drops after INTA; a request that is still there makes a new edge.
    master_.set_line(cascade_input, false);
  }
  update();
  return vector;
}

void PicPair::update() {
  master_.set_line(cascade_input, slave_.requesting());
  intr_.set(master_.requesting());
}

void PicPair::restore(const State& state) {
  master_.restore(state.master);
  slave_.restore(state.slave);
  update();
}

u8 PicPair::ChipPorts::read_byte(u32 offset) {
  const u8 value = chip_.read((offset & 1) != 0);
  pair_.update();  // a poll moves a request into service
  return value;
}

void PicPair::ChipPorts::write_byte(u32 offset, u8 value) {
  chip_.write((offset & 1) != 0, value);
  pair_.update();
}

u8 PicPair::ElcrPorts::read_byte(u32 offset) { return (offset & 1) ? pair_.slave_.read_elcr() : pair_.master_.read_elcr(); }

void PicPair::ElcrPorts::write_byte(u32 offset, u8 value) {
  if (offset & 1)
    pair_.slave_.write_elcr(value);
  else
    pair_.master_.write_elcr(value);
  pair_.update();
}

}  // namespace ring3
