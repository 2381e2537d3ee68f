// One stage's autograd graph for one micro-batch: cut off at the values that the stage receives (the boundary)
// and at the parameters; its roots are the values that the stage sends.
#pragma once

#include "shim.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <unordered_map>

namespace pipe {

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

// What the first half of a split backward leaves for the second one.
struct Cut;

struct Graph {
  std::shared_ptr<Boundary> boundary;
  uint32_t received = 0;
  edge_list roots;
  // Set between the two halves of a split backward.
  std::unique_ptr<Cut> cut;

  Graph();
  ~Graph();
};

// The trainable parameters of a model, in the order in which the caller's node lists them.
struct Parameters {
  std::vector<at::Tensor> tensors;
  std::unordered_map<at::TensorImpl*, size_t> index;
  // Whether matrix products may add to their sums: see `fusion.cpp`.
  bool fuse = false;
};

// One stage's gradients, summed over micro-batches in private until they are committed. By number of the parameter; empty until the first backward.
struct Sums {
  std::vector<at::Tensor> gradients;
};

} // namespace pipe
