// One stage's autograd graph for one micro-batch: cut off at the values that the stage receives (the boundary)
// and at the parameters; its roots are the values that the stage sends.
#pragma once

#include "shim.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <unordered_map>

namespace pipe {

using torch::autograd::AccumulateGrad;
using torch::autograd::Edge;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::variable_list;

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

// Where the backward for the weights starts, once the backward for the inputs has passed: a node's inputs and their gradients.
struct Cut {
  edge_list edges;
  variable_list gradients;
};

struct Graph {
  std::shared_ptr<Boundary> boundary;
  uint32_t received = 0;
  edge_list roots;
  // Set between the two halves of a split backward.
  std::optional<Cut> cut;
};

// The trainable parameters of a model, in the order in which the caller's node lists them.
struct Parameters {
  std::vector<at::Tensor> tensors;
  std::unordered_map<at::TensorImpl*, size_t> index;
};

// One stage's gradients, summed over micro-batches in private until they are committed.
struct Sums {
  std::vector<at::Tensor> gradients;
};

// The parameters' leaves below some roots: as targets for the engine, and as numbers.
struct Reached {
  edge_list targets;
  std::vector<size_t> parameters;
};

// Finds them. A trainable tensor that is not among `parameters` is an error.
Reached reached(const edge_list& roots, const Node* boundary, const Parameters& parameters);

// Runs libtorch's engine from `roots` to `targets`, on the calling thread for every device: a worker owns its stage, and the threads that
// libtorch has for accelerators may be waiting for this very walk.
variable_list walk(const edge_list& roots, const variable_list& seeds, bool keep_graph, const edge_list& targets);

// Adds in place only where nobody else can see the memory: a gradient may be a view of another one.
void accumulate(at::Tensor& sum, at::Tensor&& gradient);

// Adds the gradients that the engine found for `reached`, from position `first` on.
void accumulate_reached(Sums& sums, const Parameters& parameters, const Reached& reached, variable_list&& found, size_t first);

} // namespace pipe
