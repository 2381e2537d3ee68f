// Measures what one layer costs, from outside: which memory it allocates and keeps, whose memory it
// reads, and how long the backward nodes that it made run. Layers are told apart by their index in
// the forward, and by sequence numbers in the backward.
#include "quiet.h"
#include "shim.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/function_schema.h>
#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/core/AutogradState.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

namespace {

constexpr int64_t kNone = -1;

// Waits for all work on the device. Does nothing on the CPU.
void synchronize(c10::Device device) {
  if (!device.is_cpu()) {
    c10::impl::VirtualGuardImpl guard(device.type());
    guard.synchronizeDevice(device.has_index() ? device.index() : guard.getDevice().index());
  }
}

// A callback of this thread, while it exists.
struct Callback {
  at::CallbackHandle handle;

  explicit Callback(at::RecordFunctionCallback callback)
      : handle(at::addThreadLocalCallback(std::move(callback))) {}
  ~Callback() {
    at::removeCallback(handle);
  }
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;
};

} // namespace

extern "C" {

// A read by layer `to` of `bytes` of memory that layer `from` had made or changed last.
struct Read {
  uint64_t value;
  int64_t from;
  int64_t to;
  int64_t bytes;
  // Whether a gradient flows back to the value.
  int64_t gradient;
  // Whether the memory is still in use, with this value.
  int64_t kept;
};

// What a layer keeps after a forward, in bytes.
struct Kept {
  // What it allocated and is still in use.
  int64_t bytes;
  // The part of it that later layers have used, too.
  int64_t used_later;
  // What earlier layers allocated, this one has used, and is free again.
  int64_t freed_inputs;
};

// The most memory that was in use while a layer ran, in bytes, of all that was allocated since the
// observation started.
struct Peaks {
  int64_t forward;
  int64_t backward;
};

} // extern "C"

namespace {

struct Observation;
thread_local Observation* observing = nullptr;

// One forward: every allocation on the device belongs to the running layer.
struct Memory : public c10::MemoryReportingInfoBase {
  struct Block {
    uint64_t value;
    int64_t bytes;
    int64_t allocated_by;
    int64_t written_by;
    // The later layers that have read or changed it.
    std::set<int64_t> users;
  };

  const c10::DeviceType device;
  // An operator may allocate on other threads.
  std::mutex mutex;
  std::unordered_map<void*, Block> live;
  int64_t layer = kNone;
  uint64_t values = 0;
  // For each layer: the bytes that it has read and that earlier layers allocated, of memory that is
  // free again.
  std::unordered_map<int64_t, int64_t> freed_inputs;
  // What is in use, and the most since a layer has been running.
  int64_t now = 0;
  int64_t peak = 0;
  std::unordered_map<int64_t, Peaks> peaks;
  // The layer whose backward is running.
  int64_t backward = kNone;

  explicit Memory(c10::DeviceType device) : device(device) {}

  void reportMemoryUsage(void* ptr, int64_t bytes, size_t, size_t, c10::Device where) override {
    if (where.type() != device) {
      return;
    }
    std::lock_guard<std::mutex> lock(mutex);
    if (bytes > 0) {
      live[ptr] = Block{values++, bytes, layer, layer, {}};
      now += bytes;
      peak = std::max(peak, now);
    } else if (const auto freed = live.find(ptr); freed != live.end()) {
      if (freed->second.allocated_by != kNone) {
        for (const int64_t user : freed->second.users) {
          freed_inputs[user] += freed->second.bytes;
        }
      }
      now -= freed->second.bytes;
      live.erase(freed);
    }
  }

  // Another layer runs from now on, in the forward or in the backward.
  void turn_to(int64_t forward_layer, int64_t backward_layer) {
    std::lock_guard<std::mutex> lock(mutex);
    if (layer != kNone) {
      peaks[layer].forward = std::max(peaks[layer].forward, peak);
    }
    if (backward != kNone) {
      peaks[backward].backward = std::max(peaks[backward].backward, peak);
    }
    layer = forward_layer;
    backward = backward_layer;
    peak = now;
  }

  bool memoryProfilingEnabled() const override {
    return true;
  }
};

struct Observation {
  std::shared_ptr<Memory> memory;
  std::map<std::tuple<uint64_t, int64_t, int64_t>, Read> reads;
  shim::ErrorsAlone quiet;
  std::unique_ptr<c10::DebugInfoGuard> reports;
  std::unique_ptr<Callback> operators;

  explicit Observation(c10::DeviceType device);

  ~Observation() {
    operators.reset();
    reports.reset();
    observing = nullptr;
  }

  // The block of the tensor, if its memory was allocated during the observation.
  Memory::Block* block(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.has_storage()) {
      return nullptr;
    }
    auto found = memory->live.find(const_cast<void*>(tensor.storage().data()));
    return found == memory->live.end() ? nullptr : &found->second;
  }

  void read(const at::Tensor& tensor) {
    std::lock_guard<std::mutex> lock(memory->mutex);
    const int64_t layer = memory->layer;
    Memory::Block* made = block(tensor);
    if (made && made->allocated_by < layer) {
      made->users.insert(layer);
    }
    // The model's input counts as made by the first layer.
    const int64_t from = made ? std::max<int64_t>(made->written_by, 0) : kNone;
    if (made && from < layer) {
      Read& read =
          reads
              .emplace(
                  std::make_tuple(made->value, from, layer), Read{made->value, from, layer, 0, 0, 0})
              .first->second;
      // An expanded tensor has more elements than memory.
      const int64_t bytes = std::min<int64_t>(tensor.numel() * tensor.element_size(), made->bytes);
      read.bytes = std::max(read.bytes, bytes);
      read.gradient |= tensor.requires_grad();
    }
  }

  // Records that the memory holds another value from now on, made by the running layer.
  void write(const at::Tensor& tensor) {
    std::lock_guard<std::mutex> lock(memory->mutex);
    Memory::Block* changed = block(tensor);
    if (changed && changed->written_by != memory->layer) {
      changed->written_by = memory->layer;
      changed->value = memory->values++;
    }
  }

  template <typename Visit>
  static void tensors(const c10::IValue& value, Visit&& visit) {
    if (value.isTensor()) {
      visit(value.toTensor());
    } else if (value.isTensorList() || value.isOptionalTensorList() || value.isList()) {
      for (const c10::IValue& element : value.toListRef()) {
        tensors(element, visit);
      }
    }
  }

  void operator_starts(const at::RecordFunction& op) {
    if (memory->layer == kNone) {
      return;
    }
    const auto inputs = op.inputs();
    for (const c10::IValue& input : inputs) {
      tensors(input, [&](const at::Tensor& tensor) { read(tensor); });
    }
    const auto schema = op.operator_schema();
    if (!schema || !schema->is_mutable()) {
      return;
    }
    const auto& declared = schema->arguments();
    for (size_t i = 0; i < std::min(declared.size(), inputs.size()); ++i) {
      if (declared[i].alias_info() && declared[i].alias_info()->isWrite()) {
        tensors(inputs[i], [&](const at::Tensor& tensor) { write(tensor); });
      }
    }
  }
};

Observation::Observation(c10::DeviceType device) : memory(std::make_shared<Memory>(device)) {
  TORCH_CHECK(!observing, "a model is being profiled inside another profile");
  reports = std::make_unique<c10::DebugInfoGuard>(c10::DebugInfoKind::PROFILER_STATE, memory);
  at::RecordFunctionCallback callback(
      [](const at::RecordFunction& op) -> std::unique_ptr<at::ObserverContext> {
        if (observing) {
          observing->operator_starts(op);
        }
        return nullptr;
      });
  operators =
      std::make_unique<Callback>(callback.needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  observing = this;
}

struct BackwardClock;
thread_local BackwardClock* ticking = nullptr;

// One backward: the time from the start of a layer's node to the start of another layer's node
// belongs to the first layer.
struct BackwardClock {
  using Instant = std::chrono::steady_clock::time_point;

  const c10::Device device;
  // Layer i made the nodes with sequence numbers in `firsts[i]..ends[i]`. Both lists are ascending.
  const std::vector<uint64_t> firsts, ends;
  std::vector<double> seconds;
  int64_t current = kNone;
  Instant since;
  // A node may run a nested backward, whose time belongs to the outer node.
  int depth = 0;
  const bool multithreading;
  std::unique_ptr<Callback> nodes;

  BackwardClock(c10::Device device, std::vector<uint64_t> firsts, std::vector<uint64_t> ends);

  ~BackwardClock() {
    c10::AutogradState::get_tls_state().set_multithreading_enabled(multithreading);
    nodes.reset();
    ticking = nullptr;
  }

  int64_t layer_of(uint64_t sequence) const {
    const int64_t layer =
        std::upper_bound(firsts.begin(), firsts.end(), sequence) - firsts.begin() - 1;
    return layer >= 0 && sequence < ends[layer] ? layer : kNone;
  }

  void turn_to(int64_t layer) {
    if (layer == current) {
      return;
    }
    synchronize(device);
    const Instant now = std::chrono::steady_clock::now();
    if (current != kNone) {
      seconds[current] += std::chrono::duration<double>(now - since).count();
    }
    current = layer;
    since = now;
    if (observing) {
      observing->memory->turn_to(kNone, layer);
    }
  }

  void node_starts(int64_t sequence) {
    // Nodes that accumulate into leaves have no number. Their time belongs to the node before.
    if (depth++ == 0 && sequence >= 0) {
      turn_to(layer_of(sequence));
    }
  }
};

BackwardClock::BackwardClock(
    c10::Device device,
    std::vector<uint64_t> firsts,
    std::vector<uint64_t> ends)
    : device(device),
      firsts(std::move(firsts)),
      ends(std::move(ends)),
      seconds(this->firsts.size()),
      multithreading(c10::AutogradState::get_tls_state().get_multithreading_enabled()) {
  TORCH_CHECK(!ticking, "a model is being profiled inside another profile");
  at::RecordFunctionCallback callback(
      [](const at::RecordFunction& node) -> std::unique_ptr<at::ObserverContext> {
        if (ticking) {
          ticking->node_starts(node.seqNr());
        }
        return nullptr;
      },
      [](const at::RecordFunction&, at::ObserverContext*) {
        if (ticking) {
          --ticking->depth;
        }
      });
  nodes = std::make_unique<Callback>(callback.scopes({at::RecordScope::BACKWARD_FUNCTION}));
  // Callbacks belong to this thread, so the nodes of accelerators must run here too.
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  ticking = this;
}

} // namespace

extern "C" {

// The sequence number of the next node that this thread will make.
uint64_t pipe_sequence_number() {
  return at::sequence_number::peek();
}

// Waits for all work on the tensor's device.
int pipe_synchronize(const at::Tensor* on) {
  return shim::guarded([&] { synchronize(on->device()); });
}

// Starts observing what this thread does on the tensor's type of device, until the observation is
// freed.
int pipe_observation_start(const at::Tensor* on, Observation** observation) {
  return shim::guarded([&] { *observation = new Observation(on->device().type()); });
}

void pipe_observation_free(Observation* observation) {
  delete observation;
}

// Attributes what happens from now on to layer `layer`; to none if it is -1.
void pipe_observation_layer(Observation* observation, int64_t layer) {
  observation->memory->turn_to(layer, kNone);
}

// The bytes in use of all that was allocated since the observation started.
int64_t pipe_observation_in_use(Observation* observation) {
  std::lock_guard<std::mutex> lock(observation->memory->mutex);
  return observation->memory->now;
}

// For each of `layers` layers, writes the peaks while it ran.
int pipe_observation_peaks(Observation* observation, size_t layers, Peaks* peaks) {
  return shim::guarded([&] {
    auto& memory = *observation->memory;
    std::lock_guard<std::mutex> lock(memory.mutex);
    for (size_t layer = 0; layer < layers; ++layer) {
      peaks[layer] = memory.peaks[static_cast<int64_t>(layer)];
    }
  });
}

// Records that the running layer reads this tensor.
int pipe_observation_read(Observation* observation, const at::Tensor* tensor) {
  return shim::guarded([&] { observation->read(*tensor); });
}

// For each of `layers` layers, writes what it keeps.
int pipe_observation_kept(Observation* observation, size_t layers, Kept* kept) {
  return shim::guarded([&] {
    std::fill(kept, kept + layers, Kept{});
    auto& memory = *observation->memory;
    std::lock_guard<std::mutex> lock(memory.mutex);
    for (const auto& [ptr, block] : memory.live) {
      if (block.allocated_by >= 0 && static_cast<size_t>(block.allocated_by) < layers) {
        Kept& layer = kept[block.allocated_by];
        layer.bytes += block.bytes;
        layer.used_later += block.users.empty() ? 0 : block.bytes;
      }
    }
    for (size_t layer = 0; layer < layers; ++layer) {
      kept[layer].freed_inputs = memory.freed_inputs[static_cast<int64_t>(layer)];
    }
  });
}

size_t pipe_observation_read_count(const Observation* observation) {
  return observation->reads.size();
}

// Writes as many reads as `pipe_observation_read_count` returns.
int pipe_observation_reads(const Observation* observation, Read* reads) {
  return shim::guarded([&] {
    std::lock_guard<std::mutex> lock(observation->memory->mutex);
    std::set<uint64_t> live;
    for (const auto& [ptr, block] : observation->memory->live) {
      live.insert(block.value);
    }
    for (const auto& [key, read] : observation->reads) {
      *reads = read;
      reads->kept = live.count(read.value) != 0;
      ++reads;
    }
  });
}

// Measures this thread's backward on the tensor's device, until it is freed.
int pipe_backward_clock_start(
    const at::Tensor* on,
    const uint64_t* firsts,
    const uint64_t* ends,
    size_t layers,
    BackwardClock** clock) {
  return shim::guarded([&] {
    *clock = new BackwardClock(
        on->device(),
        std::vector<uint64_t>(firsts, firsts + layers),
        std::vector<uint64_t>(ends, ends + layers));
  });
}

void pipe_backward_clock_free(BackwardClock* clock) {
  delete clock;
}

// Ends the time of the last layer, and writes the time of each layer.
int pipe_backward_clock_read(BackwardClock* clock, double* seconds) {
  return shim::guarded([&] {
    clock->turn_to(kNone);
    std::copy(clock->seconds.begin(), clock->seconds.end(), seconds);
  });
}

} // extern "C"
