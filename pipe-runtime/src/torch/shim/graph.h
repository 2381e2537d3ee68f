// The autograd graph of one stage for one micro-batch. It is cut at the values that the stage
// receives (the boundary) and at the parameters. Its roots are the values that the stage sends.
#pragma once

#include "autograd.h"
#include "shim.h"

#include <memory>
#include <mutex>
#include <unordered_map>

namespace shim {

// Fails, because a backward from outside of the pipeline has reached the end of a stage's graph.
[[noreturn]] void refuse_side_door();

// The end of a stage's graph on the input side. It is a node rather than a detached leaf, so that a
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

// The end of a stage's graph at a parameter. It stands for the parameter's own leaf in every graph
// that is recorded while a job of the pipeline runs. Gradients that arrive here are summed
// privately, and a backward that runs the node is not the pipeline's.
struct ParameterSink : public OwnNode {
  // This also keeps the tensor alive, so that its address is not reused.
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

// Leaves at which a graph ends and that are not parameters. A layer may make such a leaf in each
// forward, which is freed with the graph. One that outlives the graph is held by a layer, and
// should have been made a variable.
class Strangers {
 public:
  void add(const at::Tensor& leaf);
  // Call this after the graph was freed. Returns the message about a leaf that still exists, or
  // nothing.
  std::string forgotten(int64_t stage) const;

 private:
  struct Stranger {
    c10::weak_intrusive_ptr<c10::TensorImpl> leaf;
    std::string shape;
  };
  std::vector<Stranger> strangers_;
};

// A message that several threads may set; the first one stays.
struct Complaint {
  std::mutex mutex;
  std::string message;

  void set(std::string text);
  // Takes the message, because its reader may fix the fault.
  std::string take();
};

// What the first half of a split backward keeps for the second half.
struct Cut;

struct Graph {
  const int64_t stage;
  NodePtr<Boundary> boundary;
  uint32_t received = 0;
  edge_list roots;
  // Set between the two halves of a split backward.
  std::unique_ptr<Cut> cut;
  // The thread that records the graph, and the number of that thread's next node when it began. In
  // a pipeline inside of a layer or a loss, that is when the outermost graph began: what is made
  // around the inner pipeline may go into its graphs, and ends at the outer graph's ends.
  const uint64_t thread;
  const uint64_t first;
  bool ended = false;
  bool reaches_parameters = false;
  Strangers strangers;
  // Where to report that one of them was not made a variable.
  std::shared_ptr<Complaint> complaint;

  explicit Graph(int64_t stage);
  ~Graph();
  // Ends the pass. Nodes with later numbers do not belong to it.
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

  // Makes the sinks stand for the parameters' leaves, until `remove` was called as often.
  void install() const;
  void remove() const;

 private:
  mutable std::mutex mutex_;
  mutable size_t installed_ = 0;
  // Each parameter's own leaf, if it existed before: other graphs end at it.
  mutable std::vector<NodePtr<Node>> leaves_;
};

// The gradients of one stage, summed over micro-batches, private until they are committed. Indexed
// by parameter; empty until the first backward.
struct Sums {
  // Whether they are the sums that one backward through all micro-batches would give, rather than
  // several backwards in sequence.
  bool joined = false;
  // Whether libtorch's engine runs all backwards, also where a walk could: the order in which it
  // adds may differ in the last bit, and must not depend on the thread.
  bool by_engine = false;
  // By number of the parameter. Empty until the first backward.
  std::vector<at::Tensor> gradients;
};

} // namespace shim
