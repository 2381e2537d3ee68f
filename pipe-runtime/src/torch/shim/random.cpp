// The random numbers of layers. While a layer runs, every random operator without a generator draws
// from the layer's rng (`layer_key.cpp` passes it). The process's default generators are not used.
#include "layer_key.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <map>

namespace {

struct Rng {
  uint64_t seed = 0;
  // The generators of this thread, one per device, and whether each is already seeded with `seed`.
  // Seeding takes microseconds, so the first operator that draws does it.
  std::map<
      c10::Device,
      std::pair<at::Generator, bool>,
      bool (*)(const c10::Device&, const c10::Device&)>
      generators{[](const c10::Device& a, const c10::Device& b) {
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
      at::Generator fresh = device.is_cpu() ? at::detail::createCPUGenerator()
                                            : at::globalContext().defaultGenerator(device).clone();
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

thread_local Rng rng;
// The generators of layers in which another model runs.
thread_local std::vector<Rng> put_aside;

} // namespace

namespace shim {

at::Generator rng_on(c10::Device device) {
  return rng.on(device);
}

} // namespace shim

extern "C" {

// From now until `pipe_random_leave`, this thread draws from its rng. Returns whether it did so
// before; then the rng in use is put aside.
int pipe_random_enter() {
  bool before = shim::in_layer();
  if (before) {
    put_aside.push_back(std::move(rng));
    rng = Rng();
  }
  c10::impl::tls_set_dispatch_key_included(shim::kLayerKey, true);
  return before;
}

void pipe_random_leave(int before) {
  if (before) {
    rng = std::move(put_aside.back());
    put_aside.pop_back();
  }
  c10::impl::tls_set_dispatch_key_included(shim::kLayerKey, before != 0);
}

// Seeds this thread's rng with `seed`.
void pipe_random_restart(uint64_t seed) {
  rng.restart(seed);
}

// Draws one number as a random operator of the caller would: from the process's default CPU
// generator or, in a layer, from its rng. `before` gets the default generator as it was, for
// `pipe_random_undo`. In a layer it is null, because the layer's rng is seeded again anyway.
int pipe_random_draw(uint64_t* number, at::Generator** before) {
  return shim::guarded([&] {
    *before = nullptr;
    at::Generator generator =
        shim::in_layer() ? rng.on(c10::Device(c10::kCPU)) : at::detail::getDefaultCPUGenerator();
    auto* cpu = at::check_generator<at::CPUGeneratorImpl>(generator);
    std::lock_guard<std::mutex> lock(cpu->mutex_);
    if (!shim::in_layer()) {
      *before = new at::Generator(generator.clone());
    }
    *number = cpu->random64();
  });
}

// Returns the number to the generator, unless another one has been drawn since.
int pipe_random_undo(const at::Generator* before) {
  return shim::guarded([&] {
    at::Generator expected = before->clone();
    auto* after = at::check_generator<at::CPUGeneratorImpl>(expected);
    after->random64();
    auto* cpu = at::check_generator<at::CPUGeneratorImpl>(at::detail::getDefaultCPUGenerator());
    std::lock_guard<std::mutex> lock(cpu->mutex_);
    auto now = cpu->engine().data();
    auto then = after->engine().data();
    if (now.next_ == then.next_ && now.left_ == then.left_ && now.state_ == then.state_) {
      cpu->set_engine(at::check_generator<at::CPUGeneratorImpl>(*before)->engine());
    }
  });
}

void pipe_random_forget(at::Generator* before) {
  delete before;
}

// The state of the process's default CPU generator, as a tensor of bytes.
int pipe_random_state(at::Tensor** state) {
  return shim::guarded([&] {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    std::lock_guard<std::mutex> lock(generator.mutex());
    *state = new at::Tensor(generator.get_state());
  });
}

// Fails, and changes nothing, if `state` is not one of `pipe_random_state`.
int pipe_random_set_state(const at::Tensor* state) {
  return shim::guarded([&] {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

} // extern "C"
