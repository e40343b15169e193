#include "devices/debug_exit.h"
#include "devices/debug_port.h"
#include "devices/reset_control.h"
#include "devices/system_control.h"
#include "fakes.h"

#include <gtest/gtest.h>

namespace ring3 {
namespace {

using test::in;
using test::out;

TEST(DebugPort, PassesBytesAndIsDetectable) {
  std::string text;
  DebugPort port{[&text](u8 byte) { text.push_back(static_cast<char>(byte)); }};
  out(port, 0, 'o');
  out(port, 0, 'k');
  EXPECT_EQ(text, "ok");
  EXPECT_EQ(in(port, 0), 0xE9);
}

TEST(DebugExit, OddCodes) {
  std::vector<u32> codes;
  DebugExit device{[&codes](u32 code) { codes.push_back(code); }};
  device.write(0, 1, 0);
  device.write(0, 4, 0x10);
  device.write(0, 4, 0xFFFFFFFF);
  EXPECT_EQ(codes, (std::vector<u32>{1, 0x21, 0xFFFFFFFF}));
}

TEST(ResetControl, ResetsOnTheRisingBit) {
  unsigned resets = 0;
  ResetControl device{[&resets] { ++resets; }};
  out(device, 0, 0x02);
  EXPECT_EQ(in(device, 0), 0x02);
  EXPECT_EQ(resets, 0u);
  out(device, 0, 0x06);
  EXPECT_EQ(resets, 1u);
  out(device, 0, 0x06);
  EXPECT_EQ(resets, 1u);
  out(device, 0, 0x00);
  out(device, 0, 0x04);
  EXPECT_EQ(resets, 2u);
}

TEST(SystemControlA, A20AndFastReset) {
  std::vector<bool> changes;
  A20Gate a20{[&changes](bool on) { changes.push_back(on); }};
  unsigned resets = 0;
  SystemControlA port{a20, [&resets] { ++resets; }};
  EXPECT_EQ(in(port, 0), 0x00);
  a20.set(A20Gate::Source::keyboard_controller, false);
  out(port, 0, 0xFE);
  EXPECT_EQ(in(port, 0), 0x02);
  EXPECT_TRUE(a20.enabled());
  out(port, 0, 0x00);
  EXPECT_FALSE(a20.enabled());
  EXPECT_EQ(changes, (std::vector<bool>{false, true, false}));
  EXPECT_EQ(resets, 0u);
  out(port, 0, 0x01);
  out(port, 0, 0x03);
  EXPECT_EQ(resets, 1u);
}

// Either source lets bit 20 through.
TEST(A20Gate, IsAnOr) {
  A20Gate a20{{}};
  a20.set(A20Gate::Source::port92, true);
  a20.set(A20Gate::Source::keyboard_controller, false);
  EXPECT_TRUE(a20.enabled());
}

}  // namespace
}  // namespace ring3
