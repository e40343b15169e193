#include "runtime/bt/bt_trace.h"

#include <fmt/format.h>

#include "translator/contract.h"

namespace ring3 {

void trace_block(TraceLog& log, const Block& block, u64 cache_base) {
  log.write(Trace::blocks,
            fmt::format("{:08x} physical {:08x} mode {:#x}: {} instructions, {} bytes to {} at {:#x}", block.key.linear, block.key.physical,
                        block.key.mode, block.insn_count(), block.guest_length, block.host_size, cache_base + block.host_offset));
}

void trace_invalidation(TraceLog& log, PhysAddr address, u32 size, u64 killed) {
  log.write(Trace::invalidate, fmt::format("write to physical {:08x} size {}: {} blocks", address.value, size, killed));
}

void trace_flush(TraceLog& log, u64 killed) { log.write(Trace::invalidate, fmt::format("cache emptied: {} blocks", killed)); }

void trace_exit(TraceLog& log, CodeCache& cache, const CpuState& s, const HostFault& fault) {
  using contract::ExitReason;
  // EIP is stale where the runtime finds the instruction by the block's map.
  const auto address = [](const CodeCache::Site& site) {
    return site.block == nullptr ? 0 : site.block->key.linear + site.block->point(site.point).guest_offset;
  };
  switch (static_cast<ExitReason>(s.link.exit_reason)) {
    case ExitReason::lookup: log.write(Trace::exits, fmt::format("look-up of {:08x}", s.eip)); break;
    case ExitReason::link: log.write(Trace::exits, fmt::format("link {} to {:08x}", s.link.exit_argument, s.eip)); break;
    case ExitReason::interpret: {
      const CodeCache::Site site = cache.interpret_site(static_cast<u32>(s.link.exit_argument));
      log.write(Trace::exits, fmt::format("interpret {:08x}", address(site)));
      break;
    }
    case ExitReason::boundary: break;  // while exits are traced, emitted code leaves before it calls
    case ExitReason::miss:
      log.write(Trace::exits, fmt::format("miss at {:08x}", address(cache.find_host(s.link.exit_argument - 1))));
      break;
    case ExitReason::host_fault: {
      const std::string where = fault.address_known ? fmt::format("{:#x}", fault.address) : std::string("an address not told");
      log.write(Trace::exits, fmt::format("host fault {} at {:08x}: {}{}", fault.signal, address(cache.find_host(fault.pc)), where,
                                          s.link.poll == 0 ? ", poll" : ""));
      break;
    }
  }
}

}  // namespace ring3
