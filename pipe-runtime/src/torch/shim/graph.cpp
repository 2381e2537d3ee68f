// One stage's autograd graph for one micro-batch: cut off at the values that the stage receives (the boundary)
// and at the parameters; its roots are the values that the stage sends.
#include "shim.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <unordered_map>
#include <unordered_set>

using torch::autograd::AccumulateGrad;
using torch::autograd::Edge;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::variable_list;

namespace {

// Where a stage's graph ends on the input side. A node rather than a detached leaf, so that a stage may
// begin with an in-place layer. The engine captures the gradients that arrive here; it never runs the node.
struct Boundary : public Node {
  variable_list apply(variable_list&&) override {
    return {};
  }
  std::string name() const override {
    return "PipelineBoundary";
  }
};

struct Graph {
  std::shared_ptr<Boundary> boundary;
  uint32_t received = 0;
  edge_list roots;
};

// The trainable parameters of a model, in the order in which the caller's node lists them.
struct Parameters {
  std::vector<at::Tensor> tensors;
  std::unordered_map<at::TensorImpl*, size_t> index;
};

// One stage's gradients, summed over micro-batches in private until the caller's node commits them.
struct Sums {
  std::vector<at::Tensor> gradients;
};

// The leaves of the graph below `roots`, other than its boundary.
std::vector<AccumulateGrad*> leaves(const edge_list& roots, const Node* boundary) {
  std::vector<AccumulateGrad*> found;
  std::unordered_set<Node*> seen;
  std::vector<Node*> open;
  auto visit = [&](Node* node) {
    if (node && node != boundary && seen.insert(node).second) {
      open.push_back(node);
    }
  };
  for (const Edge& root : roots) {
    visit(root.function.get());
  }
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    const edge_list& next = node->next_edges();
    if (next.empty()) {
      if (auto* leaf = dynamic_cast<AccumulateGrad*>(node)) {
        found.push_back(leaf);
      }
      continue;
    }
    for (const Edge& edge : next) {
      visit(edge.function.get());
    }
  }
  return found;
}

// Adds in place only where nobody else can see the memory: a gradient may be a view of another one.
void accumulate(at::Tensor& sum, at::Tensor&& gradient) {
  if (!sum.defined()) {
    sum = std::move(gradient);
  } else if (
      !sum.is_sparse() && !gradient.is_sparse() && sum.use_count() == 1 && sum.has_storage() && sum.storage().use_count() == 1 &&
      sum.is_non_overlapping_and_dense()) {
    sum.add_(gradient);
  } else {
    sum = sum + gradient;
  }
}

} // namespace

extern "C" {

Graph* pipe_graph_new() {
  return new (std::nothrow) Graph();
}

void pipe_graph_free(Graph* graph) {
  delete graph;
}

// A tensor that shares `value`'s memory and whose gradient ends at this graph's boundary.
int pipe_graph_receive(Graph* graph, const at::Tensor* value, at::Tensor** received) {
  return pipe::guarded([&] {
    if (!graph->boundary) {
      graph->boundary = std::shared_ptr<Boundary>(new Boundary(), torch::autograd::deleteNode);
    }
    at::Tensor inner = value->detach();
    uint32_t slot = graph->boundary->add_input_metadata(inner);
    torch::autograd::impl::set_gradient_edge(inner, Edge(graph->boundary, slot));
    graph->received = slot + 1;
    *received = new at::Tensor(std::move(inner));
  });
}

// Makes `value` a root if it carries a gradient, and hands back a detached handle for the receiver.
// The graph keeps the edge only: the value itself can be freed as soon as its receiver is done.
int pipe_graph_send(Graph* graph, const at::Tensor* value, at::Tensor** sent, int* is_root) {
  return pipe::guarded([&] {
    *is_root = value->requires_grad();
    if (*is_root) {
      graph->roots.push_back(torch::autograd::impl::gradient_edge(*value));
    }
    *sent = new at::Tensor(value->detach());
  });
}

Parameters* pipe_parameters_new() {
  return new (std::nothrow) Parameters();
}

void pipe_parameters_free(Parameters* parameters) {
  delete parameters;
}

int pipe_parameters_push(Parameters* parameters, const at::Tensor* tensor) {
  return pipe::guarded([&] {
    parameters->index.emplace(tensor->unsafeGetTensorImpl(), parameters->tensors.size());
    parameters->tensors.push_back(*tensor);
  });
}

Sums* pipe_sums_new() {
  return new (std::nothrow) Sums();
}

void pipe_sums_free(Sums* sums) {
  delete sums;
}

// Adds `from` to `into`, parameter by parameter; `from` is empty afterwards.
int pipe_sums_merge(Sums* into, Sums* from) {
  return pipe::guarded([&] {
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

// Moves the gradient of parameter `index` out, so that the caller's engine may take its memory over; null if there is none.
int pipe_sums_take(Sums* sums, size_t index, at::Tensor** gradient) {
  return pipe::guarded([&] {
    *gradient = nullptr;
    if (index < sums->gradients.size() && sums->gradients[index].defined()) {
      *gradient = new at::Tensor(std::move(sums->gradients[index]));
    }
  });
}

// Runs the graph backwards from its roots. `gradients` holds one tensor or null per root; those of the parameters are added
// to `sums`, those of the received values are written to `received` (null where none arrived).
int pipe_graph_backward(
    Graph* graph,
    const at::Tensor* const* gradients,
    int keep_graph,
    const Parameters* parameters,
    Sums* sums,
    at::Tensor** received) {
  return pipe::guarded([&] {
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

    edge_list targets;
    for (uint32_t slot = 0; slot < graph->received; ++slot) {
      targets.emplace_back(graph->boundary, slot);
    }
    std::vector<size_t> reached;
    for (AccumulateGrad* leaf : leaves(roots, graph->boundary.get())) {
      auto known = parameters->index.find(leaf->variable.unsafeGetTensorImpl());
      TORCH_CHECK(
          known != parameters->index.end(),
          "a layer uses a trainable tensor of shape ",
          leaf->variable.sizes(),
          " that is not in the pipeline's vars: create it through the layer's path (`vars.layer().var(..)`) or call set_requires_grad(false)");
      reached.push_back(known->second);
      targets.emplace_back(leaf->shared_from_this(), 0);
    }
    if (targets.empty()) {
      return;
    }

    variable_list found = torch::autograd::Engine::get_default_engine().execute(
        roots, seeds, keep_graph != 0, /*create_graph=*/false, /*accumulate_grad=*/false, targets);
    seeds.clear();

    at::NoGradGuard no_grad;
    for (uint32_t slot = 0; slot < graph->received; ++slot) {
      received[slot] = found[slot].defined() ? new at::Tensor(std::move(found[slot])) : nullptr;
    }
    if (sums->gradients.size() < parameters->tensors.size()) {
      sums->gradients.resize(parameters->tensors.size());
    }
    for (size_t i = 0; i < reached.size(); ++i) {
      at::Tensor& gradient = found[graph->received + i];
      if (gradient.defined()) {
        accumulate(sums->gradients[reached[i]], std::move(gradient));
      }
    }
  });
}

} // extern "C"
