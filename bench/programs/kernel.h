// The work of kernel.c's table. Each does `count` operations and returns how many of them did what they should.
#pragma once

#include "program.h"

// The path of the program itself, which fork+exec starts; PATH-pie is the same as a dynamic position-independent program.
extern char self[256];

// system_calls.c
u32 getpid_int80(u32 count);
u32 getpid_vdso(u32 count);
u32 clock_vdso(u32 count);
u32 clock_call(u32 count);
u32 read_write(u32 count);
u32 yield(u32 count);
u32 signal_round_trip(u32 count);
u32 fault_handler(u32 count);
u32 files(u32 count);

// processes.c
u32 ping_pong(u32 count);  // round trips
u32 fork_exit(u32 count);
u32 exec_static(u32 count);
u32 exec_dynamic(u32 count);
u32 map_touch(u32 count);  // pages

// processes.c: the same operation with more of something.
u32 hops_2(u32 count);  // a byte handed from process to process, among so many
u32 hops_64(u32 count);
u32 exec_4(u32 count);  // fork+exec by so many live processes in turn
u32 exec_16(u32 count);
u32 exec_64(u32 count);
u32 touch_16m(u32 count);  // pages touched first in a mapping so large
u32 touch_64m(u32 count);
