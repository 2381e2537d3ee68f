// Cheap outputs. What an operator such as a norm or an activation has made, the next operator saves
// for its backward. While a stage is recorded with this setting, such a value is not kept, but made
// again when the backward asks for it: from tensors that the graph keeps anyway, by the same
// operator, so with the same bits.
//
// Two things work together. A kernel on a spare dispatch key sees each call of a cheap operator,
// and notes how its output is made. Hooks on saved tensors, which libtorch asks its engine for,
// keep that note instead of the tensor.
#include "autograd.h"
#include "cheap.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>
#include <torch/library.h>

#include <unordered_set>
#include <utility>
#include <vector>

namespace shim {

using torch::autograd::SavedVariableHooks;

namespace {

// The operators whose output takes little time to make, and is often saved by the next operator:
// those that read and write each number once, and others.
constexpr const char* kPointwise[] = {
    "_to_copy",
    "add.Scalar",
    "add.Tensor",
    "clone",
    "div.Scalar",
    "div.Tensor",
    "elu",
    "gelu",
    "hardswish",
    "leaky_relu",
    "mish",
    "mul.Scalar",
    "mul.Tensor",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "sub.Scalar",
    "sub.Tensor",
    "tanh"};
constexpr const char* kOthers[] = {
    "cat",
    "cudnn_batch_norm",
    "max_pool2d_with_indices",
    "native_batch_norm",
    "native_group_norm",
    "native_layer_norm",
    "upsample_nearest2d"};

// The pass that this thread records, if it makes cheap outputs again or moves what it keeps.
thread_local std::unique_ptr<Values> recorded;

// What a saved tensor keeps: its value, and which part of it the tensor was.
class SavedValue : public SavedVariableHooks {
 public:
  void call_pack_hook(const at::Tensor& tensor) override {
    if (!recorded || !is_ordinary(tensor)) {
      whole_ = tensor.tensor_data();
      version_ = tensor._version();
      return;
    }
    mutex_ = recorded->mutex;
    std::lock_guard<std::recursive_mutex> lock(*mutex_);
    value_ = recorded->find_or_add(tensor);
    recorded->is_saved(value_);
    shown_ = Shown::of(tensor);
    ++value_->saved;
    if (!value_->can_be_had()) {
      // Without its graph, which may be the one that saves it.
      value_->data = tensor.tensor_data();
    }
  }

  at::Tensor call_unpack_hook() override {
    if (value_) {
      std::lock_guard<std::recursive_mutex> lock(*mutex_);
      return value_->get(shown_);
    }
    TORCH_CHECK(
        whole_._version() == version_,
        "one of the variables needed for gradient computation has been modified by an inplace operation");
    return whole_;
  }

  ~SavedValue() override {
    if (value_) {
      std::lock_guard<std::recursive_mutex> lock(*mutex_);
      --value_->saved;
      value_->drop_unless_saved();
      value_.reset();
    }
  }

 private:
  std::shared_ptr<Value> value_;
  std::shared_ptr<std::recursive_mutex> mutex_;
  Shown shown_;
  // A tensor that is more than a view of its storage.
  at::Tensor whole_;
  uint32_t version_ = 0;
};

// libtorch's engine, with hooks for what a pass saves. All work is left to the engine that was
// there before.
class HookingEngine : public torch::autograd::Engine {
 public:
  explicit HookingEngine(Engine& before) : before_(before) {}

  variable_list execute(
      const edge_list& roots,
      const variable_list& inputs,
      bool keep_graph,
      bool create_graph,
      bool accumulate_grad,
      const edge_list& outputs) override {
    return before_.execute(roots, inputs, keep_graph, create_graph, accumulate_grad, outputs);
  }

  c10::intrusive_ptr<at::ivalue::Future> execute_with_graph_task(
      const std::shared_ptr<torch::autograd::GraphTask>& task,
      NodePtr<Node> root,
      torch::autograd::InputBuffer&& buffer) override {
    return before_.execute_with_graph_task(task, std::move(root), std::move(buffer));
  }

  std::unique_ptr<torch::autograd::AnomalyMetadata> make_anomaly_metadata() override {
    return before_.make_anomaly_metadata();
  }

  std::unique_ptr<SavedVariableHooks> get_default_saved_variable_hooks() override {
    if (recorded) {
      return std::make_unique<SavedValue>();
    }
    return before_.get_default_saved_variable_hooks();
  }

 private:
  Engine& before_;
};

HookingEngine* hooking_engine = nullptr;

template <bool pointwise>
void run_cheap(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack) {
  std::vector<c10::IValue> arguments(
      stack->end() - static_cast<ptrdiff_t>(op.schema().arguments().size()), stack->end());
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kCheapKey), stack);
  const bool noted = notes_cheap_outputs() && (pointwise || recorded->noted == Noted::all);
  if (noted && at::GradMode::is_enabled()) {
    std::lock_guard<std::recursive_mutex> lock(*recorded->mutex);
    const c10::IValue& output = (*stack)[stack->size() - op.schema().returns().size()];
    recorded->note(op, std::move(arguments), output.toTensor());
  }
}

struct CheapKernels {
  torch::Library fallback{torch::Library::IMPL, "_", kCheapKey, __FILE__, __LINE__};
  torch::Library kernels{torch::Library::IMPL, "aten", kCheapKey, __FILE__, __LINE__};

  CheapKernels() {
    fallback.fallback(torch::CppFunction::makeFallthrough());
    for (const char* name : kPointwise) {
      kernels.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_cheap<true>>());
    }
    for (const char* name : kOthers) {
      kernels.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_cheap<false>>());
    }
    hooking_engine = new HookingEngine(torch::autograd::Engine::get_default_engine());
    torch::autograd::set_default_engine_stub(
        []() -> torch::autograd::Engine& { return *hooking_engine; });
  }
};

// What `pipe_saving_enter` has put aside.
struct SavingPass {
  std::unique_ptr<Values> before;
};

} // namespace

// What was moved to the host after a pass.
struct Offloaded {
  std::shared_ptr<std::recursive_mutex> mutex;
  std::vector<std::weak_ptr<Value>> values;
};

std::vector<std::shared_ptr<Value>> Values::kept() const {
  std::vector<std::shared_ptr<Value>> kept;
  std::unordered_set<Value*> known;
  std::vector<std::shared_ptr<Value>> pending;
  for (const std::weak_ptr<Value>& saved : saved_) {
    if (std::shared_ptr<Value> value = saved.lock()) {
      pending.push_back(std::move(value));
    }
    while (!pending.empty()) {
      std::shared_ptr<Value> value = std::move(pending.back());
      pending.pop_back();
      if (!known.insert(value.get()).second) {
        continue;
      }
      if (value->recipe) {
        value->recipe->each([&](Input& input) { pending.push_back(input.value); });
      } else if (value->data.defined()) {
        kept.push_back(std::move(value));
      }
    }
  }
  return kept;
}

std::vector<std::weak_ptr<Value>> Values::offload(
    const c10::Stream& out,
    const c10::Stream& back,
    size_t min_bytes) {
  struct Group {
    std::vector<std::shared_ptr<Value>> values;
    // A value that was changed in place since it was saved is an error of the backward.
    bool is_changed = false;
  };
  std::vector<Group> groups;
  std::unordered_map<c10::StorageImpl*, size_t> place;
  for (std::shared_ptr<Value>& value : kept()) {
    auto [found, fresh] =
        place.emplace(value->data.storage().unsafeGetStorageImpl(), groups.size());
    if (fresh) {
      groups.emplace_back();
    }
    Group& group = groups[found->second];
    group.is_changed |= value->data._version() != value->version;
    group.values.push_back(std::move(value));
  }
  c10::Event made(out.device_type());
  made.record(c10::impl::VirtualGuardImpl(out.device_type()).getStream(out.device()));
  std::vector<std::weak_ptr<Value>> moved;
  for (Group& group : groups) {
    const at::Tensor& tensor = group.values.front()->data;
    const c10::Storage& storage = tensor.storage();
    // Each value has a tensor of its own on the storage.
    if (tensor.device() != out.device() || group.is_changed || storage.nbytes() == 0 ||
        storage.nbytes() < min_bytes || storage.use_count() != group.values.size()) {
      continue;
    }
    auto host = std::make_shared<HostBytes>(tensor, made, out, back);
    for (const std::shared_ptr<Value>& value : group.values) {
      value->move_to(host);
      moved.push_back(value);
    }
  }
  return moved;
}

bool notes_cheap_outputs() {
  return recorded && recorded->noted != Noted::none;
}

void cheap_about_to_write(const at::Tensor& tensor) {
  if (notes_cheap_outputs() && tensor.defined()) {
    std::lock_guard<std::recursive_mutex> lock(*recorded->mutex);
    recorded->about_to_write(tensor);
  }
}

} // namespace shim

using shim::SavingPass;

extern "C" {

// From now until `pipe_saving_leave`, graphs that this thread records keep notes of outputs of
// pointwise operators (`noted` is 1), of all cheap ones (2), or of none (0).
int pipe_saving_enter(int noted, SavingPass** pass) {
  return shim::guarded([&] {
    // Never destroyed, because workers may still run layers while the process ends.
    static auto* kernels = new shim::CheapKernels();
    (void)kernels;
    auto next = std::make_unique<shim::Values>(static_cast<shim::Noted>(noted));
    *pass = new SavingPass{std::exchange(shim::recorded, std::move(next))};
    c10::impl::tls_set_dispatch_key_included(shim::kCheapKey, shim::notes_cheap_outputs());
  });
}

void pipe_saving_leave(SavingPass* pass) {
  shim::recorded = std::move(pass->before);
  c10::impl::tls_set_dispatch_key_included(shim::kCheapKey, shim::notes_cheap_outputs());
  delete pass;
}

// Moves what the pass of this thread keeps on the device of the streams to the host: storages of at
// least `min_bytes`. Call it when the pass has ended, with its stream as the current one.
int pipe_saving_offload(
    const Stream* out,
    const Stream* back,
    size_t min_bytes,
    shim::Offloaded** offloaded) {
  return shim::guarded([&] {
    TORCH_INTERNAL_ASSERT(shim::recorded);
    std::lock_guard<std::recursive_mutex> lock(*shim::recorded->mutex);
    auto moved = shim::recorded->offload(shim::unpack(*out), shim::unpack(*back), min_bytes);
    *offloaded = new shim::Offloaded{shim::recorded->mutex, std::move(moved)};
  });
}

// Starts the copies back of what is still needed. What was saved last is needed first.
int pipe_offloaded_prefetch(shim::Offloaded* offloaded) {
  return shim::guarded([&] {
    std::lock_guard<std::recursive_mutex> lock(*offloaded->mutex);
    for (auto value = offloaded->values.rbegin(); value != offloaded->values.rend(); ++value) {
      if (std::shared_ptr<shim::Value> needed = value->lock()) {
        needed->host->start_back();
      }
    }
  });
}

// Frees on the device what was brought back. It is still on the host.
int pipe_offloaded_release(shim::Offloaded* offloaded) {
  return shim::guarded([&] {
    std::lock_guard<std::recursive_mutex> lock(*offloaded->mutex);
    for (const std::weak_ptr<shim::Value>& value : offloaded->values) {
      if (std::shared_ptr<shim::Value> needed = value.lock()) {
        needed->drop_brought_back();
      }
    }
  });
}

void pipe_offloaded_free(shim::Offloaded* offloaded) {
  delete offloaded;
}

} // extern "C"
