#include "devices/rtc.h"

#include "devices/civil_time.h"

#include <algorithm>

namespace ring3 {

namespace {

enum Register : unsigned {
  seconds_reg = 0,
  seconds_alarm = 1,
  minutes_reg = 2,
  minutes_alarm = 3,
  hours_reg = 4,
  hours_alarm = 5,
  weekday_reg = 6,
  day_reg = 7,
  month_reg = 8,
  year_reg = 9,
  reg_a = 10,
  reg_b = 11,
  reg_c = 12,
  reg_d = 13,
  century_reg = 0x32,
};

enum : u8 { b_24h = 0x02, b_binary = 0x04, b_update = 0x10, b_alarm = 0x20, b_periodic = 0x40, b_set = 0x80 };
enum : u8 { c_update = 0x10, c_alarm = 0x20, c_periodic = 0x40, c_irq = 0x80 };
constexpr u8 a_uip = 0x80;
constexpr u8 d_valid = 0x80;

constexpr Nanoseconds second = 1'000'000'000;
// UIP rises 244 us before the update cycle, which takes 1984 us with a 32.768 kHz crystal (data sheet, table 6). The registers change at
// its end.
constexpr Nanoseconds update_in_progress = 2'228'000;
// The first update after the divider was released comes half a second later (data sheet, "Divider control").
constexpr Nanoseconds divider_release = second / 2;

bool is_time_register(unsigned index) {
  return index <= year_reg ? index != seconds_alarm && index != minutes_alarm && index != hours_alarm : index == century_reg;
}

void store16(std::array<u8, 128>& cmos, unsigned low, u64 value) {
  cmos[low] = static_cast<u8>(value);
  cmos[low + 1] = static_cast<u8>(value >> 8);
}

}  // namespace

Rtc::Rtc(const Clock& clock, InterruptLine irq8, i64 unix_nanoseconds, u64 ram_bytes)
    : clock_(clock), irq_(std::move(irq8)), epoch_(clock.now()) {
  const i64 unix_seconds = std::max<i64>(unix_nanoseconds, 0) / static_cast<i64>(second);
  s_.seconds = unix_seconds;
  s_.updated_at = epoch_ - static_cast<Nanoseconds>(std::max<i64>(unix_nanoseconds, 0)) % second;
  s_.cmos[reg_a] = 0x26;  // 32.768 kHz, 1024 Hz periodic rate: how firmware leaves it
  s_.cmos[reg_b] = b_24h;
  s_.cmos[reg_d] = d_valid;

  constexpr u64 kib = 1024;
  constexpr u64 mib = 1024 * kib;
  const u64 extended_kib = ram_bytes > mib ? std::min<u64>((ram_bytes - mib) / kib, 0xFFFF) : 0;
  const u64 above_16m = ram_bytes > 16 * mib ? std::min<u64>((ram_bytes - 16 * mib) / (64 * kib), 0xFFFF) : 0;
  s_.cmos[0x14] = 0x02;  // equipment: FPU; no diskette, no pointing device
  store16(s_.cmos, 0x15, std::min<u64>(ram_bytes / kib, 640));
  store16(s_.cmos, 0x17, extended_kib);
  store16(s_.cmos, 0x30, extended_kib);
  store16(s_.cmos, 0x34, above_16m);
  u32 sum = 0;
  for (unsigned i = 0x10; i <= 0x2D; ++i) sum += s_.cmos[i];
  s_.cmos[0x2E] = static_cast<u8>(sum >> 8);  // this one is stored high byte first
  s_.cmos[0x2F] = static_cast<u8>(sum);
  show_time();
}

bool Rtc::divider_held() const { return (s_.cmos[reg_a] & 0x60) == 0x60; }

bool Rtc::updates_inhibited() const { return (s_.cmos[reg_b] & b_set) != 0 || divider_held(); }

// Data sheet, table 5 (32.768 kHz column): rates 1 and 2 repeat 8 and 9.
u64 Rtc::period_ticks() const {
  const unsigned select = s_.cmos[reg_a] & 15u;
  if (select == 0 || divider_held()) return 0;
  return u64{1} << (select <= 2 ? select + 6 : select - 1);
}

u8 Rtc::encode(unsigned value) const {
  value %= 100;
  return static_cast<u8>((s_.cmos[reg_b] & b_binary) ? value : value / 10 << 4 | value % 10);
}

unsigned Rtc::decode(u8 value) const { return (s_.cmos[reg_b] & b_binary) ? value : (value >> 4) * 10u + (value & 15u); }

u8 Rtc::encode_hour(unsigned hour) const {
  if (s_.cmos[reg_b] & b_24h) return encode(hour);
  const unsigned twelve = hour % 12 == 0 ? 12 : hour % 12;
  return static_cast<u8>(encode(twelve) | (hour >= 12 ? 0x80 : 0));
}

unsigned Rtc::decode_hour(u8 value) const {
  if (s_.cmos[reg_b] & b_24h) return decode(value) % 24;
  return decode(value & 0x7F) % 12 + ((value & 0x80) ? 12 : 0);
}

void Rtc::show_time() {
  const i64 days = s_.seconds / 86400;
  const unsigned rest = static_cast<unsigned>(s_.seconds % 86400);
  const CivilDate date = civil_from_days(days);
  const unsigned year = static_cast<unsigned>(date.year);
  s_.cmos[seconds_reg] = encode(rest % 60);
  s_.cmos[minutes_reg] = encode(rest / 60 % 60);
  s_.cmos[hours_reg] = encode_hour(rest / 3600);
  s_.cmos[weekday_reg] = encode((weekday_from_days(days) - 1 + s_.weekday_shift) % 7 + 1);
  s_.cmos[day_reg] = encode(date.day);
  s_.cmos[month_reg] = encode(date.month);
  s_.cmos[year_reg] = encode(year % 100);
  s_.cmos[century_reg] = encode(year / 100);
}

// Values that are no date are brought into range; the chip promises nothing for them. Years before 1970 count as 1970.
void Rtc::take_time() {
  CivilDate date{};
  date.year = static_cast<i64>(decode(s_.cmos[century_reg]) % 100 * 100 + decode(s_.cmos[year_reg]) % 100);
  date.year = std::max<i64>(date.year, 1970);
  date.month = std::clamp(decode(s_.cmos[month_reg]), 1u, 12u);
  date.day = std::clamp(decode(s_.cmos[day_reg]), 1u, days_in_month(date.year, date.month));
  const i64 days = days_from_civil(date);
  s_.seconds = days * 86400 + i64{decode_hour(s_.cmos[hours_reg])} * 3600 + i64{decode(s_.cmos[minutes_reg]) % 60} * 60 +
               decode(s_.cmos[seconds_reg]) % 60;
  s_.weekday_shift = static_cast<u8>((decode(s_.cmos[weekday_reg]) + 14 - weekday_from_days(days)) % 7);
}

// Alarm bytes with both upper bits set match everything (data sheet, "Alarm").
bool Rtc::alarm_matches(i64 seconds) const {
  const unsigned rest = static_cast<unsigned>(seconds % 86400);
  const auto matches = [](u8 alarm, u8 now) { return (alarm & 0xC0) == 0xC0 || alarm == now; };
  return matches(s_.cmos[seconds_alarm], encode(rest % 60)) && matches(s_.cmos[minutes_alarm], encode(rest / 60 % 60)) &&
         matches(s_.cmos[hours_alarm], encode_hour(rest / 3600));
}

void Rtc::update_irq() {
  u8& flags = s_.cmos[reg_c];
  const bool irq = (flags & s_.cmos[reg_b] & (c_update | c_alarm | c_periodic)) != 0;
  flags = static_cast<u8>((flags & ~c_irq) | (irq ? c_irq : 0));
  irq_.set(irq);
}

void Rtc::run(Nanoseconds now) {
  if (const u64 period = period_ticks(); static_cast<i64>(now - epoch_) > 0) {
    const u64 ticks = rate.ticks_in(now - epoch_);
    if (period != 0 && ticks / period > s_.periodic_ticks / period) s_.cmos[reg_c] |= c_periodic;
    s_.periodic_ticks = std::max(s_.periodic_ticks, ticks);
  }
  if (const i64 behind = static_cast<i64>(now - s_.updated_at); behind >= static_cast<i64>(second)) {
    const i64 updates = behind / static_cast<i64>(second);
    s_.updated_at += static_cast<Nanoseconds>(updates) * second;
    if (!updates_inhibited()) {
      // After a long pause one flag of each kind is all the chip could hold; a day covers every alarm time.
      for (i64 i = std::max<i64>(updates - 86400, 0) + 1; i <= updates && !(s_.cmos[reg_c] & c_alarm); ++i)
        if (alarm_matches(s_.seconds + i)) s_.cmos[reg_c] |= c_alarm;
      s_.seconds += updates;
      s_.cmos[reg_c] |= c_update;
      show_time();
    }
  }
  update_irq();
}

std::optional<Nanoseconds> Rtc::next_deadline() const {
  std::optional<Nanoseconds> deadline;
  const u8 enabled = s_.cmos[reg_b];
  const u8 flags = s_.cmos[reg_c];
  if (const u64 period = period_ticks(); period != 0 && (enabled & b_periodic) && !(flags & c_periodic))
    deadline = epoch_ + rate.time_of((s_.periodic_ticks / period + 1) * period);
  const bool waits_for_update = ((enabled & b_update) && !(flags & c_update)) || ((enabled & b_alarm) && !(flags & c_alarm));
  if (waits_for_update && !updates_inhibited()) {
    const Nanoseconds update = s_.updated_at + second;
    if (!deadline || static_cast<i64>(update - *deadline) < 0) deadline = update;
  }
  return deadline;
}

u8 Rtc::read_byte(u32 offset) {
  if ((offset & 1) == 0) return 0xFF;  // the index register is write-only
  return read_cmos(clock_.now(), s_.index & 0x7Fu);
}

void Rtc::write_byte(u32 offset, u8 value) {
  if ((offset & 1) == 0)
    s_.index = value;
  else
    write_cmos(clock_.now(), s_.index & 0x7Fu, value);
}

u8 Rtc::read_cmos(Nanoseconds now, unsigned index) {
  run(now);
  u8 value = s_.cmos[index];
  if (index == reg_a) {
    const bool updating = !updates_inhibited() && s_.updated_at + second - now <= update_in_progress;
    if (updating) value |= a_uip;
  } else if (index == reg_c) {
    s_.cmos[reg_c] = 0;  // reading acknowledges
    update_irq();
  }
  return value;
}

void Rtc::write_cmos(Nanoseconds now, unsigned index, u8 value) {
  run(now);
  switch (index) {
    case reg_a: {
      const bool was_held = divider_held();
      s_.cmos[reg_a] = value & 0x7F;
      if (was_held && !divider_held()) s_.updated_at = now + divider_release - second;
      break;
    }
    case reg_b: {
      const bool was_set = (s_.cmos[reg_b] & b_set) != 0;
      if (value & b_set) value &= static_cast<u8>(~b_update);  // SET clears UIE
      // Bytes written under SET are taken in the data mode that holds when SET ends.
      s_.cmos[reg_b] = value;
      if (was_set && !(value & b_set)) take_time();
      if (!(value & b_set)) show_time();
      break;
    }
    case reg_c:
    case reg_d: return;
    default:
      s_.cmos[index] = value;
      if (is_time_register(index) && !(s_.cmos[reg_b] & b_set)) take_time();
      break;
  }
  update_irq();
}

void Rtc::restore(const State& state) {
  s_ = state;
  update_irq();
}

}  // namespace ring3
