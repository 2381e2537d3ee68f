#include "stream.h"

#include <ATen/Context.h>

namespace shim {

c10::Stream unpack(const Stream& stream) {
  return c10::Stream::unpack3(
      stream.id,
      static_cast<c10::DeviceIndex>(stream.device_index),
      static_cast<c10::DeviceType>(stream.device_type));
}

Stream pack(const c10::Stream& stream) {
  return {stream.id(), stream.device_index(), static_cast<int64_t>(stream.device_type())};
}

c10::Device device_of(int number) {
  switch (number) {
    case -1:
      return c10::Device(c10::kCPU);
    case -2:
      return c10::Device(c10::kMPS, 0);
    case -3:
      return c10::Device(c10::kVulkan, 0);
    default:
      return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(number));
  }
}

void record_use(const at::Tensor& tensor, const c10::Stream& stream) {
  if (!tensor.defined() || tensor.device() != stream.device()) {
    return;
  }
  if (tensor.is_sparse()) {
    record_use(tensor._indices(), stream);
    record_use(tensor._values(), stream);
  } else if (tensor.has_storage()) {
    c10::impl::VirtualGuardImpl(stream.device_type())
        .recordDataPtrOnStream(tensor.storage().data_ptr(), stream);
  }
}

OnStream::OnStream(const c10::Stream& stream)
    : guard(stream.device_type()),
      device_before(guard.exchangeDevice(stream.device())),
      stream_before(guard.exchangeStream(stream)) {
  // A thread has no CUDA context until its first call that needs one. If that call is cuBLAS's,
  // libtorch warns and makes one; an event needs one too.
  thread_local bool has_context = false;
  if (!has_context) {
    c10::Event(stream.device_type()).record(stream);
    has_context = true;
  }
}

OnStream::~OnStream() {
  guard.exchangeStream(stream_before);
  guard.uncheckedSetDevice(device_before);
}

} // namespace shim

using shim::pack;
using shim::unpack;

extern "C" {

// Takes a stream from the device's pool, or its default stream if it has no pool.
int pipe_stream_new(int device, Stream* stream) {
  return shim::guarded([&] {
    c10::Device on = shim::device_of(device);
    at::globalContext().lazyInitDevice(on.type());
    // The node of a call is on the caller's stream, and the parameters' leaves are on the streams
    // of the stages that used them first. The engine makes the second wait for the first, which is
    // right, but it would warn.
    at::globalContext().setWarnOnAccumulateGradStreamMismatch(false);
    c10::impl::VirtualGuardImpl guard(on.type());
    try {
      *stream = pack(guard.getStreamFromGlobalPool(on));
    } catch (const c10::Error&) {
      *stream = pack(guard.getDefaultStream(on));
    }
  });
}

// Writes the stream that this thread uses on the device of `of`.
int pipe_stream_current(const Stream* of, Stream* current) {
  return shim::guarded([&] {
    c10::Stream like = unpack(*of);
    *current = pack(c10::impl::VirtualGuardImpl(like.device_type()).getStream(like.device()));
  });
}

int pipe_stream_enter(const Stream* stream, shim::OnStream** entered) {
  return shim::guarded([&] { *entered = new shim::OnStream(unpack(*stream)); });
}

void pipe_stream_leave(shim::OnStream* entered) {
  delete entered;
}

// Records an event after the work that is queued on the stream.
int pipe_event_record(const Stream* stream, c10::Event** event) {
  return shim::guarded([&] {
    c10::Stream on = unpack(*stream);
    auto fresh = std::make_unique<c10::Event>(on.device_type());
    fresh->record(on);
    *event = fresh.release();
  });
}

void pipe_event_free(c10::Event* event) {
  delete event;
}

// Makes work that is queued on the stream from now on wait for the event. The host does not wait.
int pipe_stream_wait(const Stream* stream, const c10::Event* event) {
  return shim::guarded([&] { event->block(unpack(*stream)); });
}

// Writes the toolkit's own handle of the stream: a `cudaStream_t`.
int pipe_stream_handle(const Stream* stream, void** handle) {
  return shim::guarded([&] { *handle = unpack(*stream).native_handle(); });
}

// Writes whether all work before the event is done. The host does not wait.
int pipe_event_is_past(const c10::Event* event, bool* is_past) {
  return shim::guarded([&] { *is_past = event->query(); });
}

int pipe_stream_uses(const Stream* stream, const at::Tensor* tensor) {
  return shim::guarded([&] { shim::record_use(*tensor, unpack(*stream)); });
}

} // extern "C"
