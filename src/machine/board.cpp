#include "machine/board.h"

#include "base/duration.h"
#include "base/error.h"
#include "devices/a20_gate.h"
#include "devices/acpi_pm.h"
#include "devices/debug_exit.h"
#include "devices/debug_port.h"
#include "devices/i8042.h"
#include "devices/pic.h"
#include "devices/pit.h"
#include "devices/reset_control.h"
#include "devices/rtc.h"
#include "devices/system_control.h"
#include "devices/uart16550.h"
#include "machine/acpi_tables.h"
#include "machine/small_ports.h"
#include "runtime/memory/memory.h"
#include "runtime/memory/ram.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <algorithm>
#include <csignal>
#include <ctime>
#include <vector>

namespace ring3 {
namespace {

// A running guest's console is looked after this often: a system call or two each time.
constexpr Nanoseconds host_interval = 1'000'000;
constexpr u32 debug_exit_ports = 4;

i64 unix_time() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return i64{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

// In construction order; a reset makes all of it anew.
struct Board::Devices {
  explicit Devices(Board& board)
      : pit(board, pic.line(0)),
        rtc(board, pic.line(8), unix_time(), board.ram_.size()),
        uart(board, pic.line(4), board),
        pm(board, {}, pic.line(9), [&board] { board.request_stop(StopCause::power_off); }),
        a20([&board](bool enabled) {
          if (board.memory_ != nullptr) board.memory_->set_a20(enabled);
        }),
        keyboard(pic.line(1), a20, [&board] { board.request_stop(StopCause::reset); }),
        control_a(a20, [&board] { board.request_stop(StopCause::reset); }),
        control_b(board, pit),
        reset([&board] { board.request_stop(StopCause::reset); }),
        debug_port([&board](u8 byte) { board.debug_byte(byte); }),
        debug_exit([&board](u32 code) { board.request_stop(StopCause::debug_exit, code); }),
        ferr(pic.line(13)),
        coprocessor([this] {
          ferr.set(false);
          ignne = ferr_level;
        }),
        timers{&pit, &rtc, &uart, &pm} {
    map.add_ports(0x20, 2, pic.master_ports());
    map.add_ports(0xA0, 2, pic.slave_ports());
    map.add_ports(0x4D0, 2, pic.elcr_ports());
    map.add_ports(0x40, 4, pit);
    map.add_ports(0x60, 1, keyboard, 0);
    map.add_ports(0x64, 1, keyboard, 1);
    map.add_ports(0x61, 1, control_b);
    map.add_ports(0x92, 1, control_a);
    map.add_ports(0x70, 2, rtc);
    map.add_ports(0x80, 1, post);
    map.add_ports(0xE9, 1, debug_port);
    map.add_ports(0xF0, 1, coprocessor);
    map.add_ports(0xCF9, 1, reset);
    map.add_ports(com1, 8, uart);
    map.add_ports(acpi_pm, AcpiPm::port_count, pm);
    map.add_ports(smi_command, 2, pm.smi_ports());
    if (const auto port = board.config_.debug_exit) {
      try {
        map.add_ports(*port, debug_exit_ports, debug_exit);
      } catch (const InternalError&) {
        throw UserError(fmt::format("--debug-exit {:#x}: its {} ports collide with another device; choose another, 0x501 is free", *port,
                                    debug_exit_ports));
      }
    }
  }

  PicPair pic;
  Pit pit;
  Rtc rtc;
  Uart16550 uart;
  AcpiPm pm;
  A20Gate a20;
  I8042 keyboard;
  SystemControlA control_a;
  SystemControlB control_b;
  ResetControl reset;
  DebugPort debug_port;
  DebugExit debug_exit;
  PostPort post;
  InterruptLine ferr;
  bool ferr_level = false;
  bool ignne = false;
  CoprocessorLatch coprocessor;
  std::array<Timer*, 4> timers;
  BusMap map;
};

Board::Board(const BoardConfig& config, GuestRam& ram, TraceLog& trace)
    : config_(config), ram_(ram), trace_(trace), console_(config.console) {
  // The kernel may wake a sleeper 50 us late by default (prctl(2), PR_SET_TIMERSLACK); guests measure such things.
  ::prctl(PR_SET_TIMERSLACK, 1ul);
  if (config.timeout) timeout_at_ = monotonic_now() + *config.timeout;
  devices_ = std::make_unique<Devices>(*this);
}

Board::~Board() = default;

void Board::attach(Memory& memory) { memory_ = &memory; }

void Board::on_suspend(std::function<void()> before, std::function<void()> after) {
  before_suspend_ = std::move(before);
  after_suspend_ = std::move(after);
}

void Board::power_on() {
  devices_ = std::make_unique<Devices>(*this);
  if (memory_ != nullptr) memory_->set_a20(devices_->a20.enabled());
  stop_ = {};
  const AcpiPm::Config pm;
  write_acpi_tables(ram_, {acpi_pm, smi_command, pm.acpi_enable, pm.acpi_disable, 9, pm.sleep_type_s5});
  write_bios_data_area(ram_, com1);
}

u32 Board::io_read(u16 port, unsigned size) {
  const u32 value = devices_->map.io_read(port, size);
  // The receiver has room again: what the user typed or piped follows at once, not only at the next visit.
  if ((port & ~7u) == com1 && console_.has_input()) feed_uart();
  if (trace_.on(Trace::io)) trace_.write(Trace::io, fmt::format("read {:#06x} size {} = {:#x}", port, size, value));
  return value;
}

void Board::io_write(u16 port, unsigned size, u32 value) {
  if (trace_.on(Trace::io)) trace_.write(Trace::io, fmt::format("write {:#06x} size {} = {:#x}", port, size, value));
  devices_->map.io_write(port, size, value);
}

u64 Board::mmio_read(PhysAddr address, unsigned size) {
  const u64 value = devices_->map.mmio_read(address, size);
  if (trace_.on(Trace::mmio)) trace_.write(Trace::mmio, fmt::format("read {:#x} size {} = {:#x}", address.value, size, value));
  return value;
}

void Board::mmio_write(PhysAddr address, unsigned size, u64 value) {
  if (trace_.on(Trace::mmio)) trace_.write(Trace::mmio, fmt::format("write {:#x} size {} = {:#x}", address.value, size, value));
  devices_->map.mmio_write(address, size, value);
}

// Port 80h, which kernels write to in order to wait; 61h, which they read in loops: its counter has no interrupt.
bool Board::is_quiet(u16 port) const { return port == 0x80 || port == 0x61; }

bool Board::interrupt_requested() const { return devices_->pic.interrupt_requested(); }

u8 Board::acknowledge_interrupt() {
  const u8 vector = devices_->pic.acknowledge();
  if (trace_.on(Trace::irq)) trace_.write(Trace::irq, fmt::format("vector {:#04x}", vector));
  return vector;
}

void Board::service() {
  const Nanoseconds at = now();
  run_timers(at);
  if (at >= next_host_visit_) serve_host(at);
}

std::optional<Nanoseconds> Board::next_deadline() const {
  std::optional<Nanoseconds> first = timeout_at_;
  for (const Timer* timer : devices_->timers) {
    const auto deadline = timer->next_deadline();
    if (deadline && (!first || *deadline < *first)) first = deadline;
  }
  return first;
}

void Board::wait_for_event() {
  console_.flush();
  feed_uart();
  const bool sleeps = !stop_requested() && !interrupt_requested();
  // The host is asked only about what it reports ready: an idle guest's timer tick costs one system call here.
  if (sleeps ? sleep_until_event() : now() >= next_host_visit_) serve_host(now());
  run_timers(now());
}

bool Board::sleep_until_event() {
  poll_.clear();
  poll_.push_back({signals_.fd(), POLLIN, 0});
  console_.add_poll(poll_);
  const auto deadline = next_deadline();
  timespec wait{};
  if (deadline) {
    const Nanoseconds at = now();
    const Nanoseconds left = *deadline > at ? *deadline - at : 0;
    wait.tv_sec = static_cast<time_t>(left / 1'000'000'000);
    wait.tv_nsec = static_cast<long>(left % 1'000'000'000);
  }
  return ::ppoll(poll_.data(), poll_.size(), deadline ? &wait : nullptr, nullptr) > 0;
}

void Board::set_ferr(bool asserted) {
  // IRQ 13 is a latch: FERR#'s edge sets it, only port F0h clears it (IBM PC/AT Technical Reference, "Math Coprocessor Control").
  if (asserted && !devices_->ferr_level) devices_->ferr.set(true);
  devices_->ferr_level = asserted;
  if (!asserted) devices_->ignne = false;
}

// Asserted by a write to port F0h while FERR# is active, until FERR# goes away (SDM vol. 1, D.2.1.2).
bool Board::ignne() const { return devices_->ignne; }

const BusMap::Unknown& Board::unknown_ports() const { return devices_->map.unknown_ports(); }
const BusMap::Unknown& Board::unknown_memory() const { return devices_->map.unknown_memory(); }

Nanoseconds Board::now() const { return monotonic_now(); }

void Board::debug_byte(u8 byte) {
  // The port has no busy flag, so a byte that finds the queue full cannot wait.
  if (!console_.put(byte)) ++debug_bytes_lost_;
}

void Board::request_stop(StopCause cause, u32 value) {
  if (!stop_requested()) stop_ = {cause, value};
}

void Board::run_timers(Nanoseconds at) {
  for (Timer* timer : devices_->timers) {
    const auto deadline = timer->next_deadline();
    if (deadline && *deadline <= at) timer->run(at);
  }
  if (timeout_at_ && at >= *timeout_at_) request_stop(StopCause::timeout);
}

void Board::serve_host(Nanoseconds at) {
  next_host_visit_ = at + host_interval;
  take_signals();
  console_.pump();
  if (console_.quit_requested()) request_stop(StopCause::quit_key);
  if (devices_->uart.output_pending() && console_.can_put()) devices_->uart.output_ready();
  feed_uart();
}

void Board::take_signals() {
  while (const auto number = signals_.next()) {
    if (*number != SIGTSTP) {
      request_stop(StopCause::signal, static_cast<u32>(*number));
      continue;
    }
    if (before_suspend_) before_suspend_();
    ::raise(SIGSTOP);
    if (after_suspend_) after_suspend_();
  }
}

void Board::feed_uart() {
  while (console_.has_input() && devices_->uart.can_receive()) devices_->uart.receive(*console_.get());
}

}  // namespace ring3
