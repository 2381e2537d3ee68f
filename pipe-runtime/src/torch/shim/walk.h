// A backward walk over a stage's autograd graph, without libtorch's engine. For each node, the
// engine uses a queue, three hash maps and a full switch of the thread's state, because it supports
// graphs that span devices and threads. A stage's graph is on one device and was made by one
// thread, so one thread walks it.
#pragma once

#include "graph.h"

#include <optional>

namespace shim {

// The graph below some roots, found in one pass over it.
struct Topology {
  enum class Kind : uint8_t { nothing, node, parameter, boundary };

  // The target of an edge: the index of a node in `nodes`, or the number of a parameter.
  struct Target {
    Kind kind = Kind::nothing;
    uint32_t index = 0;
  };

  std::vector<Node*> nodes;
  // The indices of the nodes in the order in which libtorch's engine runs them, latest first. A
  // node comes before those that its edges lead to.
  std::vector<uint32_t> order;
  // The index in `targets` of the first edge of each node.
  std::vector<uint32_t> first;
  std::vector<Target> targets;
  std::vector<Target> roots;
  // The leaves of the parameters, for libtorch's engine, and the numbers of these parameters.
  edge_list leaves;
  std::vector<uint32_t> parameters;
  // Whether the graph can be walked without libtorch's engine: see `walk.cpp`.
  bool plain = true;
  // Whether it can also be walked in two halves. A graph with a node for a view that was changed in
  // place cannot, because that node needs all of its edges.
  bool splits = true;

  // Explores the part of `graph` below `roots`. Throws if it finds a node of another pass.
  Topology(const edge_list& roots, Graph& graph, const Parameters& parameters);

  // For each node, whether the boundary can be reached from it.
  std::vector<bool> above_boundary() const;
};

// The gradients that have arrived at the inputs of each node. The list of a node is empty until one
// arrives.
using Arrived = std::vector<variable_list>;

struct Cut {
  Topology topology;
  // Whether the second half still has to run the node, by node.
  std::vector<bool> pending;
  Arrived arrived;
  // Keeps the cuts and all nodes below them alive, after the edges to them have been removed.
  std::vector<NodePtr<Node>> nodes;
};

// Runs libtorch's engine from `roots` to `targets`, on the calling thread for all devices. A worker
// owns its stage, and libtorch's threads for accelerators may be waiting for this very run.
variable_list engine(
    const edge_list& roots,
    const variable_list& seeds,
    bool keep_graph,
    const edge_list& targets);

// The receiver of the parameters' gradients.
struct Leaves {
  const Parameters& parameters;
  Sums& sums;
  // Whether this backward is the last one that adds to the sums of this stage.
  bool last;

  void arrive(size_t parameter, at::Tensor&& gradient);

  // Call this after each addition to a sum.
  void settle(size_t parameter);
};

// A guard that removes the edges of a node for which `away` holds, and restores them when dropped.
class Without {
 public:
  template <typename Away>
  Without(Node& node, Away away) : edges_(node.next_edges()), whole_(edges_) {
    for (uint32_t edge = 0; edge < edges_.size(); ++edge) {
      if (away(edge)) {
        edges_[edge] = Edge();
      }
    }
  }
  ~Without() {
    edges_ = std::move(whole_);
  }

 private:
  edge_list& edges_;
  edge_list whole_;
};

// One walk over a plain graph.
class Walk {
 public:
  Walk(const Topology& topology, Arrived& arrived, Leaves leaves, variable_list& received)
      : topology_(topology), arrived_(arrived), leaves_(leaves), received_(received) {}

  // Passes the gradients of the roots to the targets of the roots.
  void start(const edge_list& roots, variable_list&& seeds);

  // Runs a node on the gradients that have arrived for it, and passes its outputs along its valid
  // edges. With `release`, the node frees what it has saved as soon as it has run.
  void run(uint32_t index, variable_list&& inputs, bool release);

 private:
  // If the node is a matrix product whose second factor is a parameter that already has a sum, adds
  // the factor's gradient to the sum, and returns the edge that is thereby done. See `fusion.cpp`.
  std::optional<uint32_t> add_product(uint32_t index, const variable_list& inputs);

  // Passes a gradient to the target of an edge.
  void arrive(Topology::Target target, uint32_t input, at::Tensor&& gradient);

  const Topology& topology_;
  Arrived& arrived_;
  Leaves leaves_;
  variable_list& received_;
};

// Runs the whole backward of a graph, for `pipe_graph_backward`.
void backward(
    Graph& graph,
    const edge_list& roots,
    variable_list&& seeds,
    bool keep_graph,
    Leaves leaves,
    variable_list& received);

// Writes the gradients of the received values to `received`, with null for a value that none
// reached.
void hand_over(variable_list&& found, at::Tensor** received);

// Whether a gradient can be added to the sum in place. It cannot if the sum is a view of another
// gradient, or repeats one number.
bool adds_in_place(const at::Tensor& sum);

// Adds a gradient to the sum, in place if that is possible.
void accumulate(at::Tensor& sum, at::Tensor&& gradient);

// Whether the sum can become the gradient of a parameter, because nothing else uses its memory.
bool is_alone(const at::Tensor& sum);

} // namespace shim
