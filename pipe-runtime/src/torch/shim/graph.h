// The autograd graph of one stage for one micro-batch. Its roots are the values that the stage
// sends. It ends at the values that the stage receives (the boundary) and at the parameters.
#pragma once

#include "autograd.h"
#include "shim.h"

#include <memory>
#include <mutex>
#include <unordered_map>

namespace shim {

// Throws, because a backward outside the pipeline has reached the end of a stage's graph.
[[noreturn]] void refuse_side_door();

// The end of a stage's graph on the input side. It is a node and not a detached leaf, so that a
// stage may begin with an in-place layer. The pipeline captures the gradients that arrive here, so
// a backward that runs the node is not the pipeline's.
struct Boundary : public OwnNode {
  variable_list apply(variable_list&&) override {
    refuse_side_door();
  }
  std::string name() const override {
    return "PipelineBoundary";
  }
};

// The end of a stage's graph at a parameter. It replaces the parameter's own leaf in every graph
// that is recorded while a job of the pipeline runs. The pipeline sums the gradients that arrive
// here privately, so a backward that runs the node is not the pipeline's.
struct ParameterSink : public OwnNode {
  // Keeps the tensor alive, so that no other tensor gets its address.
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

// The leaves of a graph that are not parameters. A layer may make one for itself in each forward,
// and it is freed with the graph. If one outlives the graph, a layer holds it: it was probably
// meant to be a variable.
class Strangers {
 public:
  void add(const at::Tensor& leaf);
  // Returns the message for a leaf that still exists, or an empty string. Call it once the graph is
  // freed.
  std::string forgotten(int64_t stage) const;

 private:
  struct Stranger {
    c10::weak_intrusive_ptr<c10::TensorImpl> leaf;
    std::string shape;
  };
  std::vector<Stranger> strangers_;
};

// A message that several threads may set. The first one stays.
struct Complaint {
  std::mutex mutex;
  std::string message;

  void set(std::string text);
  // Returns the message and clears it, because the caller may then fix the cause.
  std::string take();
};

// The state that the first half of a split backward leaves for the second.
struct Cut;

struct Graph {
  const int64_t stage;
  NodePtr<Boundary> boundary;
  uint32_t received = 0;
  edge_list roots;
  // Set between the two halves of a split backward.
  std::unique_ptr<Cut> cut;
  // The thread that records the graph, and the sequence number of that thread's next node at the
  // start.
  const uint64_t thread;
  const uint64_t first;
  bool ended = false;
  bool reaches_parameters = false;
  Strangers strangers;
  // Receives the message about a stranger that outlives the graph.
  std::shared_ptr<Complaint> complaint;

  explicit Graph(int64_t stage);
  ~Graph();
  // Ends the pass. Nodes with later sequence numbers are not part of it.
  void end();
  // Whether the node was made while another graph was recorded.
  bool is_foreign(const Node& node) const;
};

// The trainable parameters of a model, in the order of the caller's node.
struct Parameters {
  std::vector<at::Tensor> tensors;
  std::unordered_map<at::TensorImpl*, size_t> index;
  std::vector<NodePtr<ParameterSink>> sinks;
  std::shared_ptr<Complaint> complaint = std::make_shared<Complaint>();
  // Whether matrix products may add directly to the sums of their gradients: see `fusion.cpp`.
  bool fuse = false;

  // Replaces the parameters' leaves by the sinks, until `remove` has been called as many times.
  void install() const;
  void remove() const;

 private:
  mutable std::mutex mutex_;
  mutable size_t installed_ = 0;
  // The own leaf of each parameter, if it existed already: other graphs end at it.
  mutable std::vector<NodePtr<Node>> leaves_;
};

// The gradients of one stage, summed over micro-batches. They are private until they are committed.
struct Sums {
  // Whether the sums are those of one backward through all micro-batches, instead of one backward
  // after another.
  bool joined = false;
  // By number of the parameter. Empty until the first backward.
  std::vector<at::Tensor> gradients;
};

} // namespace shim
