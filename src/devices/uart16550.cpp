#include "devices/uart16550.h"

namespace ring3 {

namespace {

enum : u8 { ier_receive = 0x01, ier_thre = 0x02, ier_line = 0x04, ier_modem = 0x08 };
enum : u8 { lsr_dr = 0x01, lsr_overrun = 0x02, lsr_thre = 0x20, lsr_temt = 0x40 };
enum : u8 { mcr_out2 = 0x08, mcr_loop = 0x10 };
enum : u8 { iir_modem = 0x00, iir_none = 0x01, iir_thre = 0x02, iir_data = 0x04, iir_line = 0x06, iir_timeout = 0x0C };

// CTS, DSR and DCD of a peer that is always there.
constexpr u8 connected = 0xB0;

// How long the wire rests after the guest reset the receive FIFO: long enough for a driver's "drain whatever is there" that follows, also
// when the guest runs interpreted; too short for a person at the keyboard.
constexpr Nanoseconds quiet_time = 50'000'000;

}  // namespace

void Uart16550::Fifo::push(u8 byte) {
  if (full()) return;
  bytes[(head + count) % fifo_size] = byte;
  ++count;
}

u8 Uart16550::Fifo::pop() {
  if (empty()) return 0;
  const u8 byte = bytes[head % fifo_size];
  head = (head + 1) % fifo_size;
  --count;
  return byte;
}

Uart16550::Uart16550(const Clock& clock, InterruptLine irq, SerialSink& sink) : clock_(clock), irq_(std::move(irq)), sink_(sink) {}

unsigned Uart16550::trigger_level() const {
  static constexpr std::array<u8, 4> levels{1, 4, 8, 14};
  return fifo_enabled() ? levels[s_.fcr >> 6] : 1;
}

// Start bit, 5-8 data bits, parity, 1, 1.5 or 2 stop bits (counted in halves) at 115200 baud / divisor.
Nanoseconds Uart16550::character_time() const {
  const unsigned data_bits = 5u + (s_.lcr & 3u);
  const unsigned stop_halves = (s_.lcr & 4) == 0 ? 2 : data_bits == 5 ? 3 : 4;
  const u64 half_bits = 2 + 2 * data_bits + ((s_.lcr & 8) ? 2 : 0) + stop_halves;
  const u64 divisor = s_.divisor != 0 ? s_.divisor : 0x10000;
  return half_bits * divisor * 1'000'000'000 / (u64{2} * 115200);
}

u8 Uart16550::line_status() const {
  u8 value = s_.lsr_errors;
  if (!s_.receive.empty()) value |= lsr_dr;
  if (s_.transmit.empty()) value |= lsr_thre | lsr_temt;
  return value;
}

// Upper half of MSR. In loopback RTS, DTR, OUT1 and OUT2 come back as CTS, DSR, RI and DCD.
u8 Uart16550::modem_lines() const {
  if (!loopback()) return connected;
  return static_cast<u8>((s_.mcr & 2) << 3 | (s_.mcr & 1) << 5 | (s_.mcr & 4) << 4 | (s_.mcr & 8) << 4);
}

// Bits 0-3 of IIR, highest priority first (data sheet, table IV).
u8 Uart16550::interrupt_identity() const {
  if ((s_.ier & ier_line) && s_.lsr_errors) return iir_line;
  if (s_.ier & ier_receive) {
    if (s_.receive.count >= trigger_level()) return iir_data;
    if (s_.timeout_pending) return iir_timeout;
  }
  if ((s_.ier & ier_thre) && s_.thre_pending) return iir_thre;
  if ((s_.ier & ier_modem) && s_.msr_delta) return iir_modem;
  return iir_none;
}

// The PC/AT wires INTR through a buffer that OUT2 enables; in loopback the OUT2 pin is inactive.
void Uart16550::update_irq() { irq_.set(interrupt_identity() != iir_none && (s_.mcr & mcr_out2) && !loopback()); }

bool Uart16550::receiver_full() const { return fifo_enabled() ? s_.receive.full() : !s_.receive.empty(); }

bool Uart16550::can_receive() const { return !loopback() && !s_.quiet && s_.on_wire.empty() && !receiver_full(); }

void Uart16550::receive(u8 byte) {
  if (!can_receive()) return;
  accept(byte);
  update_irq();
}

void Uart16550::accept(u8 byte) {
  if (receiver_full()) {
    s_.lsr_errors |= lsr_overrun;
    if (fifo_enabled()) return;  // the byte in the shift register is lost
    s_.receive.clear();          // the one in the buffer register is overwritten
  }
  s_.receive.push(byte);
  if (!s_.timeout_pending) restart_timeout();
}

// Data sheet, "FIFO interrupt mode operation": 4 character times without a byte received or read while the FIFO is not empty.
void Uart16550::restart_timeout() {
  s_.timeout_armed = fifo_enabled() && !s_.receive.empty();
  if (s_.timeout_armed) s_.timeout_at = clock_.now() + 4 * character_time();
}

u8 Uart16550::read_receiver() {
  const u8 byte = s_.receive.pop();
  if (s_.receive.empty()) s_.looped = false;
  s_.timeout_pending = false;
  restart_timeout();
  refill_from_wire();
  return byte;
}

void Uart16550::refill_from_wire() {
  if (s_.quiet || loopback()) return;
  while (!s_.on_wire.empty() && !receiver_full()) accept(s_.on_wire.pop());
}

void Uart16550::reset_receiver() {
  if (!s_.looped) {
    // What was in the FIFO came first.
    Fifo wire;
    while (!s_.receive.empty()) wire.push(s_.receive.pop());
    while (!s_.on_wire.empty()) wire.push(s_.on_wire.pop());
    s_.on_wire = wire;
  }
  s_.receive.clear();
  s_.looped = false;
  s_.timeout_pending = false;
  s_.timeout_armed = false;
  s_.quiet = true;
  s_.quiet_until = clock_.now() + quiet_time;
}

void Uart16550::transmit(u8 byte) {
  s_.thre_pending = false;
  update_irq();  // lets the line fall, so that the next THRE is an edge
  if (loopback()) {
    s_.looped = true;
    accept(byte);
    s_.thre_pending = s_.transmit.empty();
    return;
  }
  const unsigned capacity = fifo_enabled() ? fifo_size : 1;
  if (s_.transmit.count < capacity) s_.transmit.push(byte);  // a write without THRE is the guest's loss, as on the chip
  flush();
}

void Uart16550::flush() {
  if (s_.transmit.empty()) return;
  while (!s_.transmit.empty() && sink_.send(s_.transmit.bytes[s_.transmit.head])) s_.transmit.pop();
  if (s_.transmit.empty()) s_.thre_pending = true;
}

void Uart16550::output_ready() {
  flush();
  update_irq();
}

std::optional<Nanoseconds> Uart16550::next_deadline() const {
  std::optional<Nanoseconds> deadline;
  if (s_.timeout_armed && (s_.ier & ier_receive)) deadline = s_.timeout_at;
  if (s_.quiet && (!deadline || s_.quiet_until < *deadline)) deadline = s_.quiet_until;
  return deadline;
}

void Uart16550::run(Nanoseconds now) {
  if (s_.timeout_armed && now >= s_.timeout_at) {
    s_.timeout_armed = false;
    s_.timeout_pending = true;
  }
  if (s_.quiet && now >= s_.quiet_until) {
    s_.quiet = false;
    refill_from_wire();
  }
  update_irq();
}

u8 Uart16550::read_byte(u32 offset) {
  run(clock_.now());
  const bool dlab = (s_.lcr & 0x80) != 0;
  u8 value = 0;
  switch (offset & 7) {
    case 0: value = dlab ? static_cast<u8>(s_.divisor) : read_receiver(); break;
    case 1: value = dlab ? static_cast<u8>(s_.divisor >> 8) : s_.ier; break;
    case 2:
      value = interrupt_identity();
      if (value == iir_thre) s_.thre_pending = false;
      if (fifo_enabled()) value |= 0xC0;
      break;
    case 3: value = s_.lcr; break;
    case 4: value = s_.mcr; break;
    case 5:
      value = line_status();
      s_.lsr_errors = 0;
      break;
    case 6:
      value = static_cast<u8>(modem_lines() | s_.msr_delta);
      s_.msr_delta = 0;
      break;
    default: value = s_.scratch; break;
  }
  update_irq();
  return value;
}

void Uart16550::write_byte(u32 offset, u8 value) {
  run(clock_.now());
  const bool dlab = (s_.lcr & 0x80) != 0;
  switch (offset & 7) {
    case 0:
      if (dlab)
        s_.divisor = static_cast<u16>((s_.divisor & 0xFF00) | value);
      else
        transmit(value);
      break;
    case 1:
      if (dlab) {
        s_.divisor = static_cast<u16>((s_.divisor & 0x00FF) | value << 8);
        break;
      }
      // Enabling THRE while the transmitter is empty interrupts at once (data sheet, "IER" and "FIFO interrupt mode operation").
      if ((value & ier_thre) && !(s_.ier & ier_thre) && s_.transmit.empty()) s_.thre_pending = true;
      s_.ier = value & 0x0F;
      if (s_.ier & ier_receive) {
        s_.quiet = false;  // the driver is ready for input
        refill_from_wire();
      }
      break;
    case 2: write_fcr(value); break;
    case 3: s_.lcr = value; break;
    case 4: write_mcr(value); break;
    case 7: s_.scratch = value; break;
    default: break;  // LSR and MSR: factory tests only
  }
  update_irq();
}

void Uart16550::write_fcr(u8 value) {
  const bool switched = ((value ^ s_.fcr) & 1) != 0;
  if ((value & 1) == 0) value = 0;  // the other bits are programmed only together with bit 0
  s_.fcr = value & 0xC1;
  // Switching the FIFOs on or off clears them, as do bits 1 and 2. Bytes the sink has not taken yet count as already shifted out.
  if (switched || (value & 2)) reset_receiver();
}

void Uart16550::write_mcr(u8 value) {
  const u8 before = modem_lines();
  s_.mcr = value & 0x1F;
  const u8 after = modem_lines();
  const u8 changed = static_cast<u8>((before ^ after) >> 4);
  s_.msr_delta |= changed & 0x0B;                                // DCTS, DDSR, DDCD
  if ((before & 0x40) && !(after & 0x40)) s_.msr_delta |= 0x04;  // TERI: only the trailing edge of RI
  refill_from_wire();
}

void Uart16550::restore(const State& state) {
  s_ = state;
  update_irq();
}

}  // namespace ring3
