#include "devices/bus_map.h"

#include "base/error.h"

namespace ring3 {

namespace {

constexpr u32 port_space = 0x10000;

u64 all_ones(unsigned size) { return size >= 8 ? ~u64{0} : (u64{1} << (8 * size)) - 1; }

void count(BusMap::Unknown& unknown, std::map<u64, u64>& list, u64 address) {
  auto found = list.find(address);
  if (found != list.end())
    ++found->second;
  else if (list.size() < BusMap::Unknown::listed_max)
    list.emplace(address, 1);
  else
    ++unknown.unlisted;
}

}  // namespace

BusMap::BusMap() : range_of_port_(port_space, u8{0}) {}

void BusMap::add_ports(u16 base, u32 count, IoDevice& device, u32 first_offset) {
  if (count == 0 || base + count > port_space) throw InternalError("port range outside port space");
  if (ranges_.size() >= 255) throw InternalError("too many port ranges");
  for (u32 port = base; port < base + count; ++port)
    if (range_of_port_[port] != 0) throw InternalError("port range overlaps another device");
  ranges_.push_back({base, count, &device, first_offset});
  for (u32 port = base; port < base + count; ++port) range_of_port_[port] = static_cast<u8>(ranges_.size());
}

void BusMap::add_memory(PhysAddr base, u64 size, IoDevice& device) {
  if (size == 0 || size > (u64{1} << 32) || base.value + size < base.value) throw InternalError("memory range is empty or too large");
  for (const MemoryRange& range : memory_)
    if (base.value < range.base + range.size && range.base < base.value + size) throw InternalError("memory range overlaps another device");
  memory_.push_back({base.value, size, &device});
}

const BusMap::PortRange* BusMap::find_port(u32 port) const {
  if (port >= port_space || range_of_port_[port] == 0) return nullptr;
  return &ranges_[range_of_port_[port] - 1u];
}

const BusMap::MemoryRange* BusMap::find_memory(u64 address, unsigned size) const {
  for (const MemoryRange& range : memory_)
    if (address >= range.base && address - range.base < range.size && size <= range.size - (address - range.base)) return &range;
  return nullptr;
}

u32 BusMap::io_read(u16 port, unsigned size) {
  const PortRange* range = find_port(port);
  if (range == nullptr) {
    count(unknown_ports_, unknown_ports_.reads, port);
    return static_cast<u32>(all_ones(size));
  }
  const u32 offset = u32{port} - range->base;
  if (offset + size <= range->count) return range->device->read(range->first_offset + offset, size);
  u32 value = 0;
  for (unsigned i = 0; i < size; ++i) {
    const PortRange* part = find_port(u32{port} + i);
    const u32 byte = part != nullptr ? part->device->read(part->first_offset + port + i - part->base, 1) & 0xFF : 0xFF;
    value |= byte << (8 * i);
  }
  return value;
}

void BusMap::io_write(u16 port, unsigned size, u32 value) {
  value &= static_cast<u32>(all_ones(size));
  const PortRange* range = find_port(port);
  if (range == nullptr) {
    count(unknown_ports_, unknown_ports_.writes, port);
    return;
  }
  const u32 offset = u32{port} - range->base;
  if (offset + size <= range->count) {
    range->device->write(range->first_offset + offset, size, value);
    return;
  }
  for (unsigned i = 0; i < size; ++i) {
    const PortRange* part = find_port(u32{port} + i);
    if (part != nullptr) part->device->write(part->first_offset + port + i - part->base, 1, (value >> (8 * i)) & 0xFF);
  }
}

u64 BusMap::mmio_read(PhysAddr address, unsigned size) {
  const MemoryRange* range = find_memory(address.value, size);
  if (range == nullptr) {
    count(unknown_memory_, unknown_memory_.reads, address.value);
    return all_ones(size);
  }
  const u32 offset = static_cast<u32>(address.value - range->base);
  if (size < 8) return range->device->read(offset, size);
  const u64 low = range->device->read(offset, 4);
  return low | u64{range->device->read(offset + 4, 4)} << 32;
}

void BusMap::mmio_write(PhysAddr address, unsigned size, u64 value) {
  const MemoryRange* range = find_memory(address.value, size);
  if (range == nullptr) {
    count(unknown_memory_, unknown_memory_.writes, address.value);
    return;
  }
  const u32 offset = static_cast<u32>(address.value - range->base);
  range->device->write(offset, size < 8 ? size : 4, static_cast<u32>(value & all_ones(size < 8 ? size : 4)));
  if (size == 8) range->device->write(offset + 4, 4, static_cast<u32>(value >> 32));
}

}  // namespace ring3
