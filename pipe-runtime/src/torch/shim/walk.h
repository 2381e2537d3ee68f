// A walk over a stage's autograd graph. libtorch's engine takes each node through a queue, three
// hash maps and a full switch of the thread's state, for graphs that span devices and threads. A
// stage's graph is on one device and was made by one thread, and the walk uses that.
#pragma once

#include "graph.h"

#include <optional>

namespace shim {

// The part of a graph below some roots, found in one pass.
struct Topology {
  enum class Kind : uint8_t { nothing, node, parameter, boundary };

  // The target of an edge: a node of `nodes`, or a parameter.
  struct Target {
    Kind kind = Kind::nothing;
    uint32_t index = 0;
  };

  std::vector<Node*> nodes;
  // The numbers of the nodes in the order in which libtorch's engine runs them: the one made last
  // comes first. Each comes before the nodes that its edges lead to.
  std::vector<uint32_t> order;
  // For each node, the start of its edges in `targets`.
  std::vector<uint32_t> first;
  std::vector<Target> targets;
  std::vector<Target> roots;
  // The leaves of the parameters, for libtorch's engine, and the numbers of these parameters.
  edge_list leaves;
  std::vector<uint32_t> parameters;
  // Whether the graph can be walked without libtorch's engine: see `walk.cpp`.
  bool plain = true;
  // Whether it can also be walked in two halves. A node of a view that was changed in place needs
  // all of its edges.
  bool splits = true;

  // Finds the part below `roots` in the graph that has them. A node that was made in another pass
  // is an error.
  Topology(const edge_list& roots, Graph& graph, const Parameters& parameters);

  // For each node, whether the boundary can be reached from it.
  std::vector<bool> above_boundary() const;
};

// The gradients that are on their way: for each node those of its inputs, empty while none has
// arrived.
using Arrived = std::vector<variable_list>;

struct Cut {
  Topology topology;
  // The nodes that the second half still has to run.
  std::vector<bool> pending;
  Arrived arrived;
  // Keeps the cuts and everything below them alive, after the edges to them are removed.
  std::vector<NodePtr<Node>> nodes;
};

// Whether this thread is inside a run of libtorch's engine for certain gradients only. Nodes then
// rely on the engine to know which of their gradients are needed.
bool engine_is_choosy();

// Runs libtorch's engine from `roots` to `targets`, on the calling thread for every device: a
// worker owns its stage, and libtorch's threads for accelerators may be waiting for this walk.
variable_list engine(
    const edge_list& roots,
    const variable_list& seeds,
    bool keep_graph,
    const edge_list& targets);

// The place for the parameters' gradients.
struct Leaves {
  const Parameters& parameters;
  Sums& sums;
  // Whether nothing more will be added to the sums of this stage.
  bool last;

  void arrive(size_t parameter, at::Tensor&& gradient);

  // Call this whenever a sum has grown.
  void settle(size_t parameter);
};

// Removes the edges of a node for which `away` is true, and restores them when dropped.
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

// One walk over a plain graph: which gradients arrive where.
class Walk {
 public:
  Walk(const Topology& topology, Arrived& arrived, Leaves leaves, variable_list& received)
      : topology_(topology), arrived_(arrived), leaves_(leaves), received_(received) {}

  // Puts the gradients of the roots in their places.
  void start(const edge_list& roots, variable_list&& seeds);

  // Runs a node on the gradients that have arrived for it, and passes the results along those of
  // its edges that exist. With `release`, the node frees what it has saved as soon as it has run.
  void run(uint32_t index, variable_list&& inputs, bool release);

 private:
  // If the node is a matrix product whose second factor is a parameter that has a sum already, adds
  // that factor's gradient to the sum, and returns which edge that settles. See `fusion.cpp`.
  std::optional<uint32_t> add_product(uint32_t index, const variable_list& inputs);

  // Puts a gradient at the target of an edge.
  void arrive(Topology::Target target, uint32_t input, at::Tensor&& gradient);

  const Topology& topology_;
  Arrived& arrived_;
  Leaves leaves_;
  variable_list& received_;
};

// Runs the whole backward of a graph, as `pipe_graph_backward`.
void backward(
    Graph& graph,
    const edge_list& roots,
    variable_list&& seeds,
    bool keep_graph,
    Leaves leaves,
    variable_list& received);

// Returns the gradients of the received values to the caller: null where none arrived.
void hand_over(variable_list&& found, at::Tensor** received);

// Whether a gradient can be added to the sum in place: a gradient may be a view of another one, or
// repeat one number.
bool adds_in_place(const at::Tensor& sum);

// Adds a gradient to the sum, in place if that is possible.
void accumulate(at::Tensor& sum, at::Tensor&& gradient);

// Whether the sum could become a parameter's gradient: no other tensor uses its memory.
bool is_alone(const at::Tensor& sum);

} // namespace shim
