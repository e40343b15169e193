// Port accesses to all devices of the board, as a guest may make them: any order, size and value, while timers run, the serial line has
// input without end and interrupts are taken. Each step is 8 bytes: what, size, port (2), value (4).
#include "fuzz/invariant.h"
#include "machine/board.h"
#include "machine/memory_map.h"
#include "runtime/memory/ram.h"

#include <fcntl.h>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <span>

namespace ring3::fuzz {
namespace {

constexpr u16 debug_exit_port = 0x501;
constexpr u16 device_ports[] = {0x20,  0x21,  0xA0,  0xA1,  0x4D0, 0x4D1, 0x40,  0x41,  0x42,  0x43,  0x60,  0x61,
                                0x64,  0x70,  0x71,  0x80,  0x92,  0xB2,  0xB3,  0xE9,  0xF0,  0xF1,  0x3F8, 0x3F9,
                                0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FE, 0x3FF, 0x600, 0x602, 0x604, 0x608, 0xCF9, debug_exit_port};

enum class What : u8 { read, write, write_again, service, interrupt, ferr, device_memory, any_port, count };

struct Step {
  u8 what;
  u8 size;
  u16 port;
  u32 value;
};

class Guest {
 public:
  Guest() : zero_(::open("/dev/zero", O_RDONLY | O_CLOEXEC)), null_(::open("/dev/null", O_WRONLY | O_CLOEXEC)) {
    require(zero_.valid() && null_.valid(), "the host has /dev/zero and /dev/null");
    BoardConfig config;
    config.debug_exit = debug_exit_port;
    config.console = {zero_.get(), null_.get(), false};
    board_ = std::make_unique<Board>(config, ram_, trace_);
  }

  void run(std::span<const u8> data) {
    board_->power_on();
    for (; data.size() >= sizeof(Step); data = data.subspan(sizeof(Step))) {
      Step step{};
      std::memcpy(&step, data.data(), sizeof step);
      act(step);
      // The CPU stops before its next instruction.
      if (board_->stop_requested()) board_->power_on();
    }
    require(board_->unknown_ports().reads.size() <= BusMap::Unknown::listed_max, "lists of what nobody answers are bounded");
  }

 private:
  void act(const Step& step) {
    const unsigned size = 1u << (step.size % 3);
    const u16 known = device_ports[step.port % std::size(device_ports)];
    switch (static_cast<What>(step.what % static_cast<u8>(What::count))) {
      case What::read: read(known, size); break;
      case What::write: board_->io_write(known, size, step.value); break;
      case What::write_again:
        for (u32 i = 0; i < 64 && !board_->stop_requested(); ++i) board_->io_write(known, size, step.value + i);
        break;
      case What::service: board_->service(); break;
      case What::interrupt:
        if (board_->interrupt_requested()) static_cast<void>(board_->acknowledge_interrupt());
        break;
      case What::ferr: board_->set_ferr((step.value & 1) != 0); break;
      case What::device_memory:
        static_cast<void>(board_->mmio_read(PhysAddr{step.value}, size * 2));
        board_->mmio_write(PhysAddr{step.value}, size * 2, ~u64{step.value});
        break;
      case What::any_port:
        read(step.port, size);
        board_->io_write(step.port, size, step.value);
        break;
      case What::count: break;
    }
  }

  void read(u16 port, unsigned size) {
    const u32 value = board_->io_read(port, size);
    require(size == 4 || value >> (8 * size) == 0, "a read is not wider than asked");
  }

  Fd zero_, null_;
  GuestRam ram_{minimum_ram};
  TraceLog trace_;
  std::unique_ptr<Board> board_;
};

}  // namespace
}  // namespace ring3::fuzz

extern "C" int LLVMFuzzerTestOneInput(const ring3::u8* data, std::size_t size) {
  if (size < sizeof(ring3::fuzz::Step)) return -1;
  static ring3::fuzz::Guest guest;
  guest.run({data, size});
  return 0;
}
