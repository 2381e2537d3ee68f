// Memory statistics of an accelerator's allocator: current values and peaks.
#include "stream.h"

#include <c10/core/CachingDeviceAllocator.h>

namespace {

// Null if the device's allocator does not count, or if the device was not used yet.
c10::DeviceAllocator* counting_allocator(c10::Device device) {
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  return allocator && allocator->initialized() ? allocator : nullptr;
}

} // namespace

extern "C" {

// All values are in bytes.
struct Memory {
  int64_t allocated;
  int64_t peak_allocated;
  int64_t reserved;
  int64_t peak_reserved;
};

// Writes whether the device's allocator counts and, if it does, its numbers.
int pipe_memory(int device, int* counted, Memory* memory) {
  return shim::guarded([&] {
    c10::Device on = shim::device_of(device);
    auto* allocator = counting_allocator(on);
    *counted = allocator != nullptr;
    if (allocator) {
      auto stats = allocator->getDeviceStats(on.index());
      const auto& allocated =
          stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
      const auto& reserved =
          stats.reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
      *memory = {allocated.current, allocated.peak, reserved.current, reserved.peak};
    }
  });
}

// Restarts the peaks from what is allocated now.
int pipe_memory_reset_peaks(int device) {
  return shim::guarded([&] {
    c10::Device on = shim::device_of(device);
    if (auto* allocator = counting_allocator(on)) {
      allocator->resetPeakStats(on.index());
    }
  });
}

} // extern "C"
