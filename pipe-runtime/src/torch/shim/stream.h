// Streams and events of accelerators, through libtorch's device-generic classes. No toolkit's
// headers are needed, and every accelerator that libtorch supports takes the same path.
#pragma once

#include "shim.h"

#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

extern "C" {

// A stream by value, in the form of `c10::Stream::pack3`.
struct Stream {
  int64_t id;
  int64_t device_index;
  int64_t device_type;
};

} // extern "C"

namespace shim {

c10::Stream unpack(const Stream& stream);
Stream pack(const c10::Stream& stream);

// The device with tch's number.
c10::Device device_of(int number);

// Records in the allocator that work on `stream` uses the tensor's memory, which must not be reused
// before that work is done.
void record_use(const at::Tensor& tensor, const c10::Stream& stream);

// Makes a stream and its device current for the thread, and restores the previous ones.
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
