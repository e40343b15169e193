// What the translator hands to the code cache.
#pragma once

#include "base/types.h"

#include <vector>

namespace ring3 {

// Where a guest instruction's host code starts. Everything from one point to the next belongs to that instruction; the last point of a
// block stands for "behind the last instruction".
struct InsnPoint {
  u32 host_offset = 0;      // from the block's first host byte
  u16 guest_offset = 0;     // from the block's first guest byte
  i8 esp_pending = 0;       // the guest's esp here is r12 and this
  bool emitted = true;      // false: the point leads to the interpreter
  bool rep_string = false;  // may hand over to the interpreter between two iterations
  bool shadowed = false;    // follows an STI of the same block: no interrupt comes in before it
  bool moves_fip = false;   // emitted x87 code but control instructions: FIP is stored later in the block, before it can be left
  bool segment = false;     // follows a way out of the block: executions are counted anew from here on
};

enum class ExitKind : u8 {
  jump,
  call,        // a CALL of the host for a guest's CALL, with the displacement that leads to its target
  table_call,  // the same by the jump table: the `lea r9` in front of it, which the code cache may overwrite; there is no stub
  landing,     // the jump behind either of these to the code at the return address, whose jump-table slot leads to the landing
  landing_in,  // the same where that code follows in the block: a jump to the stub is written over it when the block dies
};

// A direct jump whose target lies in the same guest page: `patch_offset` is the 4-byte displacement of a host jump, which leads to the
// stub at `stub_offset` until the code cache links it. A landing comes right behind its call in the list.
struct DirectExit {
  u32 patch_offset = 0;
  u32 stub_offset = 0;
  u32 number_offset = 0;  // 4-byte immediate in the stub: the exit's number, filled in by the code cache
  u32 target = 0;         // linear address
  ExitKind kind = ExitKind::jump;
  u8 loop_offset = 0;  // where it may lead if that is its own block: so many bytes behind the start
};

// A place where emitted code asks the runtime to interpret the instruction at `point`.
struct InterpretSite {
  u32 number_offset = 0;  // 4-byte immediate: the site's number, filled in by the code cache
  u32 point = 0;          // index into `points`
};

struct TranslatedBlock {
  std::vector<u8> code;
  std::vector<InsnPoint> points;
  std::vector<DirectExit> exits;
  std::vector<InterpretSite> interpret_sites;
  // Offsets of 4-byte immediates that are a linear address near the block: they change with it when the block's page appears elsewhere.
  std::vector<u32> addresses;
  bool near_jumps = true;  // every direct jump and call leads less than 128 MiB away
  bool uses_fpu = false;
  bool uses_x87 = false;  // or MMX

  void clear() {
    code.clear();
    points.clear();
    exits.clear();
    interpret_sites.clear();
    addresses.clear();
    near_jumps = true;
    uses_fpu = uses_x87 = false;
  }
};

}  // namespace ring3
