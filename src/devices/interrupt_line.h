// The wire from a device's interrupt output to whatever is at its other end.
#pragma once

#include <functional>
#include <utility>

namespace ring3 {

class InterruptLine {
 public:
  InterruptLine() = default;  // not connected
  explicit InterruptLine(std::function<void(bool)> sink) : sink_(std::move(sink)) {}

  // Drives the wire; the sink hears of changes only.
  void set(bool level) {
    if (level == level_) return;
    level_ = level;
    if (sink_) sink_(level);
  }
  // A low-to-high edge whatever the level was; the wire stays high.
  void raise_edge() {
    set(false);
    set(true);
  }
  [[nodiscard]] bool level() const { return level_; }

 private:
  std::function<void(bool)> sink_;
  bool level_ = false;
};

}  // namespace ring3
