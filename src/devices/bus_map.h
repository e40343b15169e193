// Port and MMIO dispatch by address range. Knows addresses but no particular device.
#pragma once

#include "base/types.h"
#include "devices/io_device.h"
#include "guest/address.h"

#include <array>
#include <map>
#include <vector>

namespace ring3 {

class BusMap {
 public:
  // How often the guest touched addresses where nothing is. Distinct addresses are listed up to a limit, so that a guest cannot make the
  // lists grow; the rest is only counted.
  struct Unknown {
    static constexpr std::size_t listed_max = 256;
    std::map<u64, u64> reads;   // address -> accesses
    std::map<u64, u64> writes;  // address -> accesses
    u64 unlisted = 0;
  };

  BusMap();

  // Ports [base, base + count) become `device`'s offsets [first_offset, first_offset + count). The device must outlive the map.
  // Throws InternalError when a port is taken already or the range leaves the 64 KiB of port space.
  void add_ports(u16 base, u32 count, IoDevice& device, u32 first_offset = 0);
  // Guest physical [base, base + size), likewise. Accesses of 8 bytes reach the device as two of 4, low half first.
  void add_memory(PhysAddr base, u64 size, IoDevice& device);

  // `size` is 1, 2 or 4. An access that begins in a device's range and runs past its end is split into byte cycles, each to its own port,
  // as the ISA bridge does. One that begins where nothing is belongs to nobody as a whole: a doubleword at CF8h must not reach the reset
  // register at CF9h (Intel ICH data sheet: RST_CNT answers byte accesses only). Nobody's bytes read as FFh, beyond FFFFh too.
  u32 io_read(u16 port, unsigned size);
  void io_write(u16 port, unsigned size, u32 value);

  // `size` is 1, 2, 4 or 8. An access not wholly inside one range is nobody's.
  u64 mmio_read(PhysAddr address, unsigned size);
  void mmio_write(PhysAddr address, unsigned size, u64 value);

  [[nodiscard]] const Unknown& unknown_ports() const { return unknown_ports_; }
  [[nodiscard]] const Unknown& unknown_memory() const { return unknown_memory_; }

 private:
  struct PortRange {
    u16 base;
    u32 count;
    IoDevice* device;
    u32 first_offset;
  };
  struct MemoryRange {
    u64 base;
    u64 size;
    IoDevice* device;
  };

  [[nodiscard]] const PortRange* find_port(u32 port) const;
  [[nodiscard]] const MemoryRange* find_memory(u64 address, unsigned size) const;

  std::vector<PortRange> ranges_;
  std::vector<u8> range_of_port_;  // 65536 entries: index into ranges_ + 1; 0: nobody
  std::vector<MemoryRange> memory_;
  Unknown unknown_ports_;
  Unknown unknown_memory_;
};

}  // namespace ring3
