#include "machine/console.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>
#include <csignal>

namespace ring3 {
namespace {

struct Ends {
  Ends() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) == 0) {
      read = Fd(fds[0]);
      write = Fd(fds[1]);
    }
  }
  Fd read, write;
};

std::string drained(int fd) {
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string all;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(fd, buffer, sizeof buffer)) > 0;) all.append(buffer, static_cast<size_t>(n));
  return all;
}

std::string typed(Console& console) {
  std::string all;
  while (const auto byte = console.get()) all += static_cast<char>(*byte);
  return all;
}

TEST(Console, SaysFullInsteadOfLosingOutput) {
  Ends out;
  Console console({-1, out.write.get(), false});
  std::string sent;
  // A pipe holds 64 KiB; the queue is bounded too, so this ends.
  while (sent.size() < size_t{16} << 20 && console.put(static_cast<u8>('a' + sent.size() % 26)))
    sent += static_cast<char>('a' + sent.size() % 26);
  EXPECT_FALSE(console.can_put());
  EXPECT_LT(sent.size(), size_t{1} << 20);
  std::string got;
  for (int i = 0; i < 100 && got.size() < sent.size(); ++i) {
    got += drained(out.read.get());
    console.pump();
  }
  EXPECT_EQ(got, sent);
  EXPECT_TRUE(console.can_put());
}

TEST(Console, LeavesTheDescriptionBlocking) {
  Ends in, out;
  Console console({in.read.get(), out.write.get(), false});
  console.pump();
  EXPECT_EQ(::fcntl(in.read.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(out.write.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(Console, GoesOnWhenNobodyReadsAnyMore) {
  Ends out;
  ::signal(SIGPIPE, SIG_IGN);
  Console console({-1, out.write.get(), false});
  out.read.reset();
  for (int i = 0; i < 300000; ++i) EXPECT_TRUE(console.put('x'));
  EXPECT_TRUE(console.drain(0));
}

TEST(Console, StopsAskingAfterTheEndOfInput) {
  Ends in;
  Console console({in.read.get(), -1, false});
  ASSERT_EQ(::write(in.write.get(), "ab", 2), 2);
  in.write.reset();
  console.pump();
  EXPECT_EQ(typed(console), "ab");
  console.pump();
  EXPECT_EQ(typed(console), "");
  std::vector<pollfd> fds;
  console.add_poll(fds);
  EXPECT_TRUE(fds.empty());
}

TEST(Console, TakesNoMoreInputThanTheGuestReads) {
  Ends in;
  Console console({in.read.get(), -1, false});
  const std::string data(1000, 'z');
  ASSERT_EQ(::write(in.write.get(), data.data(), data.size()), 1000);
  console.pump();
  std::vector<pollfd> fds;
  console.add_poll(fds);
  EXPECT_TRUE(fds.empty());  // or waiting would spin
  std::string got;
  for (int i = 0; i < 100; ++i) {
    got += typed(console);
    console.pump();
  }
  EXPECT_EQ(got, data);
}

TEST(Console, EscapeKey) {
  Ends in, out;
  Console console({in.read.get(), out.write.get(), true});
  const std::string keys =
      "a\x01\x01"
      "b\x01h\x01?c";
  ASSERT_EQ(::write(in.write.get(), keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  console.pump();
  EXPECT_EQ(typed(console),
            "a\x01"
            "bc");
  EXPECT_NE(drained(out.read.get()).find("Ctrl-A x"), std::string::npos);
  EXPECT_FALSE(console.quit_requested());
  ASSERT_EQ(::write(in.write.get(), "\x01x", 2), 2);
  console.pump();
  EXPECT_TRUE(console.quit_requested());
}

TEST(Console, WithoutTheEscapeKeyBytesPassAsTheyAre) {
  Ends in;
  Console console({in.read.get(), -1, false});
  ASSERT_EQ(::write(in.write.get(), "\x01x", 2), 2);
  console.pump();
  EXPECT_EQ(typed(console), "\x01x");
  EXPECT_FALSE(console.quit_requested());
}

TEST(Console, WorksOnSockets) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const Fd ours(pair[0]), theirs(pair[1]);
  Console console({ours.get(), ours.get(), false});
  ASSERT_EQ(::write(theirs.get(), "in", 2), 2);
  EXPECT_TRUE(console.put('o'));
  console.pump();
  EXPECT_EQ(typed(console), "in");
  EXPECT_EQ(drained(theirs.get()), "o");
  size_t sent = 0;
  while (sent < size_t{16} << 20 && console.put('x')) ++sent;  // returns although the peer reads nothing
  EXPECT_FALSE(console.can_put());
}

}  // namespace
}  // namespace ring3
