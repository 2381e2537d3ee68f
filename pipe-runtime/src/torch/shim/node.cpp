// The node that represents one pipelined call in the caller's graph. Its inputs are the caller's
// tensors and the trainable parameters; its `apply` runs the pipelined backward.
#include "graph.h"
#include "layer_key.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>

#include <mutex>

using shim::Node;
using shim::variable_list;

// Runs the backward of `state`. `gradients` holds one tensor or null per output; the function
// writes a new tensor or null per node input to `results`. On failure it returns non-zero and sets
// `*message` to a string that must be freed with the `DropMessageFn`.
using BackwardFn = int (*)(
    void* state,
    const at::Tensor* const* gradients,
    int keep_graph,
    at::Tensor** results,
    char** message);
using DropStateFn = void (*)(void* state);
using DropMessageFn = void (*)(char* message);

namespace {

// Whether the running backward would bypass the pipeline's node and enter a stage's graph, through
// a value that a layer has kept. Such a backward must not even begin, because it may reach other
// leaves first. A node whose gradients are only captured was requested from inside the stage, which
// is allowed.
bool goes_by_a_side_door() {
  const auto* nodes = torch::autograd::get_current_graph_task_nodes_in_graph();
  if (!nodes || shim::in_layer()) {
    return false;
  }
  const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
  for (Node* node : *nodes) {
    if (typeid(*node) == typeid(shim::Boundary) || typeid(*node) == typeid(shim::ParameterSink)) {
      auto found = wanted ? wanted->find(node) : decltype(wanted->end()){};
      bool captured = wanted && found != wanted->end() && found->second.captures_;
      if (!captured) {
        return true;
      }
    }
  }
  return false;
}

struct PipelineBackward : public shim::OwnNode {
  // Shared with every running `apply`, because another thread may release it meanwhile.
  std::shared_ptr<void> state;
  BackwardFn backward;
  DropMessageFn drop_message;

  variable_list apply(variable_list&& gradients) override {
    std::shared_ptr<void> held;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      held = state;
    }
    TORCH_CHECK(
        held,
        "Trying to backward through the pipeline a second time: its state was freed by the first backward. "
        "Keep the graph in the first one (run_backward with keep_graph = true) if you need both");
    TORCH_CHECK(
        !at::GradMode::is_enabled(),
        "create_graph is not supported through a pipeline: a pipelined backward cannot itself be differentiated. "
        "Run the model unpipelined for a double backward");
    if (goes_by_a_side_door()) {
      shim::refuse_side_door();
    }
    std::vector<const at::Tensor*> handed;
    handed.reserve(gradients.size());
    for (const at::Tensor& gradient : gradients) {
      handed.push_back(gradient.defined() ? &gradient : nullptr);
    }
    std::vector<at::Tensor*> results(num_outputs(), nullptr);
    char* message = nullptr;
    int keep = torch::autograd::get_current_graph_task_keep_graph();
    int status = backward(held.get(), handed.data(), keep, results.data(), &message);

    variable_list returned(results.size());
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i]) {
        returned[i] = std::move(*results[i]);
        delete results[i];
      }
    }
    if (status != 0) {
      std::string text = message ? message : "the pipelined backward failed";
      if (message) {
        drop_message(message);
      }
      throw std::runtime_error(text);
    }
    return returned;
  }

  void release_variables() override {
    std::shared_ptr<void> freed;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      freed.swap(state);
    }
  }

  void drop_contents() override {
    release_variables();
  }

  std::string name() const override {
    return "PipelineBackward";
  }
};

} // namespace

extern "C" {

// Makes `outputs` the results of one new node with the inputs `inputs`. Takes ownership of `state`,
// also on failure.
int pipe_node_attach(
    const at::Tensor* const* outputs,
    const uint8_t* differentiable,
    size_t output_count,
    const at::Tensor* const* inputs,
    size_t input_count,
    void* state,
    BackwardFn backward,
    DropStateFn drop_state,
    DropMessageFn drop_message) {
  // Set once the shared pointer is responsible for freeing `state`, even if its construction fails.
  bool handed_over = false;
  int status = shim::guarded([&] {
    auto node = shim::make_node<PipelineBackward>();
    handed_over = true;
    node->state = std::shared_ptr<void>(state, drop_state);
    node->backward = backward;
    node->drop_message = drop_message;
    torch::autograd::edge_list edges;
    edges.reserve(input_count);
    for (size_t i = 0; i < input_count; ++i) {
      edges.push_back(
          inputs[i]->requires_grad() ? torch::autograd::impl::gradient_edge(*inputs[i])
                                     : torch::autograd::Edge());
    }
    node->set_next_edges(std::move(edges));
    for (size_t i = 0; i < output_count; ++i) {
      if (differentiable[i]) {
        torch::autograd::set_history(*outputs[i], node);
      } else {
        node->add_input_metadata(Node::undefined_input());
      }
    }
  });
  if (!handed_over) {
    drop_state(state);
  }
  return status;
}

} // extern "C"
