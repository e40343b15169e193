// The board: every device, where it is on the bus, who drives which interrupt, the host's console and the reasons to stop.
#pragma once

#include "base/log.h"
#include "base/signal.h"
#include "devices/bus.h"
#include "devices/bus_map.h"
#include "devices/clock.h"
#include "devices/serial_sink.h"
#include "machine/console.h"

#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace ring3 {

class GuestRam;
class Memory;

enum class StopCause : u8 { none, power_off, reset, debug_exit, timeout, quit_key, signal };

struct StopRequest {
  StopCause cause = StopCause::none;
  u32 value = 0;  // debug_exit: (v << 1) | 1; signal: its number
};

struct BoardConfig {
  std::optional<u16> debug_exit;       // first of its 4 ports
  std::optional<Nanoseconds> timeout;  // run time allowed, from the board's construction
  Console::Settings console;
};

class Board final : public Bus, private Clock, private SerialSink {
 public:
  // Port addresses (IBM PC/AT; isa-debug-exit's is the user's choice).
  static constexpr u16 com1 = 0x3F8;
  static constexpr u16 acpi_pm = 0x600;
  static constexpr u16 smi_command = 0xB2;

  // Throws UserError when the debug exit port collides with a device.
  Board(const BoardConfig& config, GuestRam& ram, TraceLog& trace);
  ~Board() override;

  // Whom the A20 gate goes to; the memory is made after the board.
  void attach(Memory& memory);
  // Called around a stop of the process by SIGTSTP (restores the terminal), and when it goes on.
  void on_suspend(std::function<void()> before, std::function<void()> after);
  // All devices as after power-on, firmware tables written into RAM, stop requests forgotten. The console and the timeout go on.
  void power_on();

  // --- Bus ---
  u32 io_read(u16 port, unsigned size) override;
  void io_write(u16 port, unsigned size, u32 value) override;
  u64 mmio_read(PhysAddr address, unsigned size) override;
  void mmio_write(PhysAddr address, unsigned size, u64 value) override;
  [[nodiscard]] bool interrupt_requested() const override;
  [[nodiscard]] bool is_quiet(u16 port) const override;
  u8 acknowledge_interrupt() override;
  void service() override;
  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override;
  void wait_for_event() override;
  [[nodiscard]] bool stop_requested() const override { return stop_.cause != StopCause::none; }
  void set_ferr(bool asserted) override;
  [[nodiscard]] bool ignne() const override;

  // The first request since power_on().
  [[nodiscard]] const StopRequest& stop() const { return stop_; }
  // At the end of the run: see Console::drain. False: output was given up.
  bool drain_console(Nanoseconds patience) { return console_.drain(patience); }
  // Accesses to addresses where nothing is, since power_on().
  [[nodiscard]] const BusMap::Unknown& unknown_ports() const;
  [[nodiscard]] const BusMap::Unknown& unknown_memory() const;
  // Bytes written to port E9h that stdout could not take.
  [[nodiscard]] u64 debug_bytes_lost() const { return debug_bytes_lost_; }

 private:
  struct Devices;

  [[nodiscard]] Nanoseconds now() const override;
  bool send(u8 byte) override { return console_.put(byte); }
  void debug_byte(u8 byte);
  void request_stop(StopCause cause, u32 value = 0);
  void run_timers(Nanoseconds at);
  void serve_host(Nanoseconds at);
  // True: the host has input, room for output or a signal for us.
  bool sleep_until_event();
  void take_signals();
  void feed_uart();

  BoardConfig config_;
  GuestRam& ram_;
  TraceLog& trace_;
  TerminationSignals signals_;
  Console console_;
  std::optional<Nanoseconds> timeout_at_;
  Nanoseconds next_host_visit_ = 0;
  std::vector<pollfd> poll_;  // kept for its memory
  StopRequest stop_;
  Memory* memory_ = nullptr;
  std::function<void()> before_suspend_;
  std::function<void()> after_suspend_;
  u64 debug_bytes_lost_ = 0;
  std::unique_ptr<Devices> devices_;
};

}  // namespace ring3
