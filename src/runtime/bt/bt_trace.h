// The lines that the translating engine writes for --trace. Callers ask Vcpu::traces() first.
#pragma once

#include "base/log.h"
#include "codecache/code_cache.h"
#include "guest/cpu_state.h"
#include "runtime/bt/host_fault.h"

namespace ring3 {

// A block was installed.
void trace_block(TraceLog& log, const Block& block, u64 cache_base);
// A write to code or the flush of the full cache killed `killed` blocks.
void trace_invalidation(TraceLog& log, PhysAddr address, u32 size, u64 killed);
void trace_flush(TraceLog& log, u64 killed);
// Emitted code came back; `s` as the exit stub left it. `fault` is meaningful for host faults only.
void trace_exit(TraceLog& log, CodeCache& cache, const CpuState& s, const HostFault& fault);

}  // namespace ring3
