// Instructions that hosts may have and the guest's default CPU does not announce: the guest must see what a CPU without them does.
#pragma once

#include "base/types.h"

#include <span>
#include <string_view>

namespace ring3::hostcpu {

enum class Unannounced : u8 {
  no,         // the host is the judge
  undefined,  // #UD for the guest
  older,      // an older instruction with a prefix that means nothing to it: the decoder must see that one
};

struct UnannouncedInfo {
  Unannounced kind = Unannounced::no;
  std::string_view reason;
};

// `bytes` starts with the prefixes.
[[nodiscard]] UnannouncedInfo unannounced(std::span<const u8> bytes);

// Instructions that reach the hypervisor under the host, so that they cannot be judged.
[[nodiscard]] bool leaves_the_host(std::span<const u8> bytes);

}  // namespace ring3::hostcpu
