// Two Intel 8259A interrupt controllers, cascaded as in the PC/AT, with the edge/level control registers of the PCI chip sets.
// Sources: Intel 8259A data sheet (order number 231468); Intel 82371FB (PIIX) data sheet, ELCR1/ELCR2.
#pragma once

#include "base/types.h"
#include "devices/interrupt_line.h"
#include "devices/io_device.h"

#include <array>

namespace ring3 {

// One chip. A0 selects between the two ports.
class Pic8259 {
 public:
  struct State {
    u8 lines = 0;    // levels of IR0..IR7
    u8 latched = 0;  // edges seen and not yet acknowledged (edge-triggered inputs)
    u8 isr = 0;
    u8 imr = 0xFF;  // all masked until a guest initialises the chip
    u8 elcr = 0;    // 1: level-triggered
    u8 vector_base = 0;
    u8 lowest = 7;        // the input with the lowest priority
    u8 icw_expected = 0;  // 0: operational; 2..4: the next ICW
    bool icw4_needed = false;
    bool single = false;
    bool level_all = false;  // ICW1.LTIM
    bool auto_eoi = false;
    bool rotate_on_auto_eoi = false;
    bool special_fully_nested = false;
    bool special_mask = false;
    bool read_isr = false;
    bool poll = false;
  };

  // `elcr_writable`: inputs whose trigger mode may change. `cascade_inputs`: inputs with a slave on them.
  Pic8259(u8 vector_base, u8 elcr_writable, u8 cascade_inputs);

  void set_line(unsigned input, bool level);
  u8 read(bool a0);
  void write(bool a0, u8 value);
  [[nodiscard]] u8 read_elcr() const { return state_.elcr; }
  void write_elcr(u8 value) { state_.elcr = static_cast<u8>(value & elcr_writable_); }

  // INT output.
  [[nodiscard]] bool requesting() const { return pick() >= 0; }
  // INTA: moves the winning request into service and returns its input. `spurious` when the request has gone: the chip answers 7 and sets
  // no ISR bit (data sheet, "edge and level triggered modes").
  struct Acknowledged {
    unsigned input;
    bool spurious;
  };
  Acknowledged acknowledge();
  [[nodiscard]] u8 vector_base() const { return state_.vector_base; }

  [[nodiscard]] const State& state() const { return state_; }
  void restore(const State& state) { state_ = state; }

 private:
  [[nodiscard]] u8 level_mask() const { return state_.level_all ? u8{0xFF} : state_.elcr; }
  [[nodiscard]] u8 irr() const;
  [[nodiscard]] unsigned priority_of(unsigned input) const { return (input - state_.lowest - 1u) & 7u; }  // 0 is the highest
  [[nodiscard]] int highest_of(u8 bits) const;                                                            // input number or -1
  [[nodiscard]] int pick() const;  // input that would be acknowledged now, or -1
  void enter_service(unsigned input);
  void initialise(u8 icw1);
  void end_of_interrupt(u8 ocw2);

  State state_;
  u8 elcr_writable_;
  u8 cascade_inputs_;
};

class PicPair {
 public:
  struct State {
    Pic8259::State master, slave;
  };

  // `intr` follows the master's INT output.
  explicit PicPair(InterruptLine intr = {});
  PicPair(const PicPair&) = delete;
  PicPair& operator=(const PicPair&) = delete;

  // Input pin `irq` (0-15). Pin 2 is the cascade and ignored.
  void set_irq(unsigned irq, bool level);
  // The wire that ends at pin `irq`, to be handed to a device. The pair must outlive it.
  [[nodiscard]] InterruptLine line(unsigned irq);

  [[nodiscard]] bool interrupt_requested() const { return master_.requesting(); }
  // INTA cycles: the vector. Without a request it is the master's spurious vector (base + 7).
  u8 acknowledge();

  [[nodiscard]] IoDevice& master_ports() { return master_ports_; }  // 2 ports (20h)
  [[nodiscard]] IoDevice& slave_ports() { return slave_ports_; }    // 2 ports (A0h)
  [[nodiscard]] IoDevice& elcr_ports() { return elcr_ports_; }      // 2 ports (4D0h)

  [[nodiscard]] State state() const { return {master_.state(), slave_.state()}; }
  void restore(const State& state);

 private:
  class ChipPorts : public ByteDevice {
   public:
    ChipPorts(PicPair& pair, Pic8259& chip) : pair_(pair), chip_(chip) {}
    u8 read_byte(u32 offset) override;
    void write_byte(u32 offset, u8 value) override;

   private:
    PicPair& pair_;
    Pic8259& chip_;
  };
  class ElcrPorts : public ByteDevice {
   public:
    explicit ElcrPorts(PicPair& pair) : pair_(pair) {}
    u8 read_byte(u32 offset) override;
    void write_byte(u32 offset, u8 value) override;

   private:
    PicPair& pair_;
  };

  void update();  // slave INT -> master IR2, master INT -> INTR

  Pic8259 master_;
  Pic8259 slave_;
  InterruptLine intr_;
  ChipPorts master_ports_;
  ChipPorts slave_ports_;
  ElcrPorts elcr_ports_;
};

}  // namespace ring3
