// What a build with sanitizers cannot do.
#pragma once

namespace ring3 {

// AddressSanitizer's shadow lies in the host's low 4 GiB, where one window may be (docs/architecture.md), and it does not see what emitted
// code accesses, so such a build interprets only. GCC says so by a macro, Clang by a feature test.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool address_sanitizer = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool address_sanitizer = true;
#else
inline constexpr bool address_sanitizer = false;
#endif
#else
inline constexpr bool address_sanitizer = false;
#endif

}  // namespace ring3
