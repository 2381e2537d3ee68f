// The variables that layers change while they run. A variable is copied right before the first
// operator that writes to its memory. Schemas tell which operators write (except batch norm's),
// even through `data`, which no version counter sees. If the memory of a variable is replaced, the
// old memory still exists. A variable that never changes costs nothing.
#include "layer_key.h"

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/util/flat_hash_map.h>

#include <cstring>
#include <set>

namespace shim {

// The variables of a model, by number. All threads read them; they never change.
struct Variables {
  struct Variable {
    at::Tensor tensor;
    std::string name;
    int64_t stage;
    // The tensor as it was when it was looked at: another tensor on the same memory, which stays
    // even if the variable's memory is replaced (`set_data`).
    at::Tensor seen;

    const c10::StorageImpl* storage() const {
      return seen.has_storage() ? seen.storage().unsafeGetStorageImpl() : nullptr;
    }
    bool has_other_memory() const {
      return tensor.has_storage() && tensor.storage().unsafeGetStorageImpl() != storage();
    }
  };
  std::vector<Variable> all;
  ska::flat_hash_map<const c10::StorageImpl*, std::vector<uint32_t>> by_storage;

  void push(const at::Tensor& tensor, std::string name, int64_t stage, at::Tensor seen) {
    all.push_back({tensor, std::move(name), stage, std::move(seen)});
    if (const c10::StorageImpl* storage = all.back().storage()) {
      by_storage[storage].push_back(all.size() - 1);
    }
  }

  template <typename Visit>
  void visit(const at::Tensor& tensor, Visit&& visit) const {
    if (tensor.defined() && tensor.has_storage()) {
      auto found = by_storage.find(tensor.storage().unsafeGetStorageImpl());
      if (found != by_storage.end()) {
        for (uint32_t index : found->second) {
          visit(index);
        }
      }
    }
  }
};

// Watches one pass of a stage.
struct Watch {
  const Variables& variables;
  const int64_t stage;
  Watch* const outer;
  // The variables that were written to, with their values before, and whether they were written
  // only as statistics.
  struct Moved {
    uint32_t index;
    at::Tensor before;
    bool statistic;
  };
  std::vector<Moved> moved;
  // The variables that were arguments, if these are recorded.
  std::set<uint32_t> used;
  std::optional<at::CallbackHandle> callback;

  Watch(const Variables& variables, int64_t stage, bool uses);
  ~Watch();
  void writes(const at::Tensor& tensor, bool statistic);
  // Adds the variables whose memory was replaced.
  void note_other_memory();
  void uses(const c10::IValue& value);

 private:
  // Copies the variable as it was seen, unless it was copied before.
  void move(uint32_t index, bool statistic);
};

static thread_local Watch* watching = nullptr;

Watch::Watch(const Variables& variables, int64_t stage, bool uses)
    : variables(variables), stage(stage), outer(watching) {
  if (uses) {
    at::RecordFunctionCallback on_start(
        [](const at::RecordFunction& op) -> std::unique_ptr<at::ObserverContext> {
          if (watching && in_layer()) {
            for (const c10::IValue& input : op.inputs()) {
              watching->uses(input);
            }
          }
          return nullptr;
        });
    callback =
        at::addThreadLocalCallback(on_start.needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
  watching = this;
}

Watch::~Watch() {
  watching = outer;
  if (callback) {
    at::removeCallback(*callback);
  }
}

void Watch::writes(const at::Tensor& tensor, bool statistic) {
  variables.visit(tensor, [&](uint32_t index) {
    const Variables::Variable& variable = variables.all[index];
    TORCH_CHECK(
        variable.stage == stage,
        "stage ",
        stage,
        " changes the variable `",
        variable.name,
        "`, which by its name is one of stage ",
        variable.stage,
        ": the two stages run at the same time. Make it by the path of the layer that changes it");
    move(index, statistic);
  });
}

void Watch::note_other_memory() {
  for (uint32_t index = 0; index < variables.all.size(); ++index) {
    if (variables.all[index].stage != stage || !variables.all[index].has_other_memory()) {
      continue;
    }
    try {
      move(index, /*statistic=*/false);
    } catch (const c10::Error&) {
      // Without memory for a copy, the earlier memory itself is kept. The variable writes it no
      // more, and nobody could be told here that a change cannot be undone.
      moved.push_back({index, variables.all[index].seen, false});
    }
  }
}

void Watch::move(uint32_t index, bool statistic) {
  for (Moved& known : moved) {
    if (known.index == index) {
      known.statistic &= statistic;
      return;
    }
  }
  at::NoGradGuard no_grad;
  c10::impl::ExcludeDispatchKeyGuard no_layer(kLayerKey);
  moved.push_back({index, variables.all[index].seen.clone(), statistic});
}

void Watch::uses(const c10::IValue& value) {
  if (value.isTensor()) {
    variables.visit(value.toTensor(), [&](uint32_t index) { used.insert(index); });
  } else if (value.isTensorList() || value.isOptionalTensorList()) {
    for (const c10::IValue& element : value.toListRef()) {
      uses(element);
    }
  }
}

bool watches_writes() {
  return watching != nullptr;
}

void about_to_write(const at::Tensor& tensor, bool statistic) {
  if (watching) {
    watching->writes(tensor, statistic);
  }
}

namespace {

// Whether all of `count` numbers are finite: the bits of their exponents are not all ones.
template <typename Bits>
bool finite(const void* data, int64_t count, Bits exponent) {
  const Bits* bits = static_cast<const Bits*>(data);
  bool all = true;
  for (int64_t i = 0; i < count; ++i) {
    all &= (bits[i] & exponent) != exponent;
  }
  return all;
}

uint64_t mixed(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15;
  return hash ^ (hash >> 29);
}

// A digest of bytes. Four words are processed in parallel, because each step depends on the one
// before.
uint64_t digest_bytes(const void* data, size_t size) {
  uint64_t lanes[4] = {1, 2, 3, 4};
  const char* bytes = static_cast<const char*>(data);
  size_t at = 0;
  for (; at + sizeof(lanes) <= size; at += sizeof(lanes)) {
    uint64_t words[4];
    std::memcpy(words, bytes + at, sizeof(words));
    for (int lane = 0; lane < 4; ++lane) {
      lanes[lane] = mixed(lanes[lane], words[lane]);
    }
  }
  for (; at < size; at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, std::min(sizeof(word), size - at));
    lanes[0] = mixed(lanes[0], word);
  }
  return mixed(mixed(lanes[0], lanes[1]), mixed(lanes[2], lanes[3]));
}

uint64_t digest(const at::Tensor& tensor) {
  uint64_t hash =
      mixed(static_cast<uint64_t>(tensor.scalar_type()), static_cast<uint64_t>(tensor.layout()));
  for (int64_t size : tensor.sizes()) {
    hash = mixed(hash, static_cast<uint64_t>(size));
  }
  if (tensor.is_sparse()) {
    return mixed(mixed(hash, digest(tensor._indices())), digest(tensor._values()));
  }
  if (!tensor.has_storage()) {
    return hash;
  }
  at::Tensor dense = tensor.is_non_overlapping_and_dense() ? tensor : tensor.contiguous();
  for (int64_t stride : dense.strides()) {
    hash = mixed(hash, static_cast<uint64_t>(stride));
  }
  return mixed(hash, digest_bytes(dense.const_data_ptr(), dense.nbytes()));
}

} // namespace
} // namespace shim

using shim::Variables;
using shim::Watch;

extern "C" {

int pipe_variables_new(Variables** variables) {
  return shim::guarded([&] { *variables = new Variables(); });
}

void pipe_variables_free(Variables* variables) {
  delete variables;
}

int pipe_variables_push(
    Variables* variables,
    const at::Tensor* tensor,
    const char* name,
    int64_t stage) {
  return shim::guarded([&] { variables->push(*tensor, name, stage, tensor->detach()); });
}

// Frees the gradient of a variable, if it has one.
int pipe_gradient_drop(const at::Tensor* variable) {
  return shim::guarded([&] { variable->mutable_grad() = at::Tensor(); });
}

// Whether the variables of a stage (of all, if it is negative) have the memory that they had when
// they were looked at. A cast replaces it.
int pipe_variables_stand(const Variables* variables, int64_t stage) {
  for (const auto& variable : variables->all) {
    if ((stage < 0 || variable.stage == stage) && variable.has_other_memory()) {
      return 0;
    }
  }
  return 1;
}

// Copies the list of variables, and looks again at those of the stage (at all, if it is negative).
int pipe_variables_again(const Variables* variables, int64_t stage, Variables** fresh) {
  return shim::guarded([&] {
    auto made = std::make_unique<Variables>();
    for (const auto& variable : variables->all) {
      bool look = stage < 0 || variable.stage == stage;
      made->push(
          variable.tensor,
          variable.name,
          variable.stage,
          look ? variable.tensor.detach() : variable.seen);
    }
    *fresh = made.release();
  });
}

// From now until `pipe_watch_free`, variables are copied before layers on this thread write to
// them. With `uses`, the variables that they use are recorded too.
int pipe_watch_start(const Variables* variables, int64_t stage, int uses, Watch** watch) {
  return shim::guarded([&] { *watch = new Watch(*variables, stage, uses != 0); });
}

void pipe_watch_free(Watch* watch) {
  delete watch;
}

// The number of variables that were written to, and the number of those that were used.
int pipe_watch_counts(Watch* watch, size_t* moved, size_t* used) {
  return shim::guarded([&] {
    watch->note_other_memory();
    *moved = watch->moved.size();
    *used = watch->used.size();
  });
}

// Writes, for each variable that was written to, its number, its value before, and whether it was
// written only as a statistic; and the numbers of the variables that were used.
int pipe_watch_read(
    Watch* watch,
    size_t* moved,
    at::Tensor** before,
    uint8_t* statistic,
    size_t* used) {
  return shim::guarded([&] {
    for (Watch::Moved& entry : watch->moved) {
      *moved++ = entry.index;
      *before++ = new at::Tensor(std::move(entry.before));
      *statistic++ = entry.statistic;
    }
    watch->moved.clear();
    for (uint32_t index : watch->used) {
      *used++ = index;
    }
  });
}

// Whether a tensor on the CPU has no infinite number and no NaN.
int pipe_is_finite(const at::Tensor* tensor, int* finite) {
  return shim::guarded([&] {
    *finite = 1;
    if (!at::isFloatingType(tensor->scalar_type()) && !at::isComplexType(tensor->scalar_type())) {
      return;
    }
    at::NoGradGuard no_grad;
    const void* data = tensor->is_contiguous() ? tensor->const_data_ptr() : nullptr;
    if (data && tensor->scalar_type() == at::kFloat) {
      *finite = shim::finite<uint32_t>(data, tensor->numel(), 0x7f800000);
    } else if (data && tensor->scalar_type() == at::kDouble) {
      *finite = shim::finite<uint64_t>(data, tensor->numel(), 0x7ff0000000000000);
    } else {
      *finite = at::isfinite(*tensor).all().item<bool>();
    }
  });
}

// A digest of the values, kind and layout of a tensor on the CPU.
int pipe_digest(const at::Tensor* tensor, uint64_t* number) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    *number = shim::digest(*tensor);
  });
}

} // extern "C"
