// The values of a pass that its graph saves, and the notes of how cheap ones are made: see
// `cheap.cpp`.
#pragma once

#include "layer_key.h"
#include "offload.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

namespace shim {

// A spare key above autograd's and below the layers' own.
constexpr auto kCheapKey = c10::DispatchKey::TESTING_ONLY_GenericWrapper;

// Inputs that the graph does not keep, such as the bias of a norm, may be kept for the note if the
// output is at least so many times larger.
constexpr size_t kMuchLarger = 2;
// Making a value again makes those that it is made of, one inside the other. A longer chain is kept
// at this length.
constexpr size_t kLongestChain = 64;

// Runs operators as they ran below autograd and autocast.
struct Plainly {
  at::NoGradGuard no_grad;
  at::AutoDispatchBelowADInplaceOrView below;
  c10::impl::ExcludeDispatchKeyGuard plain{
      c10::autocast_dispatch_keyset | c10::DispatchKeySet({kLayerKey, kCheapKey})};
};

// A part of a storage, as a tensor shows it.
struct Shown {
  at::ScalarType type = at::kFloat;
  c10::SmallVector<int64_t, 5> sizes;
  c10::SmallVector<int64_t, 5> strides;
  int64_t offset = 0;

  static Shown of(const at::Tensor& tensor) {
    Shown shown;
    shown.type = tensor.scalar_type();
    shown.sizes.append(tensor.sizes().begin(), tensor.sizes().end());
    shown.strides.append(tensor.strides().begin(), tensor.strides().end());
    shown.offset = tensor.storage_offset();
    return shown;
  }

  bool matches(const at::Tensor& tensor) const {
    return tensor.scalar_type() == type && tensor.sizes() == at::IntArrayRef(sizes) &&
        tensor.strides() == at::IntArrayRef(strides) && tensor.storage_offset() == offset;
  }
};

// Which cheap outputs a pass notes.
enum class Noted { none, pointwise, all };

// Whether a view of the tensor's storage tells all about the tensor.
inline bool is_ordinary(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && tensor.has_storage() && !tensor.is_conj() &&
      !tensor.is_neg() && !tensor.is_quantized();
}

struct Value;

// A tensor among the arguments of a noted call.
struct Input {
  std::shared_ptr<Value> value;
  Shown shown;
  // The bytes that the note alone keeps.
  size_t bytes = 0;
};

// How a value is made.
struct Recipe {
  c10::OperatorHandle op;
  // The arguments; those that are a tensor, or a list of tensors, are in `inputs`, at the same
  // place.
  std::vector<c10::IValue> arguments;
  std::vector<std::vector<Input>> inputs;
  Shown made;

  template <typename Visit>
  void each(Visit visit) {
    for (std::vector<Input>& place : inputs) {
      for (Input& input : place) {
        visit(input);
      }
    }
  }
};

// What a storage holds at one version of it.
struct Value {
  at::ScalarType type;
  // The count of in-place changes at the time.
  uint32_t version;
  // The memory; undefined while a value with a recipe is not made, or its bytes are on the host.
  at::Tensor data;
  // The bytes on the host, if they were moved there, and what `data` was.
  std::shared_ptr<HostBytes> host;
  Shown moved;
  std::unique_ptr<Recipe> recipe;
  // Whether `data` was made by the recipe.
  bool remade = false;
  // The number of saved tensors that are this value, and of recipes that are being followed and
  // need it.
  size_t saved = 0;
  // The number of recipes, one inside the other, that make it.
  size_t chain = 0;

  explicit Value(const at::Tensor& tensor) : type(tensor.scalar_type()), version(tensor._version()) {}

  // A value of its own memory.
  static std::shared_ptr<Value> copy_of(const at::Tensor& tensor) {
    Plainly plainly;
    at::Tensor copy = tensor.clone();
    auto value = std::make_shared<Value>(copy);
    value->data = std::move(copy);
    return value;
  }

  bool can_be_had() const {
    return recipe || data.defined();
  }

  // A tensor of the value that shows this part of it.
  at::Tensor get(const Shown& shown) {
    if (!data.defined() && host) {
      bring_back();
    } else if (!data.defined()) {
      remake();
    } else if (!remade) {
      check_version();
    }
    if (shown.matches(data)) {
      return data;
    }
    at::Tensor part = data.tensor_data();
    part.unsafeGetTensorImpl()->set_allow_tensor_metadata_change(true);
    part.unsafeGetTensorImpl()->set_sizes_and_strides(shown.sizes, shown.strides, shown.offset);
    return part;
  }

  void check_version() const {
    TORCH_CHECK(
        data._version() == version,
        "one of the variables needed for gradient computation has been modified by an inplace operation: [",
        data.toString(), " ", data.sizes(), "] is at version ", data._version(), "; expected version ",
        version, " instead. `cheap_outputs` needs it to make what was not kept");
  }

  // From now on, the bytes are on the host.
  void move_to(std::shared_ptr<HostBytes> bytes) {
    moved = Shown::of(data);
    host = std::move(bytes);
    data.reset();
  }

  // Makes `data` again, on the device, from the bytes on the host.
  void bring_back() {
    at::Tensor bytes = host->on_device();
    data = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(bytes.storage()), bytes.key_set(), c10::scalarTypeToTypeMeta(moved.type));
    data.unsafeGetTensorImpl()->set_sizes_and_strides(moved.sizes, moved.strides, moved.offset);
    version = data._version();
  }

  // Drops what was brought back. The bytes are still on the host.
  void drop_brought_back() {
    data.reset();
    host->drop_on_device();
  }

  void remake() {
    TORCH_INTERNAL_ASSERT(recipe);
    Plainly plainly;
    // What several inputs are made of is made once.
    struct Pinned {
      Recipe& recipe;
      explicit Pinned(Recipe& recipe) : recipe(recipe) {
        recipe.each([](Input& input) { ++input.value->saved; });
      }
      ~Pinned() {
        recipe.each([](Input& input) {
          --input.value->saved;
          input.value->drop_unless_saved();
        });
      }
    } pinned(*recipe);
    torch::jit::Stack stack = recipe->arguments;
    for (size_t i = 0; i < stack.size(); ++i) {
      const std::vector<Input>& inputs = recipe->inputs[i];
      if (inputs.empty()) {
        continue;
      }
      std::vector<at::Tensor> tensors;
      for (const Input& input : inputs) {
        tensors.push_back(input.value->get(input.shown));
      }
      bool is_list = recipe->op.schema().arguments()[i].type()->kind() == c10::TypeKind::ListType;
      stack[i] = is_list ? c10::IValue(std::move(tensors)) : c10::IValue(std::move(tensors.front()));
    }
    recipe->op.callBoxed(stack);
    at::Tensor made = stack.front().toTensor();
    TORCH_CHECK(
        recipe->made.matches(made),
        "`cheap_outputs`: ", recipe->op.schema().name(),
        " gave a tensor with another layout when it ran again. Please report this");
    data = std::move(made);
    remade = true;
  }

  // Frees what can be made again.
  void drop_unless_saved() {
    if (recipe && saved == 0) {
      data.reset();
      remade = false;
    }
  }
};

// The values of one pass of a stage that may be saved.
class Values {
 public:
  // Which cheap outputs are noted.
  const Noted noted;
  // Held by whoever saves, unpacks or frees a value of the pass: a layer may give a part of its
  // graph to another thread.
  const std::shared_ptr<std::recursive_mutex> mutex = std::make_shared<std::recursive_mutex>();

  explicit Values(Noted noted) : noted(noted) {}

  // Remembers that a node saves the value.
  void is_saved(const std::shared_ptr<Value>& value) {
    saved_.push_back(value);
  }

  // Moves to the host what the graph alone holds on the device of the streams: see `offload.h`.
  // Returns what was moved.
  std::vector<std::weak_ptr<Value>> offload(
      const c10::Stream& out,
      const c10::Stream& back,
      size_t min_bytes);

  // An operator is about to write to the tensor's memory, maybe without counting that: through
  // `data()`, or as a statistic of a norm. What was noted of the memory holds for what it was.
  void about_to_write(const at::Tensor& tensor) {
    if (!tensor.has_storage()) {
      return;
    }
    c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
    known_.erase(storage);
    auto found = readers_.find(storage);
    if (found == readers_.end()) {
      return;
    }
    for (const std::weak_ptr<Value>& reader : found->second) {
      std::shared_ptr<Value> value = reader.lock();
      if (!value || !value->recipe) {
        continue;
      }
      value->recipe->each([&](Input& input) {
        const at::Tensor& data = input.value->data;
        if (!input.value->recipe && data.defined() &&
            data.storage().unsafeGetStorageImpl() == storage) {
          input.value = Value::copy_of(input.value->get(input.shown));
          input.shown = Shown::of(input.value->data);
        }
      });
    }
    readers_.erase(found);
  }

  // The value of the tensor, if it has been saved or noted.
  std::shared_ptr<Value> find(const at::Tensor& tensor) const {
    auto place = known_.find(tensor.storage().unsafeGetStorageImpl());
    std::shared_ptr<Value> value = place == known_.end() ? nullptr : place->second.value.lock();
    bool is_it = value && value->version == tensor._version() && value->type == tensor.scalar_type();
    return is_it ? value : nullptr;
  }

  std::shared_ptr<Value> find_or_add(const at::Tensor& tensor) {
    std::shared_ptr<Value> value = find(tensor);
    if (!value) {
      value = std::make_shared<Value>(tensor);
      c10::Storage storage = tensor.storage();
      known_.insert_or_assign(
          storage.unsafeGetStorageImpl(),
          Known{c10::weak_intrusive_ptr<c10::StorageImpl>(storage.getWeakStorageImpl()), value, nullptr});
    }
    return value;
  }

  // Notes how the output was made, if it can be made again from what is kept.
  void note(
      const c10::OperatorHandle& op,
      std::vector<c10::IValue> arguments,
      const at::Tensor& output) {
    if (!output.requires_grad() || !is_ordinary(output) ||
        output.storage().nbytes() != output.nbytes()) {
      return;
    }
    std::vector<std::vector<Input>> inputs(arguments.size());
    // The operator will run without autocast, which may have converted its inputs first.
    const auto device = output.device().type();
    bool converted = at::autocast::is_autocast_enabled(device) &&
        op.hasKernelForDispatchKey(
            at::autocast::get_autocast_dispatch_key_from_device_type(device));
    size_t bytes = 0;
    size_t chain = 0;
    auto add = [&](size_t place, const at::Tensor& tensor) {
      if (converted && tensor.scalar_type() != output.scalar_type()) {
        return false;
      }
      std::optional<Input> found = input(tensor, output);
      if (!found || found->value->chain >= kLongestChain) {
        return false;
      }
      chain = std::max(chain, found->value->chain);
      bytes += found->bytes;
      inputs[place].push_back(std::move(*found));
      return bytes * kMuchLarger <= output.nbytes();
    };
    for (size_t i = 0; i < arguments.size(); ++i) {
      const c10::Argument& declared = op.schema().arguments()[i];
      if (declared.name() == "training" || declared.name() == "train") {
        // In evaluation mode, the norm reads running statistics, which may change.
        if (!arguments[i].toBool()) {
          return;
        }
      } else if (declared.name() == "running_mean" || declared.name() == "running_var") {
        // They were updated once.
        arguments[i] = c10::IValue();
      } else if (arguments[i].isTensor() && arguments[i].toTensor().defined()) {
        if (!add(i, arguments[i].toTensor())) {
          return;
        }
        arguments[i] = c10::IValue();
      } else if (arguments[i].isTensorList()) {
        for (const at::Tensor& tensor : arguments[i].toTensorVector()) {
          if (!add(i, tensor)) {
            return;
          }
        }
        arguments[i] = c10::IValue();
      }
    }
    std::shared_ptr<Value> value = find_or_add(output);
    value->chain = chain + 1;
    for (const std::vector<Input>& place : inputs) {
      for (const Input& input : place) {
        if (!input.value->recipe) {
          readers_[input.value->data.storage().unsafeGetStorageImpl()].push_back(value);
        }
      }
    }
    value->recipe = std::make_unique<Recipe>(
        Recipe{op, std::move(arguments), std::move(inputs), Shown::of(output)});
    // The operator may have saved its own output.
    value->data.reset();
    known_.at(output.storage().unsafeGetStorageImpl()).noted = std::move(value);
  }

 private:
  // The values that the graph keeps, each once, in the order in which they were saved: those that
  // nodes save, and those that the notes of such values need.
  std::vector<std::shared_ptr<Value>> kept() const;

  // The argument of a call, if it can be had in the backward without being kept for that.
  std::optional<Input> input(const at::Tensor& tensor, const at::Tensor& output) {
    if (!is_ordinary(tensor) || tensor.is_alias_of(output) || tensor.device() != output.device()) {
      return std::nullopt;
    }
    std::shared_ptr<Value> value = find(tensor);
    if (value && value->can_be_had()) {
      return Input{std::move(value), Shown::of(tensor), 0};
    }
    size_t bytes = tensor.numel() * tensor.element_size();
    if (bytes * kMuchLarger > output.nbytes()) {
      return std::nullopt;
    }
    bool is_activation = tensor.requires_grad() && !tensor.is_leaf();
    if (!is_activation) {
      // A variable may change before the backward.
      value = Value::copy_of(tensor);
      Shown shown = Shown::of(value->data);
      return Input{std::move(value), std::move(shown), bytes};
    }
    value = std::make_shared<Value>(tensor);
    value->data = tensor.tensor_data();
    return Input{std::move(value), Shown::of(tensor), bytes};
  }

  struct Known {
    // Keeps the address from being used for another storage, and none of the memory.
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    std::weak_ptr<Value> value;
    // Set for a value with a recipe, which nothing may have saved yet.
    std::shared_ptr<Value> noted;
  };
  std::unordered_map<c10::StorageImpl*, Known> known_;
  std::vector<std::weak_ptr<Value>> saved_;
  // For each storage, the noted values that are made of it. Their inputs keep it alive.
  std::unordered_map<c10::StorageImpl*, std::vector<std::weak_ptr<Value>>> readers_;
};

} // namespace shim
