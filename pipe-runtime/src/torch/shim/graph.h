// One stage's autograd graph for one micro-batch. It ends at the values that the stage receives
// (the boundary) and at the parameters; its roots are the values that the stage sends.
#pragma once

#include "autograd.h"
#include "shim.h"

#include <memory>
#include <mutex>
#include <unordered_map>

namespace shim {

// Throws because a value bypasses the pipeline: a backward that is not the pipeline's reaches the
// end of a stage's graph, or a stage's graph contains nodes of another pass.
[[noreturn]] void refuse_side_door();

// The node at which a stage's graph ends on the input side. It is a node rather than a detached
// leaf so that a stage may begin with an in-place layer. The pipeline's backward captures the
// gradients that arrive here and never runs the node; a backward that runs it is not the
// pipeline's.
struct Boundary : public OwnNode {
  variable_list apply(variable_list&&) override {
    refuse_side_door();
  }
  std::string name() const override {
    return "PipelineBoundary";
  }
};

// The node at which a stage's graph ends at a parameter. It replaces the parameter's own leaf in
// every graph that is recorded while a job of the pipeline runs. The pipeline sums the gradients
// that arrive here in private and never runs the node; a backward that runs it is not the
// pipeline's.
struct ParameterSink : public OwnNode {
  // Also keeps the tensor alive, so that no other tensor gets its address.
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

// Trainable leaves at which a graph ends and that are not parameters. A layer may create one in
// each forward; it is freed with the graph. A leaf that outlives the graph is held by a layer,
// which means that the user forgot to make it a variable.
class Strangers {
 public:
  void add(const at::Tensor& leaf);
  // Returns an error message about a leaf that still exists, or an empty string. Call it after the
  // graph is freed.
  std::string forgotten(int64_t stage) const;

 private:
  struct Stranger {
    c10::weak_intrusive_ptr<c10::TensorImpl> leaf;
    std::string shape;
  };
  std::vector<Stranger> strangers_;
};

// A message that several threads may set; the first one is kept.
struct Complaint {
  std::mutex mutex;
  std::string message;

  void set(std::string text);
  // Returns the message and clears it, because the user may fix its cause and go on.
  std::string take();
};

// The state that the first half of a split backward leaves for the second half.
struct Cut;

struct Graph {
  const int64_t stage;
  NodePtr<Boundary> boundary;
  uint32_t received = 0;
  edge_list roots;
  // Set between the two halves of a split backward.
  std::unique_ptr<Cut> cut;
  // The thread that records the graph, and the sequence number of that thread's next node when it
  // began.
  const uint64_t thread;
  const uint64_t first;
  bool ended = false;
  bool reaches_parameters = false;
  Strangers strangers;
  // Receives the message about a forgotten leaf.
  std::shared_ptr<Complaint> complaint;

  explicit Graph(int64_t stage);
  ~Graph();
  // Ends the pass. Nodes with later sequence numbers do not belong to it.
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
  // Whether matrix products may add to the sums: see `fusion.cpp`.
  bool fuse = false;

  // Replaces the parameters' own leaves by the sinks, until `remove` has been called as often.
  void install() const;
  void remove() const;

 private:
  mutable std::mutex mutex_;
  mutable size_t installed_ = 0;
  // Each parameter's own leaf, if it existed already: other graphs end at it.
  mutable std::vector<NodePtr<Node>> leaves_;
};

// One stage's parameter gradients, summed over micro-batches in private until they are committed.
// Indexed by parameter number; empty until the first backward.
struct Sums {
  // Whether the sums must equal the gradients of one backward through all micro-batches, not those
  // of one backward after the other.
  bool joined = false;
  std::vector<at::Tensor> gradients;
};

} // namespace shim
