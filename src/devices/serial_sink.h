// Where a serial port's output goes.
#pragma once

#include "base/types.h"

namespace ring3 {

class SerialSink {
 public:
  virtual ~SerialSink() = default;
  // Takes one byte, or returns false when there is no room now; the port then keeps the byte and offers it again. Must not block.
  virtual bool send(u8 byte) = 0;
};

}  // namespace ring3
