// Walks a stage's autograd graph without libtorch's engine. The engine puts each node through a
// queue, three hash maps and a full switch of the thread's state, to support graphs that span
// devices and threads. A stage's graph is on one device and was made by one thread, so its walk
// needs none of that.
#pragma once

#include "graph.h"

#include <optional>

namespace shim {

// The part of a graph below some roots, found in one pass over it.
struct Topology {
  enum class Kind : uint8_t { nothing, node, parameter, boundary };

  // The target of an edge: the index of a node in `nodes`, or of a parameter.
  struct Target {
    Kind kind = Kind::nothing;
    uint32_t index = 0;
  };

  std::vector<Node*> nodes;
  // The indices of the nodes in the order in which libtorch's engine runs them: the one made last
  // comes first. Each comes before the targets of its edges.
  std::vector<uint32_t> order;
  // For each node, the index of its first edge in `targets`.
  std::vector<uint32_t> first;
  std::vector<Target> targets;
  std::vector<Target> roots;
  // The leaves of the parameters found, for libtorch's engine, and the numbers of these parameters.
  edge_list leaves;
  std::vector<uint32_t> parameters;
  // Whether the graph can be walked without libtorch's engine: see `walk.cpp`.
  bool plain = true;
  // Whether it can also be walked in two halves. A node for a view that was changed in place
  // (`CopySlices`) needs all of its edges, so it cannot be split.
  bool splits = true;

  // Explores `graph` below `roots`. Throws if it finds a node that was made in another pass.
  Topology(const edge_list& roots, Graph& graph, const Parameters& parameters);

  // For each node, whether the boundary can be reached from it.
  std::vector<bool> above_boundary() const;
};

// The gradients that have arrived so far: for each node, those of its inputs; empty until one has
// arrived.
using Arrived = std::vector<variable_list>;

struct Cut {
  Topology topology;
  // For each node, whether the second half still has to run it.
  std::vector<bool> pending;
  Arrived arrived;
  // Keeps the pending nodes alive when the edges that lead to them are gone.
  std::vector<NodePtr<Node>> nodes;
};

// Runs libtorch's engine from `roots` to `targets`, on the calling thread for every device: a
// worker owns its stage, and libtorch's threads for accelerators may themselves be waiting for this
// walk.
variable_list engine(
    const edge_list& roots,
    const variable_list& seeds,
    bool keep_graph,
    const edge_list& targets);

// Receives the parameters' gradients.
struct Leaves {
  const Parameters& parameters;
  Sums& sums;
  // Whether nothing more will be added to this stage's sums after this walk.
  bool last;

  void arrive(size_t parameter, at::Tensor&& gradient);

  // Called whenever a sum has grown.
  void settle(size_t parameter);
};

// Guard that removes the edges of a node for which `away` holds, and restores them when destroyed.
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

// One walk over a plain graph. It delivers each gradient to the target of its edge.
class Walk {
 public:
  Walk(const Topology& topology, Arrived& arrived, Leaves leaves, variable_list& received)
      : topology_(topology), arrived_(arrived), leaves_(leaves), received_(received) {}

  // Delivers the gradients of the roots.
  void start(const edge_list& roots, variable_list&& seeds);

  // Runs a node on the gradients that have arrived for it, and delivers its results along its valid
  // edges. With `release`, the node frees its saved tensors as soon as it has run.
  void run(uint32_t index, variable_list&& inputs, bool release);

 private:
  // If the node is a matrix product whose second factor is a parameter that already has a sum, adds
  // that factor's gradient to the sum and returns the edge that is done. See `fusion.cpp`.
  std::optional<uint32_t> add_product(uint32_t index, const variable_list& inputs);

  // Delivers a gradient to the target of an edge.
  void arrive(Topology::Target target, uint32_t input, at::Tensor&& gradient);

  const Topology& topology_;
  Arrived& arrived_;
  Leaves leaves_;
  variable_list& received_;
};

// Runs the whole backward of a graph: see `pipe_graph_backward`.
void backward(
    Graph& graph,
    const edge_list& roots,
    variable_list&& seeds,
    bool keep_graph,
    Leaves leaves,
    variable_list& received);

// Writes the received values' gradients to the caller's array: null where none arrived.
void hand_over(variable_list&& found, at::Tensor** received);

// Whether something can be added to the sum in place. This is not possible if the sum is a view of
// another gradient or an expanded tensor that repeats one number.
bool adds_in_place(const at::Tensor& sum);

// Adds a gradient to the sum, in place where that is possible.
void accumulate(at::Tensor& sum, at::Tensor&& gradient);

// Whether the sum could become a parameter's gradient: no other tensor uses its memory.
bool is_alone(const at::Tensor& sum);

} // namespace shim
