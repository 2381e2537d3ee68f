#include "layer_key.h"
#include "passes.h"
#include "stream.h"
#include "walk.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/utils/grad_layout_contract.h>

#include <map>
#include <set>
#include <sstream>
#include <utility>

using namespace shim;

namespace shim {

void refuse_side_door() {
  TORCH_CHECK(
      !in_layer(),
      "a `backward()` inside of a layer comes to the pipeline's variables, or to the stage's input: their gradients would be added there and then, and once more by a "
      "recomputation. Detach what it is made of, or ask for the gradients that the layer needs by `Tensor::run_backward`");
  TORCH_CHECK(
      false,
      "a value has left its stage by a side door: a layer kept it, say in a cell, and the graph of another micro-batch, of another stage, of the loss or "
      "of the caller uses it, so its gradient would have to come back past the pipeline. What a layer keeps must be detached; to train with it, send it along: "
      "as a part of what the layer returns, as a skip (`#[stash(..)]`, or `#[lend(..)]` for several layers), or to the end as a part of the output (`Sum`, "
      "`Mean`), to which several layers add by `#[sum(..)]`");
}

void Strangers::add(const at::Tensor& leaf) {
  std::ostringstream shape;
  shape << leaf.sizes();
  strangers_.push_back(
      {c10::weak_intrusive_ptr<c10::TensorImpl>(leaf.getIntrusivePtr()), shape.str()});
}

std::string Strangers::forgotten(int64_t stage) const {
  for (const Stranger& stranger : strangers_) {
    if (!stranger.leaf.expired()) {
      return "stage " + std::to_string(stage) + " uses a trainable tensor of shape " +
          stranger.shape +
          " that is not in the pipeline's vars and that outlives the forward: create it through the layer's path (`vars.layer().var(..)`) or call "
          "set_requires_grad(false)";
    }
  }
  return {};
}

void Complaint::set(std::string text) {
  std::lock_guard<std::mutex> lock(mutex);
  if (message.empty()) {
    message = std::move(text);
  }
}

std::string Complaint::take() {
  std::lock_guard<std::mutex> lock(mutex);
  return std::exchange(message, {});
}

Graph::Graph(int64_t stage)
    : stage(stage),
      thread(at::RecordFunction::currentThreadId()),
      first(OwnPasses::here().begin(at::sequence_number::peek())) {}

void Graph::end() {
  if (std::exchange(ended, true)) {
    return;
  }
  if (thread == at::RecordFunction::currentThreadId()) {
    OwnPasses::here().end(at::sequence_number::peek());
  } else {
    threads().drop(thread);
  }
}

Graph::~Graph() {
  try {
    end();
  } catch (...) {
    // Without memory to record the pass, its nodes count as belonging to no pass.
  }
  roots.clear();
  cut.reset();
  boundary.reset();
  if (complaint) {
    std::string forgotten = strangers.forgotten(stage);
    if (!forgotten.empty()) {
      complaint->set(std::move(forgotten));
    }
  }
}

// Whether the node only describes a view of its base. A layer may keep views of its weights that
// were made in its first pass. They lead to the weights, and have nothing to free. The operators
// are all of libtorch's that return views and save no tensor for their derivative; one with several
// derivatives has a number behind its name for each.
static bool is_view(const Node& node) {
  static const std::set<std::string> operators = {
      "Alias",
      "AsStrided",
      "Conj",
      "Diagonal",
      "Expand",
      "NegView",
      "Permute",
      "ReshapeAlias",
      "Select",
      "Slice",
      "Split",
      "SplitWithSizes",
      "Squeeze",
      "T",
      "Transpose",
      "Unbind",
      "Unfold",
      "Unsqueeze",
      "View",
      "ViewAsComplex",
      "ViewAsReal"};
  static const std::string suffix = "Backward";
  std::string name = node.name();
  name.erase(name.find_last_not_of("0123456789") + 1);
  size_t end = name.rfind(suffix);
  return end != std::string::npos && end + suffix.size() == name.size() &&
      operators.count(name.substr(0, end)) > 0;
}

bool Graph::is_foreign(const Node& node) const {
  bool made_here = node.thread_id() == thread && node.sequence_nr() >= first;
  return !made_here && threads().contain(node.thread_id(), node.sequence_nr()) && !is_view(node);
}

void Parameters::install() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (installed_++ > 0) {
    return;
  }
  leaves_.clear();
  for (const auto& sink : sinks) {
    auto* meta = torch::autograd::impl::materialize_autograd_meta(sink->parameter);
    // Other threads read the list under this lock.
    std::lock_guard<std::mutex> meta_lock(meta->mutex_);
    NodePtr<Node> leaf = meta->grad_accumulator_.lock();
    // Another pipeline with the same variable may be running.
    bool is_own = !leaf || typeid(*leaf) != typeid(ParameterSink);
    leaves_.push_back(is_own ? std::move(leaf) : nullptr);
    meta->grad_accumulator_ = WeakNodePtr(NodePtr<Node>(sink));
  }
}

void Parameters::remove() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (--installed_ > 0) {
    return;
  }
  for (size_t i = 0; i < leaves_.size(); ++i) {
    auto* meta = torch::autograd::impl::materialize_autograd_meta(sinks[i]->parameter);
    std::lock_guard<std::mutex> meta_lock(meta->mutex_);
    if (meta->grad_accumulator_.lock().get() == sinks[i].get()) {
      meta->grad_accumulator_ = WeakNodePtr(leaves_[i]);
    }
  }
  leaves_.clear();
}

} // namespace shim

extern "C" {

// Starts the graph of a pass of this stage.
int pipe_graph_new(int64_t stage, Graph** graph) {
  return shim::guarded([&] { *graph = new Graph(stage); });
}

void pipe_graph_free(Graph* graph) {
  delete graph;
}

// Makes a tensor that shares `value`'s memory and whose gradient ends at this graph's boundary.
int pipe_graph_receive(Graph* graph, const at::Tensor* value, at::Tensor** received) {
  return shim::guarded([&] {
    if (!graph->boundary) {
      graph->boundary = make_node<Boundary>();
    }
    at::Tensor inner = value->detach();
    uint32_t slot = graph->boundary->add_input_metadata(inner);
    torch::autograd::impl::set_gradient_edge(inner, Edge(graph->boundary, slot));
    graph->received = slot + 1;
    *received = new at::Tensor(std::move(inner));
  });
}

// Ends the pass: nodes that this thread makes from now on do not belong to it.
int pipe_graph_end(Graph* graph) {
  return shim::guarded([&] { graph->end(); });
}

// Whether a backward through the graph has reached a parameter.
int pipe_graph_reaches_parameters(const Graph* graph) {
  return graph->reaches_parameters;
}

// Makes `value` a root if it has a gradient, and returns a detached handle for the receiver. The
// graph keeps only the edge, so the value itself can be freed as soon as its receiver is done.
int pipe_graph_send(Graph* graph, const at::Tensor* value, at::Tensor** sent, int* is_root) {
  return shim::guarded([&] {
    *is_root = value->requires_grad();
    if (*is_root) {
      graph->roots.push_back(torch::autograd::impl::gradient_edge(*value));
    }
    *sent = new at::Tensor(value->detach());
  });
}

// With `fuse`, matrix products may add to the sums of these parameters.
int pipe_parameters_new(int fuse, Parameters** parameters) {
  return shim::guarded([&] {
    *parameters = new Parameters();
    (*parameters)->fuse = fuse != 0;
  });
}

void pipe_parameters_free(Parameters* parameters) {
  delete parameters;
}

int pipe_parameters_push(Parameters* parameters, const at::Tensor* tensor) {
  return shim::guarded([&] {
    parameters->index.emplace(tensor->unsafeGetTensorImpl(), parameters->tensors.size());
    parameters->tensors.push_back(*tensor);
    parameters->sinks.push_back(make_node<ParameterSink>(*tensor));
  });
}

// Whether parameter `index` is this tensor, with the same kind, shape and device.
int pipe_parameters_has(const Parameters* parameters, size_t index, const at::Tensor* tensor) {
  if (index >= parameters->tensors.size() || !parameters->tensors[index].is_same(*tensor)) {
    return 0;
  }
  const auto& metadata = parameters->sinks[index]->input_metadata(0);
  return metadata.dtype() == tensor->dtype() && metadata.device() == tensor->device() &&
      metadata.is_same_shape(*tensor);
}

// From now until `pipe_parameters_remove`, graphs that are recorded on any thread end at the
// parameters' sinks, not at their own leaves.
int pipe_parameters_install(const Parameters* parameters) {
  return shim::guarded([&] { parameters->install(); });
}

void pipe_parameters_remove(const Parameters* parameters) {
  parameters->remove();
}

// Fails if a graph that was freed ended at a trainable tensor that a layer holds and that is not a
// parameter.
int pipe_parameters_complain(const Parameters* parameters) {
  return shim::guarded([&] {
    std::string message = parameters->complaint->take();
    TORCH_CHECK(message.empty(), message);
  });
}

// Whether this thread is inside a run of libtorch's engine for certain gradients only.
int pipe_engine_is_choosy() {
  return shim::engine_is_choosy();
}

// With `joined`, the sums are those that one backward through all micro-batches would give. With
// `by_engine`, all backwards that add to them are left to libtorch's engine.
int pipe_sums_new(int joined, int by_engine, Sums** sums) {
  return shim::guarded([&] {
    *sums = new Sums();
    (*sums)->joined = joined != 0;
    (*sums)->by_engine = by_engine != 0;
  });
}

void pipe_sums_free(Sums* sums) {
  delete sums;
}

// Adds `from` to `into`, parameter by parameter. `from` is empty afterwards.
int pipe_sums_merge(Sums* into, Sums* from) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    into->gradients.resize(std::max(into->gradients.size(), from->gradients.size()));
    for (size_t i = 0; i < from->gradients.size(); ++i) {
      if (from->gradients[i].defined()) {
        accumulate(into->gradients[i], std::move(from->gradients[i]));
      }
    }
    from->gradients.clear();
  });
}

// Makes this thread's current streams wait for the stages' streams, and records that they will use
// the sums.
int pipe_sums_used_here(const Sums* sums) {
  return shim::guarded([&] {
    for (const at::Tensor& sum : sums->gradients) {
      if (sum.defined() && !sum.device().is_cpu()) {
        shim::record_use(
            sum, c10::impl::VirtualGuardImpl(sum.device().type()).getStream(sum.device()));
      }
    }
  });
}

// Moves the gradient of parameter `index` out, so that the caller's engine may reuse its memory;
// null if there is none.
int pipe_sums_take(Sums* sums, size_t index, at::Tensor** gradient) {
  return shim::guarded([&] {
    *gradient = nullptr;
    if (index < sums->gradients.size() && sums->gradients[index].defined()) {
      *gradient = new at::Tensor(std::move(sums->gradients[index]));
    }
  });
}

// Makes `gradient` that of parameter `index`.
int pipe_sums_put(Sums* sums, size_t index, const at::Tensor* gradient) {
  return shim::guarded([&] {
    sums->gradients.resize(std::max(sums->gradients.size(), index + 1));
    sums->gradients[index] = *gradient;
  });
}

// Runs the backward from the roots. `gradients` holds one tensor or null per root. The gradients of
// parameters are added to `sums`, for the last time if `last`. Those of the received values are
// written to `received` (null where none arrived).
int pipe_graph_backward(
    Graph* graph,
    const at::Tensor* const* gradients,
    int keep_graph,
    const Parameters* parameters,
    Sums* sums,
    int last,
    at::Tensor** received) {
  return shim::guarded([&] {
    edge_list roots;
    variable_list seeds;
    for (size_t i = 0; i < graph->roots.size(); ++i) {
      if (gradients[i]) {
        roots.push_back(graph->roots[i]);
        seeds.push_back(*gradients[i]);
      }
    }
    if (roots.empty()) {
      return;
    }

    variable_list found(graph->received);
    sums->gradients.resize(parameters->tensors.size());
    backward(
        *graph, roots, std::move(seeds), keep_graph != 0, {*parameters, *sums, last != 0}, found);
    hand_over(std::move(found), received);
  });
}

// Adds the sums to the parameters' gradients, as libtorch's AccumulateGrad does: if there is none,
// the sum becomes it, provided that no other tensor uses its memory. Everything that can fail comes
// before the first change, unless libtorch cannot even add numbers: then no parameter has a
// gradient afterwards, since some would have this one and some would not.
int pipe_sums_commit(Sums* sums, const Parameters* parameters) {
  return shim::guarded([&] {
    at::NoGradGuard no_grad;
    // What needs memory is computed before any gradient is changed, so that all are or none is.
    std::map<size_t, at::Tensor> added;
    for (size_t i = 0; i < sums->gradients.size(); ++i) {
      at::Tensor& sum = sums->gradients[i];
      if (!sum.defined()) {
        continue;
      }
      if (const at::Tensor& gradient = parameters->tensors[i].grad(); gradient.defined()) {
        TORCH_CHECK(
            gradient.sizes() == sum.sizes() && gradient.scalar_type() == sum.scalar_type() &&
                gradient.device() == sum.device(),
            "a gradient that is there already, of shape ",
            gradient.sizes(),
            " and kind ",
            gradient.scalar_type(),
            ", is not one for its variable: nothing has been added to any");
        if (gradient.is_sparse() || sum.is_sparse()) {
          added[i] = gradient.is_sparse() && !sum.is_sparse() ? sum + gradient : gradient + sum;
        } else {
          at::assert_no_internal_overlap(gradient);
        }
        continue;
      }
      if (!is_alone(sum) ||
          !torch::autograd::utils::obeys_layout_contract(sum, parameters->tensors[i])) {
        sum = sum.is_sparse()
            ? sum.clone()
            : torch::autograd::utils::clone_obey_contract(sum, parameters->tensors[i]);
      }
    }
    auto add = [&](size_t i, at::Tensor& sum) {
      at::Tensor& gradient = parameters->tensors[i].mutable_grad();
      if (!gradient.defined()) {
        gradient = std::move(sum);
      } else if (!added.count(i)) {
        gradient.add_(sum);
      } else if (gradient.is_sparse() && !sum.is_sparse()) {
        gradient = std::move(added[i]);
      } else if (gradient.is_sparse()) {
        // Other handles on the gradient see the change, too.
        gradient.set_data(added[i]);
        gradient.unsafeGetTensorImpl()->bump_version();
      } else {
        // Views of the gradient do, too.
        gradient.copy_(added[i]);
      }
    };
    try {
      for (size_t i = 0; i < sums->gradients.size(); ++i) {
        if (sums->gradients[i].defined()) {
          add(i, sums->gradients[i]);
        }
      }
    } catch (const std::exception& error) {
      for (const at::Tensor& parameter : parameters->tensors) {
        parameter.mutable_grad().reset();
      }
      TORCH_CHECK(
          false,
          "the gradients cannot be added to those of the parameters, which have been dropped, with those of earlier "
          "steps: ",
          shim::words(error));
    }
    sums->gradients.clear();
  });
}

} // extern "C"
