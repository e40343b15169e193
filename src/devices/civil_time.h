// Proleptic Gregorian calendar <-> days since 1970-01-01, valid for years 0-9999.
#pragma once

#include "base/types.h"

namespace ring3 {

struct CivilDate {
  i64 year;
  unsigned month;  // 1-12
  unsigned day;    // 1-31
};

[[nodiscard]] constexpr bool is_leap(i64 year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

[[nodiscard]] constexpr unsigned days_in_month(i64 year, unsigned month) {
  if (month == 2) return is_leap(year) ? 29 : 28;
  return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

// Days from 0000-01-01 to January 1st of `year`.
[[nodiscard]] constexpr i64 days_before_year(i64 year) {
  if (year <= 0) return 0;
  const i64 last = year - 1;
  return 366 + last * 365 + last / 4 - last / 100 + last / 400;  // year 0 is a leap year
}

[[nodiscard]] constexpr i64 days_from_civil(const CivilDate& date) {
  i64 days = days_before_year(date.year) - days_before_year(1970);
  for (unsigned month = 1; month < date.month; ++month) days += days_in_month(date.year, month);
  return days + date.day - 1;
}

[[nodiscard]] constexpr CivilDate civil_from_days(i64 days) {
  const i64 since_zero = days + days_before_year(1970);
  i64 year = since_zero / 366;  // never too late
  while (days_before_year(year + 1) <= since_zero) ++year;
  unsigned rest = static_cast<unsigned>(since_zero - days_before_year(year));
  unsigned month = 1;
  while (rest >= days_in_month(year, month)) rest -= days_in_month(year, month++);
  return {year, month, rest + 1};
}

// 1 = Sunday, as the MC146818 counts. 1970-01-01 was a Thursday.
[[nodiscard]] constexpr unsigned weekday_from_days(i64 days) { return static_cast<unsigned>(((days + 4) % 7 + 7) % 7) + 1; }

}  // namespace ring3
