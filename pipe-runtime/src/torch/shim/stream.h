// Device streams and events, through libtorch's device-generic classes. No toolkit's headers are
// needed, and all accelerators that libtorch supports use the same code.
#pragma once

#include "shim.h"

#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

extern "C" {

// A stream by value: the fields of `c10::Stream::pack3`.
struct Stream {
  int64_t id;
  int64_t device_index;
  int64_t device_type;
};

} // extern "C"

namespace shim {

c10::Stream unpack(const Stream& stream);
Stream pack(const c10::Stream& stream);

// Converts tch's number for a device to the device.
c10::Device device_of(int number);

// Tells the allocator that work on `stream` uses the tensor's memory, which must not be reused
// before that work is done.
void record_use(const at::Tensor& tensor, const c10::Stream& stream);

// Guard that makes a stream and its device the thread's current ones, and restores the previous
// ones.
class OnStream {
 public:
  explicit OnStream(const c10::Stream& stream);
  ~OnStream();
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  c10::impl::VirtualGuardImpl guard;
  c10::Device device_before;
  c10::Stream stream_before;
};

} // namespace shim
