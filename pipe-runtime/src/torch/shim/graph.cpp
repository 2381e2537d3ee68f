#include "graph.h"
#include "stream.h"

#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/utils/grad_layout_contract.h>

#include <unordered_set>

namespace pipe {

// The leaves of the graph below `roots`, other than its boundary.
static std::vector<AccumulateGrad*> leaves(const edge_list& roots, const Node* boundary) {
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
      TORCH_CHECK(
          !dynamic_cast<Boundary*>(node),
          "a layer's graph reaches into another micro-batch: what a layer keeps from one to the next must be detached");
      continue;
    }
    for (const Edge& edge : next) {
      visit(edge.function.get());
    }
  }
  return found;
}

Reached reached(const edge_list& roots, const Node* boundary, const Parameters& parameters) {
  Reached result;
  for (AccumulateGrad* leaf : leaves(roots, boundary)) {
    auto known = parameters.index.find(leaf->variable.unsafeGetTensorImpl());
    TORCH_CHECK(
        known != parameters.index.end(),
        "a layer uses a trainable tensor of shape ",
        leaf->variable.sizes(),
        " that is not in the pipeline's vars: create it through the layer's path (`vars.layer().var(..)`) or call set_requires_grad(false)");
    result.parameters.push_back(known->second);
    result.targets.emplace_back(leaf->shared_from_this(), 0);
  }
  return result;
}

variable_list walk(const edge_list& roots, const variable_list& seeds, bool keep_graph, const edge_list& targets) {
  struct OnThisThread {
    bool before = c10::AutogradState::get_tls_state().get_multithreading_enabled();
    OnThisThread() {
      c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
    }
    ~OnThisThread() {
      c10::AutogradState::get_tls_state().set_multithreading_enabled(before);
    }
  } on_this_thread;
  return torch::autograd::Engine::get_default_engine().execute(
      roots, seeds, keep_graph, /*create_graph=*/false, /*accumulate_grad=*/false, targets);
}

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

void accumulate_reached(Sums& sums, const Parameters& parameters, const Reached& reached, variable_list&& found, size_t first) {
  if (sums.gradients.size() < parameters.tensors.size()) {
    sums.gradients.resize(parameters.tensors.size());
  }
  for (size_t i = 0; i < reached.parameters.size(); ++i) {
    at::Tensor& gradient = found[first + i];
    if (gradient.defined()) {
      accumulate(sums.gradients[reached.parameters[i]], std::move(gradient));
    }
  }
}

} // namespace pipe

using namespace pipe;

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

// This thread will use the sums, on its own current streams, which wait for the stages'.
int pipe_sums_used_here(const Sums* sums) {
  return pipe::guarded([&] {
    for (const at::Tensor& sum : sums->gradients) {
      if (sum.defined() && !sum.device().is_cpu()) {
        pipe::record_use(sum, c10::impl::VirtualGuardImpl(sum.device().type()).getStream(sum.device()));
      }
    }
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
    Reached leaves = reached(roots, graph->boundary.get(), *parameters);
    targets.insert(targets.end(), leaves.targets.begin(), leaves.targets.end());
    if (targets.empty()) {
      return;
    }

    variable_list found = walk(roots, seeds, keep_graph != 0, targets);
    seeds.clear();

    at::NoGradGuard no_grad;
    for (uint32_t slot = 0; slot < graph->received; ++slot) {
      received[slot] = found[slot].defined() ? new at::Tensor(std::move(found[slot])) : nullptr;
    }
    accumulate_reached(*sums, *parameters, leaves, std::move(found), graph->received);
  });
}

// Adds the sums to the parameters' own gradients, as libtorch's AccumulateGrad would: where there is none, the sum becomes it if nobody else can
// see its memory. All that can fail comes before anything is changed.
int pipe_sums_commit(Sums* sums, const Parameters* parameters) {
  return pipe::guarded([&] {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < sums->gradients.size(); ++i) {
      at::Tensor& sum = sums->gradients[i];
      if (!sum.defined() || parameters->tensors[i].grad().defined()) {
        continue;
      }
      bool alone = !sum.is_sparse() && sum.use_count() == 1 && sum.has_storage() && sum.storage().use_count() == 1;
      if (!alone || !torch::autograd::utils::obeys_layout_contract(sum, parameters->tensors[i])) {
        sum = sum.is_sparse() ? sum.clone() : torch::autograd::utils::clone_obey_contract(sum, parameters->tensors[i]);
      }
    }
    for (size_t i = 0; i < sums->gradients.size(); ++i) {
      at::Tensor& sum = sums->gradients[i];
      if (sum.defined()) {
        at::Tensor& gradient = parameters->tensors[i].mutable_grad();
        if (!gradient.defined()) {
          gradient = std::move(sum);
        } else if (gradient.is_sparse() && !sum.is_sparse()) {
          gradient = sum + gradient;
        } else {
          gradient.add_(sum);
        }
      }
    }
    sums->gradients.clear();
  });
}

} // extern "C"
