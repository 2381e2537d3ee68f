// Variables of other processes: tensors with a shape and a kind, and without memory. Layers are
// made in every process, with every variable. Those of other processes ask for memory on a device
// that libtorch's packages do not have (Vulkan), and get tensors on its meta device.
//
// The process draws the random numbers that such a variable would have got, so that the next
// variable gets those that it would have got. They are drawn piece by piece, into memory that is
// freed at once.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {
namespace elsewhere {

// A key above autograd's that libtorch has no kernels for, and no rule. Only tensors of other
// processes have it. The two spare ones are those of layers and of cheap outputs.
constexpr auto kElsewhereKey = c10::DispatchKey::DeferredInit;

// The number of elements that are drawn at once. libtorch draws normal numbers in groups of 16, and
// the last 16 again if some are left over, so all pieces but the last one are multiples of 16, and
// the last one is no shorter than a piece.
constexpr int64_t kPiece = 1 << 20;

// The tensor `meta`, with the key.
at::Tensor marked(const at::Tensor& meta) {
  const c10::TensorImpl* from = meta.unsafeGetTensorImpl();
  auto impl = c10::make_intrusive<c10::TensorImpl>(
      c10::Storage(from->storage()), from->key_set().add(kElsewhereKey), from->dtype());
  impl->set_sizes_and_strides(meta.sizes(), meta.strides());
  return at::Tensor(std::move(impl));
}

at::Tensor empty(
    at::IntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> layout,
    std::optional<at::Device> /*device*/,
    std::optional<bool> /*pin_memory*/,
    std::optional<at::MemoryFormat> format) {
  return marked(
      at::empty(size, dtype, layout, at::Device(at::kMeta), std::nullopt, format));
}

at::Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> layout,
    std::optional<at::Device> /*device*/,
    std::optional<bool> /*pin_memory*/) {
  return marked(
      at::empty_strided(size, stride, dtype, layout, at::Device(at::kMeta), std::nullopt));
}

bool takes_generator(const c10::Argument& argument) {
  const auto optional = argument.type()->cast<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::GeneratorType;
}

// Whether the operator fills its first argument with random numbers, and has no other tensors.
bool fills(const c10::FunctionSchema& schema) {
  const auto& arguments = schema.arguments();
  bool draws = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    draws |= takes_generator(arguments[i]);
    const bool is_tensor = arguments[i].type()->kind() == c10::TypeKind::TensorType;
    if (is_tensor != (i == 0)) {
      return false;
    }
  }
  return draws && arguments[0].alias_info() && arguments[0].alias_info()->isWrite();
}

void draw(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const std::vector<c10::IValue> arguments(stack->end() - count, stack->end());
  stack->resize(stack->size() - count);
  const at::Tensor self = arguments[0].toTensor();
  for (int64_t left = self.numel(); left > 0;) {
    const int64_t piece = left < 2 * kPiece ? left : kPiece;
    torch::jit::Stack call{at::empty({piece}, self.scalar_type())};
    call.insert(call.end(), arguments.begin() + 1, arguments.end());
    op.callBoxed(&call);
    left -= piece;
  }
  stack->push_back(self);
}

struct Registration {
  torch::Library factories{torch::Library::IMPL, "aten", c10::DispatchKey::Vulkan, __FILE__, __LINE__};
  torch::Library fallback{torch::Library::IMPL, "_", kElsewhereKey, __FILE__, __LINE__};
  torch::Library drawing{torch::Library::IMPL, "aten", kElsewhereKey, __FILE__, __LINE__};

  Registration() {
    if (!c10::impl::hasDeviceGuardImpl(c10::DeviceType::Vulkan)) {
      // `tensor.to(device)` asks for one. Never destroyed, as it is registered for good.
      c10::impl::DeviceGuardImplRegistrar(
          c10::DeviceType::Vulkan,
          new c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::Vulkan>());
    }
    factories.impl("empty.memory_format", TORCH_FN(empty));
    factories.impl("empty_strided", TORCH_FN(empty_strided));
    fallback.fallback(torch::CppFunction::makeFallthrough());
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
      auto op = dispatcher.findSchema(name);
      if (op && name.name.rfind("aten::", 0) == 0 && !op->schema().arguments().empty() &&
          fills(op->schema())) {
        std::string full =
            name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
        drawing.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&draw>());
      }
    }
  }
};

} // namespace elsewhere
} // namespace

extern "C" {

// From now on, tensors of the Vulkan device are made without memory.
int pipe_elsewhere_install() {
  return shim::guarded([] {
    // Never destroyed, because variables may live until the process ends.
    static auto* registration = new elsewhere::Registration();
    (void)registration;
  });
}

// Whether two handles are on one tensor.
int pipe_is_same(const at::Tensor* a, const at::Tensor* b) {
  return a->is_same(*b);
}

int pipe_is_elsewhere(const at::Tensor* tensor) {
  return tensor->is_meta();
}

} // extern "C"
