#include "stream.h"
#include "walk.h"

#include <torch/csrc/autograd/utils/grad_layout_contract.h>

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

// With `fuse`, matrix products may add to the sums of these.
Parameters* pipe_parameters_new(int fuse) {
  auto parameters = new (std::nothrow) Parameters();
  if (parameters) {
    parameters->fuse = fuse != 0;
  }
  return parameters;
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
// to `sums`, for the last time if `last`; those of the received values are written to `received` (null where none arrived).
int pipe_graph_backward(
    Graph* graph,
    const at::Tensor* const* gradients,
    int keep_graph,
    const Parameters* parameters,
    Sums* sums,
    int last,
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

    variable_list found(graph->received);
    sums->gradients.resize(parameters->tensors.size());
    backward(*graph, roots, std::move(seeds), keep_graph != 0, {*parameters, *sums, last != 0}, found);
    hand_over(std::move(found), received);
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
      if (!is_alone(sum) || !torch::autograd::utils::obeys_layout_contract(sum, parameters->tensors[i])) {
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
