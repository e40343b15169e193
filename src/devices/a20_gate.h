// The A20 gate of the PC/AT: keyboard controller output port bit 1 OR port 92h bit 1 lets address bit 20 through (Intel ICH data sheet,
// "A20GATE" and "FAST_A20": either source enables).
#pragma once

#include <functional>
#include <utility>

namespace ring3 {

class A20Gate {
 public:
  enum class Source { keyboard_controller, port92 };

  // `on_change` hears the combined state when it changes. At power-on the keyboard controller enables it, as firmware leaves a PC.
  explicit A20Gate(std::function<void(bool)> on_change) : on_change_(std::move(on_change)) {}

  void set(Source source, bool enabled) {
    const bool before = this->enabled();
    (source == Source::port92 ? port92_ : keyboard_) = enabled;
    if (this->enabled() != before && on_change_) on_change_(this->enabled());
  }
  [[nodiscard]] bool enabled() const { return keyboard_ || port92_; }

 private:
  std::function<void(bool)> on_change_;
  bool keyboard_ = true;
  bool port92_ = false;
};

}  // namespace ring3
