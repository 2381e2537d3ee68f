// Transfers a value from one device to another.
#include "stream.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/alignment.h>

namespace {

// On the CPU, memory that an accelerator copies from or to without the host waiting is pinned.
at::Tensor pinned_like(const at::Tensor& value) {
  return at::empty_like(value, value.options().device(c10::kCPU).pinned_memory(true));
}

// If there are no streams for the transfer (a layer returned a tensor on a device that is not its
// stage's), or if the copy has several parts (a sparse tensor), the host waits before and after it,
// so nothing needs to be recorded.
at::Tensor copy_and_wait(const at::Tensor& value, c10::Device device) {
  if (!value.device().is_cpu()) {
    c10::impl::VirtualGuardImpl(value.device().type()).synchronizeDevice(value.device().index());
  }
  at::Tensor arrived = value.to(device);
  if (!device.is_cpu()) {
    c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
  }
  return arrived;
}

// A copy at an address with the same remainder by a cache line: with another one, libtorch's
// matrix products may round the last bit differently.
at::Tensor aligned_copy(const at::Tensor& value) {
  const auto remainder = reinterpret_cast<uintptr_t>(value.const_data_ptr()) % c10::gAlignment;
  const auto before = static_cast<int64_t>(remainder / value.element_size());
  at::Tensor memory = at::empty({value.numel() + before}, value.options());
  at::Tensor copy = value.is_non_overlapping_and_dense()
      ? memory.as_strided(value.sizes(), value.strides(), before)
      : memory.narrow(0, before, value.numel()).view(value.sizes());
  return copy.copy_(value);
}

} // namespace

extern "C" {

// Moves `value`, which is complete after `ready` (now, if that is null), to `device`. An
// accelerator that has the value copies on `from`, and one that receives it on `to`, and `consumer`
// waits for the end of the copy. If the CPU receives it, the host waits, so that the value can be
// read at once.
int pipe_transfer(
    const at::Tensor* value,
    const c10::Event* ready,
    const Stream* from,
    const Stream* to,
    const Stream* consumer,
    int device,
    at::Tensor** arrived) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    const c10::Device target = shim::device_of(device);
    const bool from_cpu = value->device().is_cpu();
    std::optional<c10::Stream> source, destination;
    if (from && !from_cpu) {
      source = shim::unpack(*from);
    }
    if (to && !target.is_cpu()) {
      destination = shim::unpack(*to);
    }
    const bool has_way = (from_cpu || (source && source->device() == value->device())) &&
        (target.is_cpu() || destination);
    if (!has_way || value->layout() != c10::kStrided) {
      *arrived = new at::Tensor(copy_and_wait(*value, target));
      return;
    }

    std::optional<shim::OnStream> on_source, on_destination;
    if (source) {
      on_source.emplace(*source);
      if (ready) {
        ready->block(*source);
      }
    }
    if (destination) {
      on_destination.emplace(*destination);
    }
    at::Tensor staged = *value;
    if (from_cpu && !value->is_pinned()) {
      staged = pinned_like(*value);
      staged.copy_(*value);
    }
    at::Tensor result = target.is_cpu() ? pinned_like(*value)
                                        : at::empty_like(*value, value->options().device(target));
    result.copy_(staged, /*non_blocking=*/true);

    c10::Event copied(target.is_cpu() ? source->device_type() : target.type());
    copied.record(target.is_cpu() ? *source : *destination);
    if (source) {
      shim::record_use(*value, *source);
    }
    if (target.is_cpu()) {
      copied.synchronize();
    } else {
      c10::Stream user = shim::unpack(*consumer);
      copied.block(user);
      shim::record_use(result, user);
    }
    *arrived = new at::Tensor(std::move(result));
  });
}

// Copies a tensor that is a part of one which takes at least twice its memory, so that it does not
// hold the rest. Otherwise, `compact` is the tensor itself.
int pipe_compact(const at::Tensor* value, at::Tensor** compact) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    const bool holds_more = value->layout() == c10::kStrided && value->has_storage() &&
        value->storage().nbytes() >= 2 * value->nbytes();
    *compact = new at::Tensor(holds_more ? aligned_copy(*value) : *value);
  });
}

} // extern "C"
