#include "devices/acpi_pm.h"

namespace ring3 {

namespace {

// PM1 status and enable (ACPI 6.4, tables 4.13 and 4.14).
constexpr u16 tmr = 1u << 0;
constexpr u16 status_bits = 0x8731;  // WAK RTC SLPBTN PWRBTN GBL BM TMR
constexpr u16 enable_bits = 0x0721;  // RTC SLPBTN PWRBTN GBL TMR
// PM1 control (table 4.15).
constexpr u16 sci_en = 1u << 0;
constexpr u16 bm_rld = 1u << 1;
constexpr u16 slp_typ = 7u << 10;
constexpr u16 slp_en = 1u << 13;

}  // namespace

AcpiPm::AcpiPm(const Clock& clock, const Config& config, InterruptLine sci, std::function<void()> power_off)
    : clock_(clock), config_(config), sci_(std::move(sci)), power_off_(std::move(power_off)), epoch_(clock.now()), smi_ports_(*this) {
  if (config_.starts_enabled) s_.control = sci_en;
}

u32 AcpiPm::read(u32 offset, unsigned size) {
  const Nanoseconds now = clock_.now();
  run(now);
  u64 timer = ticks(now);
  if (config_.timer_bits < 32) timer &= (u64{1} << config_.timer_bits) - 1;
  u32 value = 0;
  for (unsigned i = 0; i < size; ++i) value |= u32{register_byte(offset + i, static_cast<u32>(timer))} << (8 * i);
  return value;
}

u8 AcpiPm::register_byte(u32 offset, u32 timer) const {
  const unsigned shift = 8 * (offset & 1);
  if (offset < 2) return static_cast<u8>(s_.status >> shift);
  if (offset < 4) return static_cast<u8>(s_.enable >> shift);
  if (offset < 6) return static_cast<u8>(s_.control >> shift);
  if (offset >= 8 && offset < 12) return static_cast<u8>(timer >> (8 * (offset - 8)));
  return 0;
}

void AcpiPm::write(u32 offset, unsigned size, u32 value) {
  run(clock_.now());
  for (unsigned i = 0; i < size; ++i) write_byte(offset + i, static_cast<u8>(value >> (8 * i)));
  update_sci();
}

void AcpiPm::write_byte(u32 offset, u8 value) {
  const unsigned shift = 8 * (offset & 1);
  const u16 keep = static_cast<u16>(shift ? 0x00FF : 0xFF00);
  const u16 placed = static_cast<u16>(u32{value} << shift);
  if (offset < 2) {
    s_.status &= static_cast<u16>(~placed | ~status_bits);  // write 1 to clear
  } else if (offset < 4) {
    s_.enable = static_cast<u16>((s_.enable & keep) | (placed & enable_bits));
  } else if (offset < 6) {
    // SCI_EN belongs to the firmware, SLP_EN and GBL_RLS read as 0.
    s_.control = static_cast<u16>((s_.control & (keep | sci_en)) | (placed & (bm_rld | slp_typ)));
    if ((placed & slp_en) && ((s_.control & slp_typ) >> 10) == config_.sleep_type_s5) power_off_();
  }
}

std::optional<Nanoseconds> AcpiPm::next_deadline() const {
  if ((s_.status & tmr) || !(s_.enable & tmr) || !(s_.control & sci_en)) return std::nullopt;
  return epoch_ + rate.time_of((s_.seen_half_periods + 1) << (config_.timer_bits - 1));
}

void AcpiPm::run(Nanoseconds now) {
  if (static_cast<i64>(now - epoch_) < 0) return;
  const u64 halves = half_periods(now);
  if (halves <= s_.seen_half_periods) return;
  s_.seen_half_periods = halves;
  s_.status |= tmr;
  update_sci();
}

void AcpiPm::update_sci() { sci_.set((s_.control & sci_en) && (s_.status & s_.enable & enable_bits)); }

void AcpiPm::command(u8 value) {
  s_.last_command = value;
  if (value == config_.acpi_enable) s_.control |= sci_en;
  if (value == config_.acpi_disable) s_.control &= static_cast<u16>(~sci_en);
  update_sci();
}

void AcpiPm::restore(const State& state) {
  s_ = state;
  epoch_ = clock_.now() - rate.time_of(s_.seen_half_periods << (config_.timer_bits - 1));
  update_sci();
}

u8 AcpiPm::SmiPorts::read_byte(u32 offset) { return (offset & 1) ? scratch_ : owner_.s_.last_command; }

void AcpiPm::SmiPorts::write_byte(u32 offset, u8 value) {
  if (offset & 1)
    scratch_ = value;
  else
    owner_.command(value);
}

}  // namespace ring3
