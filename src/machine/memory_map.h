// The guest's physical memory map, as the loaders report it to the guest and as they fill it themselves.
#pragma once

#include "base/types.h"

#include <string>
#include <string_view>
#include <vector>

namespace ring3 {

// Types of INT 15h AX=E820h (ACPI specification, 15.1), which both boot protocols use.
enum class RangeType : u32 { usable = 1, reserved = 2, acpi_reclaimable = 3, acpi_nvs = 4 };

struct MemoryRange {
  u64 base = 0;
  u64 size = 0;
  RangeType type = RangeType::usable;
  [[nodiscard]] u64 end() const { return base + size; }
};

// Fixed places below 1 MiB.
namespace low_memory {
inline constexpr u32 first_free = 0x1000;   // above the interrupt vectors and the BIOS data area
inline constexpr u32 ebda = 0x9FC00;        // extended BIOS data area, 1 KiB
inline constexpr u32 video_hole = 0xA0000;  // no memory is reported up to firmware
inline constexpr u32 firmware = 0xF0000;    // ACPI tables; RSDP is searched here (ACPI specification, 5.2.5.1)
inline constexpr u32 extended = 0x100000;
}  // namespace low_memory

// Below this the machine makes no sense: ACPI tables and boot structures fill the first MiB, kernels start at the second.
inline constexpr u64 minimum_ram = u64{2} << 20;
inline constexpr u64 maximum_ram = u64{3} << 30;

// The map for `ram_bytes` of RAM (minimum_ram..maximum_ram), ascending.
[[nodiscard]] std::vector<MemoryRange> memory_map(u64 ram_bytes);

// Which usable memory a boot loader has given away. Every piece that goes to guest memory is claimed here first, so that hostile headers
// can neither leave RAM nor overlap each other.
class Placement {
 public:
  explicit Placement(u64 ram_bytes);

  // Takes exactly [base, base + size). Throws UserError "<what>: ..." when it is not usable memory or already taken by something else.
  void claim(u64 base, u64 size, const std::string& what);
  // Lowest or highest free place of `size` bytes in [from, to), aligned to `align` (a power of two), claimed. Throws UserError when there
  // is none.
  [[nodiscard]] u32 take_low(u64 size, u64 from, u64 to, u64 align, const std::string& what);
  [[nodiscard]] u32 take_high(u64 size, u64 from, u64 to, u64 align, const std::string& what);

  [[nodiscard]] u64 ram_bytes() const { return ram_bytes_; }

 private:
  struct Taken {
    u64 base;
    u64 end;
    std::string what;
  };
  // Throws what says why [.., to) has no place for `what`.
  [[noreturn]] void no_place(u64 size, u64 to, const std::string& what) const;
  // Free gaps inside [from, to), ascending.
  [[nodiscard]] std::vector<MemoryRange> gaps(u64 from, u64 to) const;

  u64 ram_bytes_;
  std::vector<Taken> taken_;  // ascending, disjoint; holes of the map are in it from the start
};

}  // namespace ring3
