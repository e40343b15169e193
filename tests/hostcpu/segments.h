// Local descriptor tables full of useful segments, and choices among them.
#pragma once

#include "executor.h"
#include "values.h"

namespace ring3::hostcpu {

// Fills the table: every kind of data, stack and code segment that modify_ldt makes, with bases and limits such that borders of segments
// lie in and around the data pages, and those of code segments around the code page.
void make_ldt(Values& values, Ldt& ldt);

// Segments a program can start in. `code32` is CS.D then.
void choose_segments(Values& values, const Ldt& ldt, Program& program);
void flat_segments(Program& program);

// Selectors that a program may try to load; `code` and `stack` prefer what can be loaded there. Never one of 64-bit code for `code`.
[[nodiscard]] u16 any_selector(Values& values);
[[nodiscard]] u16 code_target(Values& values);
[[nodiscard]] u16 stack_target(Values& values);

}  // namespace ring3::hostcpu
