// Random numbers of layers. While a layer runs, every random operator without a generator draws
// from the layer's rng (`layer_key.cpp` passes it). The process's default generators are not
// touched.
#include "layer_key.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <map>

namespace {

struct Rng {
  uint64_t seed = 0;
  // This thread's generators, one per device, each with whether it is already seeded with `seed`.
  // Seeding costs microseconds, so it is left to the first operator that draws.
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
// The rngs of layers inside which another model is running.
thread_local std::vector<Rng> put_aside;

} // namespace

namespace shim {

at::Generator rng_on(c10::Device device) {
  return rng.on(device);
}

} // namespace shim

extern "C" {

// From here to `pipe_random_leave`, this thread draws from its rng. Returns whether it already did;
// if so, the rng in use is put aside.
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

// Restarts this thread's rng at `seed`.
void pipe_random_restart(uint64_t seed) {
  rng.restart(seed);
}

// Draws one number as any random operator of the caller would: from the process's default CPU
// generator or, inside a layer, from the layer's rng. Sets `before` to a copy of the default
// generator from before the draw, for `pipe_random_undo`; to null inside a layer, whose rng
// restarts in any case.
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

// Undoes the draw, unless another number has been drawn since.
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

} // extern "C"
