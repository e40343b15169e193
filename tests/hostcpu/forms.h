// Every encoding of every row, found by asking the decoder about the whole opcode space.
#pragma once

#include "frontend/decoder.h"
#include "frontend/rows.h"

#include <array>
#include <vector>

namespace ring3::hostcpu {

// One opcode with its prefixes. A row's forms differ in operand size, direction, immediates, REP.
struct Form {
  std::array<u8, 5> bytes{};  // prefixes, escapes, opcode
  u8 length = 0;
  std::vector<u8> modrm;  // those that mean this row; empty: the opcode has no ModRM
};

class Forms {
 public:
  explicit Forms(const Decoder& decoder);
  [[nodiscard]] const std::vector<Form>& of(Row row) const { return forms_[static_cast<unsigned>(row)]; }

 private:
  std::array<std::vector<Form>, row_count> forms_;
};

}  // namespace ring3::hostcpu
