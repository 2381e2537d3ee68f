// One stage's autograd graph for one micro-batch: cut off at the values that the stage receives
// (the boundary) and at the parameters; its roots are the values that the stage sends.
#pragma once

#include "autograd.h"
#include "shim.h"

#include <memory>
#include <mutex>
#include <unordered_map>

namespace shim {

// Fails, because a backward has come to the end of a stage's graph from outside of the pipeline.
[[noreturn]] void refuse_side_door();

// Where a stage's graph ends on the input side. A node rather than a detached leaf, so that a
// stage may begin with an in-place layer. The gradients that arrive here are captured. A backward
// that runs the node is not the pipeline's.
struct Boundary : public OwnNode {
  variable_list apply(variable_list&&) override {
    refuse_side_door();
  }
  std::string name() const override {
    return "PipelineBoundary";
  }
};

// Where a stage's graph ends at a parameter. It stands for the parameter's own leaf in every graph
// that is recorded while a job of the pipeline runs: gradients that arrive here are summed in
// private, and a backward that runs the node is not the pipeline's.
struct ParameterSink : public OwnNode {
  // Also keeps the tensor, so that the address stays its own.
  at::Tensor parameter;

  explicit ParameterSink(at::Tensor tensor)
      : OwnNode(/*sequence_nr=*/UINT64_MAX), parameter(std::move(tensor)) {
    add_input_metadata(parameter);
  }
  variable_list apply(variable_list&&) override {
    refuse_side_door();
  }
  std::string name() const override {
    return "PipelineParameter";
  }
  void drop_contents() override {
    parameter.reset();
  }
};

// Leaves that a graph ends at and that are not parameters. A layer may make one for itself in each
// forward, which dies with the graph. One that outlives the graph is held by a layer: somebody has
// forgotten to make it a variable.
class Strangers {
 public:
  void add(const at::Tensor& leaf);
  // To be called once the graph is gone. The words for one that is still there, or nothing.
  std::string forgotten(int64_t stage) const;

 private:
  struct Stranger {
    c10::weak_intrusive_ptr<c10::TensorImpl> leaf;
    std::string shape;
  };
  std::vector<Stranger> strangers_;
};

// A message that several threads may leave; the first one stays.
struct Complaint {
  std::mutex mutex;
  std::string message;

  void set(std::string text);
  // The message, which is gone then: whoever hears of it may mend it.
  std::string take();
};

// What the first half of a split backward leaves for the second one.
struct Cut;

struct Graph {
  const int64_t stage;
  NodePtr<Boundary> boundary;
  uint32_t received = 0;
  edge_list roots;
  // Set between the two halves of a split backward.
  std::unique_ptr<Cut> cut;
  // The thread that records it, and the number of that thread's next node when it began.
  const uint64_t thread;
  const uint64_t first;
  bool ended = false;
  bool reaches_parameters = false;
  Strangers strangers;
  // Where to say that one of them is forgotten.
  std::shared_ptr<Complaint> complaint;

  explicit Graph(int64_t stage);
  ~Graph();
  // The pass is over. Nodes of a later number are not its.
  void end();
  // Whether the node was made while another graph was recorded.
  bool is_foreign(const Node& node) const;
};

// The trainable parameters of a model, in the order in which the caller's node lists them.
struct Parameters {
  std::vector<at::Tensor> tensors;
  std::unordered_map<at::TensorImpl*, size_t> index;
  std::vector<NodePtr<ParameterSink>> sinks;
  std::shared_ptr<Complaint> complaint = std::make_shared<Complaint>();
  // Whether matrix products may add to their sums: see `fusion.cpp`.
  bool fuse = false;

  // Lets the sinks stand for the parameters' leaves, until `remove` has been called as often.
  void install() const;
  void remove() const;

 private:
  mutable std::mutex mutex_;
  mutable size_t installed_ = 0;
  // Each parameter's own leaf, if it was there already: other graphs end at it.
  mutable std::vector<NodePtr<Node>> leaves_;
};

// One stage's gradients, summed over micro-batches in private until they are committed. By number
// of the parameter; empty until the first backward.
struct Sums {
  // Whether they are to be what one backward through all micro-batches would give, and not what
  // one after the other would add up.
  bool joined = false;
  std::vector<at::Tensor> gradients;
};

} // namespace shim
