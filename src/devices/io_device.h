// The face of everything that answers port or MMIO accesses. A device knows offsets into its own register file, never an address.
#pragma once

#include "base/types.h"

namespace ring3 {

class IoDevice {
 public:
  virtual ~IoDevice() = default;
  // `offset` + `size` lies inside the range the device was registered with; `size` is 1, 2 or 4. Any value is legal: the guest is hostile.
  virtual u32 read(u32 offset, unsigned size) = 0;
  virtual void write(u32 offset, unsigned size, u32 value) = 0;
};

// A device with an 8-bit data bus. The ISA bridge splits wider accesses into byte cycles at ascending addresses.
class ByteDevice : public IoDevice {
 public:
  u32 read(u32 offset, unsigned size) final {
    u32 value = 0;
    for (unsigned i = 0; i < size; ++i) value |= u32{read_byte(offset + i)} << (8 * i);
    return value;
  }
  void write(u32 offset, unsigned size, u32 value) final {
    for (unsigned i = 0; i < size; ++i) write_byte(offset + i, static_cast<u8>(value >> (8 * i)));
  }

 protected:
  virtual u8 read_byte(u32 offset) = 0;
  virtual void write_byte(u32 offset, u8 value) = 0;
};

}  // namespace ring3
