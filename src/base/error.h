// Errors that end a run. Guest misbehaviour is never one of these: it becomes a guest exception.
#pragma once

#include <stdexcept>
#include <string>

namespace ring3 {

// Bad input from the user: one line that says what, where and how to mend it. The command line prints it and exits 2.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A bug in ring3 itself (a broken invariant). Printed with the last guest state.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

}  // namespace ring3
