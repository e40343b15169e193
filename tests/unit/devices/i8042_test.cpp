// Expected values: IBM PC/AT and PS/2 technical references.
#include "devices/i8042.h"

#include "fakes.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace ring3 {
namespace {

using test::in;
using test::out;

class Keyboard : public ::testing::Test {
 protected:
  test::Wire irq1;
  std::vector<bool> a20_changes;
  A20Gate a20{[this](bool on) { a20_changes.push_back(on); }};
  unsigned resets = 0;
  I8042 device{irq1.line(), a20, [this] { ++resets; }};

  u8 status() { return in(device, 1); }
  void command(u8 value) { out(device, 1, value); }
  void send(u8 value) { out(device, 0, value); }
  std::optional<u8> receive() {
    if ((status() & 1) == 0) return std::nullopt;
    return in(device, 0);
  }
  std::vector<u8> drain() {
    std::vector<u8> bytes;
    while (const auto byte = receive()) bytes.push_back(*byte);
    return bytes;
  }
  using Bytes = std::vector<u8>;
};

TEST_F(Keyboard, StatusAfterFirmware) {
  EXPECT_EQ(status(), 0x14);  // system flag, not locked, nothing to read
  command(0x20);
  EXPECT_EQ(status(), 0x1D);  // last write went to the command port
  EXPECT_EQ(receive(), 0x65);
}

TEST_F(Keyboard, SelfAndInterfaceTests) {
  command(0xAA);
  EXPECT_EQ(receive(), 0x55);
  command(0xAB);
  EXPECT_EQ(receive(), 0x00);
  command(0xA9);
  const auto aux = receive();
  ASSERT_TRUE(aux.has_value());
  EXPECT_NE(*aux, 0x00);
}

TEST_F(Keyboard, CommandByte) {
  command(0x60);
  send(0x74);
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x74});
  command(0x60);
  send(0x40);
  EXPECT_EQ(status() & 0x04, 0);
}

TEST_F(Keyboard, InterruptFollowsTheCommandByte) {
  command(0x60);
  send(0x44);  // no interrupt
  send(0xEE);
  EXPECT_FALSE(irq1.level);
  EXPECT_EQ(receive(), 0xEE);
  command(0x60);
  send(0x45);
  send(0xEE);
  EXPECT_TRUE(irq1.level);
  in(device, 0);
  EXPECT_FALSE(irq1.level);
}

TEST_F(Keyboard, EveryByteIsAnEdge) {
  send(0xFF);
  EXPECT_EQ(irq1.rises, 1u);
  EXPECT_EQ(in(device, 0), 0xFA);
  EXPECT_EQ(irq1.rises, 2u);
  EXPECT_EQ(in(device, 0), 0xAA);
  EXPECT_EQ(irq1.rises, 2u);
}

TEST_F(Keyboard, KeyboardCommands) {
  send(0xFF);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xAA}));
  send(0xED);
  EXPECT_EQ(drain(), Bytes{0xFA});
  send(0x07);
  EXPECT_EQ(drain(), Bytes{0xFA});
  EXPECT_EQ(device.state().leds, 7);
  send(0xF3);
  send(0x00);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA}));
  send(0xEE);
  EXPECT_EQ(drain(), Bytes{0xEE});
  send(0xFE);
  EXPECT_EQ(drain(), Bytes{0xEE});
  send(0xF4);
  send(0xF5);  // its answer replaces the first: the keyboard's buffer is cleared, but FAh already sits in the controller
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA}));
  send(0xF6);
  EXPECT_EQ(drain(), Bytes{0xFA});
  send(0x01);
  EXPECT_EQ(drain(), Bytes{0xFE});  // not a command: resend
}

TEST_F(Keyboard, IdentifyIsTranslated) {
  send(0xF2);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xAB, 0x41}));
  command(0x60);
  send(0x05);
  send(0xF2);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xAB, 0x83}));
}

TEST_F(Keyboard, ScanCodeSets) {
  command(0x60);
  send(0x05);
  send(0xF0);
  send(0x00);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA, 0x02}));
  send(0xF0);
  send(0x03);
  send(0xF0);
  send(0x00);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA, 0xFA, 0xFA, 0x03}));
  send(0xF0);
  send(0x04);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFE}));
}

TEST_F(Keyboard, CommandInsteadOfAnArgument) {
  send(0xED);
  send(0xF4);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA}));
  EXPECT_EQ(device.state().leds, 0);
}

TEST_F(Keyboard, KeysAreTranslated) {
  const Bytes a_down{0x1C}, a_up{0xF0, 0x1C}, right_ctrl_up{0xE0, 0xF0, 0x14};
  EXPECT_TRUE(device.key(a_down));
  EXPECT_TRUE(device.key(a_up));
  EXPECT_TRUE(device.key(right_ctrl_up));
  EXPECT_EQ(drain(), (Bytes{0x1E, 0x9E, 0xE0, 0x9D}));
}

TEST_F(Keyboard, KeysWaitWhileTheInterfaceIsOff) {
  const Bytes enter{0x5A};
  command(0xAD);
  EXPECT_TRUE(device.key(enter));
  EXPECT_EQ(drain(), Bytes{});
  command(0xAE);
  EXPECT_EQ(drain(), Bytes{0x1C});
  send(0xF5);  // scanning off
  drain();
  EXPECT_FALSE(device.key(enter));
}

TEST_F(Keyboard, SendingToTheKeyboardOpensTheInterface) {
  command(0xAD);
  send(0xEE);
  EXPECT_EQ(drain(), Bytes{0xEE});
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x65});
}

TEST_F(Keyboard, KeyBufferIsBounded) {
  const Bytes key{0x1C};
  unsigned taken = 0;
  while (device.key(key)) ASSERT_LT(++taken, 100u);
  EXPECT_EQ(drain().size(), taken);
}

TEST_F(Keyboard, AnUnreadKeyGoesBeforeAnAnswer) {
  const Bytes key{0x1C};
  device.key(key);
  command(0xAA);
  EXPECT_EQ(drain(), (Bytes{0x1E, 0x55}));
}

// The probe sequence for an auxiliary port: no answer marked as auxiliary, and an error from the interface test, with nothing left over.
TEST_F(Keyboard, AuxiliaryProbeEndsAtOnce) {
  command(0xD3);
  send(0x5A);
  EXPECT_EQ(status() & 0x21, 0x01);
  command(0xA9);
  EXPECT_EQ(drain(), Bytes{0x01});
  command(0xD4);
  send(0xF2);
  EXPECT_EQ(status() & 0x61, 0x61);  // auxiliary data with a time-out
  EXPECT_EQ(drain(), Bytes{0xFE});
}

TEST_F(Keyboard, WriteOutputBuffer) {
  command(0xD2);
  send(0x77);
  EXPECT_TRUE(irq1.level);
  EXPECT_EQ(drain(), Bytes{0x77});
}

TEST_F(Keyboard, A20) {
  EXPECT_TRUE(a20.enabled());
  command(0xD1);
  send(0xDD);
  EXPECT_FALSE(a20.enabled());
  command(0xD0);
  const auto port = receive();
  ASSERT_TRUE(port.has_value());
  EXPECT_EQ(*port & 3, 1);
  command(0xD1);
  send(0xDF);
  EXPECT_TRUE(a20.enabled());
  EXPECT_EQ(a20_changes, (std::vector<bool>{false, true}));
  EXPECT_EQ(resets, 0u);
}

TEST_F(Keyboard, Resets) {
  command(0xFE);
  EXPECT_EQ(resets, 1u);
  command(0xFF);  // pulses nothing
  EXPECT_EQ(resets, 1u);
  command(0xD1);
  send(0xDE);
  EXPECT_EQ(resets, 2u);
}

}  // namespace
}  // namespace ring3
