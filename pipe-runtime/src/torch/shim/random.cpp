// Random streams. While a layer runs, every random operator without a generator of its own draws from the layer's stream:
// a fallthrough on a spare dispatch key, with a kernel on it for each operator that takes an optional generator. Operators that draw nothing
// are not touched, and the process's default generators are not either.
#include "shim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/RedispatchFunctions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <map>

namespace {

constexpr auto kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

struct Stream {
  uint64_t seed = 0;
  // Generators of this thread, one per device, and which of them stand on `seed` already: seeding one costs
  // microseconds, so it is left to the first operator that draws.
  std::map<c10::Device, std::pair<at::Generator, bool>, bool (*)(const c10::Device&, const c10::Device&)> generators{
      [](const c10::Device& a, const c10::Device& b) {
        return std::make_pair(a.type(), a.index()) < std::make_pair(b.type(), b.index());
      }};

  void restart(uint64_t next) {
    seed = next;
    for (auto& [device, generator] : generators) {
      generator.second = false;
    }
  }

  at::Generator on(c10::Device device) {
    auto found = generators.find(device);
    if (found == generators.end()) {
      at::Generator fresh = device.is_cpu() ? at::detail::createCPUGenerator() : at::globalContext().defaultGenerator(device).clone();
      found = generators.emplace(device, std::make_pair(std::move(fresh), false)).first;
    }
    auto& [generator, seeded] = found->second;
    if (!seeded) {
      std::lock_guard<std::mutex> lock(generator.mutex());
      generator.set_current_seed(seed);
      seeded = true;
    }
    return generator;
  }
};

thread_local Stream stream;
// Those of layers in which another model runs.
thread_local std::vector<Stream> put_aside;

// Where an operator will draw: the device of its first tensor, else its `device` argument, else the CPU.
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

void draw_from_stream(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto& declared = op.schema().arguments();
  const size_t first = stack->size() - declared.size();
  for (size_t i = 0; i < declared.size(); ++i) {
    if ((*stack)[first + i].isNone() && takes_generator(declared[i])) {
      (*stack)[first + i] = stream.on(device_of(c10::ArrayRef<c10::IValue>(stack->data() + first, declared.size())));
    }
  }
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
}

// The fused dropout of accelerators takes no generator; the one that does gives the same distribution.
std::tuple<at::Tensor, at::Tensor> dropout_from_stream(
    c10::DispatchKeySet keys,
    const at::Tensor& input,
    double p,
    std::optional<bool> train) {
  if (!input.device().is_cpu() && train.value_or(true) && p > 0. && p < 1. && input.numel() > 0) {
    return at::_fused_dropout(input, 1. - p, stream.on(input.device()));
  }
  return at::redispatch::native_dropout(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), input, p, train);
}

struct Registration {
  torch::Library fallback{torch::Library::IMPL, "_", kKey, __FILE__, __LINE__};
  torch::Library kernels{torch::Library::IMPL, "aten", kKey, __FILE__, __LINE__};
  size_t operators = 0;

  Registration() {
    fallback.fallback(torch::CppFunction::makeFallthrough());
    kernels.impl("native_dropout", TORCH_FN(dropout_from_stream));
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
      auto op = dispatcher.findSchema(name);
      if (!op || name.name.rfind("aten::", 0) != 0) {
        continue;
      }
      for (const c10::Argument& argument : op->schema().arguments()) {
        if (takes_generator(argument)) {
          std::string full = name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
          kernels.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&draw_from_stream>());
          ++operators;
          break;
        }
      }
    }
  }
};

} // namespace

extern "C" {

// Installs the kernels, once per process; writes how many operators they cover.
int pipe_random_install(size_t* operators) {
  return pipe::guarded([&] {
    // Never destroyed: workers may still draw while the process ends.
    static auto* registration = new Registration();
    *operators = registration->operators;
  });
}

// From here to `pipe_random_leave`, this thread draws from streams. Returns whether it already did: then the stream that runs is put aside.
int pipe_random_enter() {
  bool before = c10::impl::tls_is_dispatch_key_included(kKey);
  if (before) {
    put_aside.push_back(std::move(stream));
    stream = Stream();
  }
  c10::impl::tls_set_dispatch_key_included(kKey, true);
  return before;
}

void pipe_random_leave(int before) {
  if (before) {
    stream = std::move(put_aside.back());
    put_aside.pop_back();
  }
  c10::impl::tls_set_dispatch_key_included(kKey, before != 0);
}

// Starts the stream `seed` on this thread.
void pipe_random_restart(uint64_t seed) {
  stream.restart(seed);
}

// One number, as any random operator of the caller would draw it: from the process's default CPU generator or, in a layer, from its stream.
int pipe_random_draw(uint64_t* number) {
  return pipe::guarded([&] {
    bool in_layer = c10::impl::tls_is_dispatch_key_included(kKey);
    at::Generator generator = in_layer ? stream.on(c10::Device(c10::kCPU)) : at::detail::getDefaultCPUGenerator();
    auto* cpu = at::check_generator<at::CPUGeneratorImpl>(generator);
    std::lock_guard<std::mutex> lock(cpu->mutex_);
    *number = cpu->random64();
  });
}

} // extern "C"
