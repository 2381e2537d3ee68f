// What operators do in addition while a layer runs: those that draw random numbers draw from the
// layer's rng, and those that write report it first. This is a fallthrough on a spare dispatch key,
// with a kernel for each operator that draws or writes. Other operators are not affected.
#include "layer_key.h"

#include <ATen/RedispatchFunctions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace {

using shim::kLayerKey;

// The device on which an operator will draw: that of its first tensor, or else its `device`
// argument, or else the CPU.
c10::Device device_of(c10::ArrayRef<c10::IValue> arguments) {
  for (const c10::IValue& argument : arguments) {
    if (argument.isTensor() && argument.toTensor().defined()) {
      return argument.toTensor().device();
    }
  }
  for (const c10::IValue& argument : arguments) {
    if (argument.isDevice()) {
      return argument.toDevice();
    }
  }
  return c10::Device(c10::kCPU);
}

bool takes_generator(const c10::Argument& argument) {
  const auto optional = argument.type()->cast<c10::OptionalType>();
  return optional && optional->getElementType()->kind() == c10::TypeKind::GeneratorType;
}

bool is_written(const c10::Argument& argument) {
  return argument.alias_info() && argument.alias_info()->isWrite();
}

// The operators of batch and instance norm update these, although their schemas do not say so.
bool is_statistic(const c10::Argument& argument) {
  return argument.name() == "running_mean" || argument.name() == "running_var";
}

// The operators that have such arguments and never update them.
bool only_reads_statistics(const std::string& name) {
  return name.find("backward") != std::string::npos ||
      name.find("no_update") != std::string::npos || name.find("quantized") != std::string::npos;
}

bool says_whether(const c10::Argument& argument) {
  const std::string& name = argument.name();
  return name == "training" || name == "train" || name == "use_input_stats";
}

// Whether this call of the operator updates statistics. Operators without a flag for that always
// do.
bool updates_statistics(
    const std::vector<c10::Argument>& declared,
    c10::ArrayRef<c10::IValue> values) {
  for (size_t i = 0; i < declared.size(); ++i) {
    if (says_whether(declared[i])) {
      return values[i].isBool() && values[i].toBool();
    }
  }
  return true;
}

void about_to_write(const c10::IValue& value, bool statistic) {
  if (value.isTensor()) {
    shim::about_to_write(value.toTensor(), statistic);
    shim::cheap_about_to_write(value.toTensor());
  } else if (value.isTensorList() || value.isOptionalTensorList()) {
    for (const c10::IValue& element : value.toListRef()) {
      about_to_write(element, statistic);
    }
  }
}

void announce_writes(
    const std::vector<c10::Argument>& declared,
    c10::ArrayRef<c10::IValue> values) {
  for (size_t i = 0; i < declared.size(); ++i) {
    bool statistic = is_statistic(declared[i]);
    if (is_written(declared[i]) || (statistic && updates_statistics(declared, values))) {
      about_to_write(values[i], statistic);
    }
  }
}

void run_in_layer(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack) {
  const auto& declared = op.schema().arguments();
  const size_t first = stack->size() - declared.size();
  c10::ArrayRef<c10::IValue> values(stack->data() + first, declared.size());
  for (size_t i = 0; i < declared.size(); ++i) {
    if ((*stack)[first + i].isNone() && takes_generator(declared[i])) {
      (*stack)[first + i] = shim::rng_on(device_of(values));
    }
  }
  if (shim::watches_writes() || shim::notes_cheap_outputs()) {
    announce_writes(declared, values);
  }
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kLayerKey), stack);
}

// The fused dropout of accelerators takes no generator. The one that takes a generator has the same
// distribution.
std::tuple<at::Tensor, at::Tensor> dropout_from_rng(
    c10::DispatchKeySet keys,
    const at::Tensor& input,
    double p,
    std::optional<bool> train) {
  if (!input.device().is_cpu() && train.value_or(true) && p > 0. && p < 1. && input.numel() > 0) {
    return at::_fused_dropout(input, 1. - p, shim::rng_on(input.device()));
  }
  return at::redispatch::native_dropout(
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kLayerKey), input, p, train);
}

// Whether the operator takes named tensors. tch does not have these, and they cannot be put on the
// interpreter's stack.
bool takes_names(const c10::OperatorName& name) {
  return name.overload_name.find("imname") != std::string::npos || name.name == "aten::rename_";
}

struct Registration {
  torch::Library fallback{torch::Library::IMPL, "_", kLayerKey, __FILE__, __LINE__};
  torch::Library kernels{torch::Library::IMPL, "aten", kLayerKey, __FILE__, __LINE__};
  size_t drawing = 0;
  size_t writing = 0;

  Registration() {
    fallback.fallback(torch::CppFunction::makeFallthrough());
    kernels.impl("native_dropout", TORCH_FN(dropout_from_rng));
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
      auto op = dispatcher.findSchema(name);
      if (!op || name.name.rfind("aten::", 0) != 0 || takes_names(name)) {
        continue;
      }
      bool draws = false;
      bool writes = false;
      for (const c10::Argument& argument : op->schema().arguments()) {
        draws |= takes_generator(argument);
        writes |=
            is_written(argument) || (is_statistic(argument) && !only_reads_statistics(name.name));
      }
      if (draws || writes) {
        std::string full =
            name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
        kernels.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_in_layer>());
        drawing += draws;
        writing += writes;
      }
    }
  }
};

} // namespace

extern "C" {

// Installs the kernels, once per process. Writes how many operators draw and how many write.
int pipe_layer_key_install(size_t* drawing, size_t* writing) {
  return shim::guarded([&] {
    // Never destroyed, because workers may still run layers while the process ends.
    static auto* registration = new Registration();
    *drawing = registration->drawing;
    *writing = registration->writing;
  });
}

} // extern "C"
