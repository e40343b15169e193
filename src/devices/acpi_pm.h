// ACPI fixed hardware: PM1a event and control blocks, power management timer, SMI command port (ACPI 6.4, 4.8.3.1-4.8.3.3 and 5.2.9).
//
// One register file of 12 ports; FADT values for a base address B: PM1a_EVT_BLK = B + 0 (length 4), PM1a_CNT_BLK = B + 4 (length 2),
// PM_TMR_BLK = B + 8 (length 4). No GPE, no PM1b, no PM2 block, no buttons or sleep states but S5.
#pragma once

#include "devices/clock.h"
#include "devices/interrupt_line.h"
#include "devices/io_device.h"
#include "devices/tick_rate.h"
#include "devices/timer.h"

#include <functional>

namespace ring3 {

class AcpiPm : public IoDevice, public Timer {
 public:
  static constexpr TickRate rate{3579545};
  static constexpr u32 port_count = 12;
  struct Config {
    unsigned timer_bits = 32;     // 24 or 32 (FADT flag TMR_VAL_EXT)
    u8 sleep_type_s5 = 5;         // SLP_TYPa of \_S5; any other type with SLP_EN is ignored
    u8 acpi_enable = 0xF1;        // value for the SMI command port that sets SCI_EN
    u8 acpi_disable = 0xF0;       // value that clears it
    bool starts_enabled = false;  // SCI_EN at power-on (then the FADT says SMI_CMD = 0)
  };
  struct State {
    u16 status = 0;
    u16 enable = 0;
    u16 control = 0;
    u8 last_command = 0;
    u64 seen_half_periods = 0;  // changes of the timer's most significant bit already reported in TMR_STS
  };

  // `sci` is the system control interrupt (level). `power_off` is called when the guest enters S5.
  AcpiPm(const Clock& clock, const Config& config, InterruptLine sci, std::function<void()> power_off);

  // 2 ports (B2h): command and a scratch status byte.
  [[nodiscard]] IoDevice& smi_ports() { return smi_ports_; }

  // A wide read of the timer is one sample.
  u32 read(u32 offset, unsigned size) override;
  void write(u32 offset, unsigned size, u32 value) override;

  [[nodiscard]] std::optional<Nanoseconds> next_deadline() const override;
  void run(Nanoseconds now) override;

  [[nodiscard]] const State& state() const { return s_; }
  void restore(const State& state);

 private:
  class SmiPorts : public ByteDevice {
   public:
    explicit SmiPorts(AcpiPm& owner) : owner_(owner) {}
    u8 read_byte(u32 offset) override;
    void write_byte(u32 offset, u8 value) override;

   private:
    AcpiPm& owner_;
    u8 scratch_ = 0;
  };

  [[nodiscard]] u64 ticks(Nanoseconds now) const { return rate.ticks_in(now - epoch_); }
  [[nodiscard]] u64 half_periods(Nanoseconds now) const { return ticks(now) >> (config_.timer_bits - 1); }
  [[nodiscard]] u8 register_byte(u32 offset, u32 timer) const;
  void write_byte(u32 offset, u8 value);
  void command(u8 value);
  void update_sci();

  const Clock& clock_;
  Config config_;
  InterruptLine sci_;
  std::function<void()> power_off_;
  Nanoseconds epoch_;
  State s_;
  SmiPorts smi_ports_;
};

}  // namespace ring3
