// The host's low 4 GiB + 64 KiB, kept empty: an empty soft-table entry turns a guest's linear address into a host address there, and the
// access must fault (translator/contract.h).
#pragma once

namespace ring3 {

// Reserves what of it is free, without memory behind it, so that no later mapping of this process can land there. Once per process; calls
// after the first do nothing. Throws UserError if something is mapped there already or the host refuses.
void reserve_low_memory();

}  // namespace ring3
