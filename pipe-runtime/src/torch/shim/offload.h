// Offload: activations that a graph keeps are moved to the host's memory when their pass has ended,
// and back before their backward (Rhu et al. 2016, "vDNN"). Copies run on streams of their own, and
// events order them, so no thread waits.
//
// A storage is moved if nothing but the graph holds it. So nobody can write to it while it is
// copied or later, and its memory is freed by the move. Variables, their views, and what other
// stages or layers hold stay.
#pragma once

#include "stream.h"

#include <ATen/core/grad_mode.h>

#include <memory>
#include <optional>

namespace shim {

// The bytes of a storage, in pinned memory of the host.
class HostBytes {
 public:
  // Queues the copy of the bytes of `tensor`'s storage on `out`. They are complete after `made`.
  HostBytes(
      const at::Tensor& tensor,
      const c10::Event& made,
      const c10::Stream& out,
      const c10::Stream& back)
      : back_(back), copied_(out.device_type()) {
    at::NoGradGuard no_grad;
    const auto bytes = static_cast<int64_t>(tensor.storage().nbytes());
    at::Tensor all = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(tensor.storage()), tensor.key_set(), caffe2::TypeMeta::Make<uint8_t>());
    all.unsafeGetTensorImpl()->set_sizes_contiguous({bytes});
    host_ = at::empty({bytes}, at::TensorOptions(at::kByte).device(at::kCPU).pinned_memory(true));
    OnStream on(out);
    made.block(out);
    // The allocator must know before the memory may be freed.
    record_use(all, out);
    host_.copy_(all, /*non_blocking=*/true);
    copied_.record(out);
  }

  // Queues the copy to the device, unless the bytes are there or on their way.
  void start_back() {
    if (device_.defined()) {
      return;
    }
    at::NoGradGuard no_grad;
    OnStream on(back_);
    copied_.block(back_);
    at::Tensor bytes =
        at::empty(host_.sizes(), at::TensorOptions(at::kByte).device(back_.device()));
    bytes.copy_(host_, /*non_blocking=*/true);
    arrived_.emplace(back_.device_type());
    arrived_->record(back_);
    device_ = std::move(bytes);
  }

  // The bytes on the device. Work that this thread queues from now on may read them.
  at::Tensor on_device() {
    start_back();
    c10::Stream user =
        c10::impl::VirtualGuardImpl(back_.device_type()).getStream(back_.device());
    arrived_->block(user);
    record_use(device_, user);
    return device_;
  }

  // Frees the bytes on the device, unless a value still has them.
  void drop_on_device() {
    device_.reset();
  }

 private:
  c10::Stream back_;
  at::Tensor host_;
  // After the copy to the host.
  c10::Event copied_;
  // On the device, and after the copy to it.
  at::Tensor device_;
  std::optional<c10::Event> arrived_;
};

} // namespace shim
