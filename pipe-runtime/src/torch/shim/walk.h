// A walk of its own over a stage's autograd graph. libtorch's engine puts each node through a
// queue, three hash maps and a full switch of the thread's state, for graphs that span devices and
// threads. A stage's graph is on one device and was made by one thread, and so is its walk.
#pragma once

#include "graph.h"

#include <optional>

namespace shim {

// What lies below some roots, found in one pass over it.
struct Topology {
  enum class Kind : uint8_t { nothing, node, parameter, boundary };

  // Where an edge leads: to which node of `nodes`, or to which parameter.
  struct Target {
    Kind kind = Kind::nothing;
    uint32_t index = 0;
  };

  std::vector<Node*> nodes;
  // The numbers of the nodes in the order in which libtorch's engine runs them: the one made last
  // first. Each comes before those that its edges lead to.
  std::vector<uint32_t> order;
  // For each node, where its edges start in `targets`.
  std::vector<uint32_t> first;
  std::vector<Target> targets;
  std::vector<Target> roots;
  // The parameters' leaves, for libtorch's engine, and their numbers.
  edge_list leaves;
  std::vector<uint32_t> parameters;
  // Whether the graph can be walked here: see `walk.cpp`.
  bool plain = true;
  // Whether it can also be walked in two halves: a node for a view that was changed in place wants
  // all of its edges.
  bool splits = true;

  // Below `roots`, in the graph that has them. A node that was made in another pass is an error.
  Topology(const edge_list& roots, Graph& graph, const Parameters& parameters);

  // For each node, whether the boundary can be reached from it.
  std::vector<bool> above_boundary() const;
};

// The gradients on their way down: for each node those of its inputs, empty as long as none has
// arrived.
using Arrived = std::vector<variable_list>;

struct Cut {
  Topology topology;
  // Which nodes the second half still has to run.
  std::vector<bool> pending;
  Arrived arrived;
  // What keeps the cuts and all below them alive, once the way to them is gone.
  std::vector<NodePtr<Node>> nodes;
};

// Runs libtorch's engine from `roots` to `targets`, on the calling thread for every device: a
// worker owns its stage, and the threads that libtorch has for accelerators may be waiting for this
// very walk.
variable_list engine(
    const edge_list& roots,
    const variable_list& seeds,
    bool keep_graph,
    const edge_list& targets);

// Where the parameters' gradients go.
struct Leaves {
  const Parameters& parameters;
  Sums& sums;
  // Nothing more will be added to the sums of this stage.
  bool last;

  void arrive(size_t parameter, at::Tensor&& gradient);

  // To be called whenever a sum has grown.
  void settle(size_t parameter);
};

// A node's edges without those for which `away` holds; they are put back when it is dropped.
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

// One walk over a plain graph: what arrives where.
class Walk {
 public:
  Walk(const Topology& topology, Arrived& arrived, Leaves leaves, variable_list& received)
      : topology_(topology), arrived_(arrived), leaves_(leaves), received_(received) {}

  // Puts the gradients of the roots where they belong.
  void start(const edge_list& roots, variable_list&& seeds);

  // Runs a node on what has arrived for it, and passes on what it gives along those of its edges
  // that are there. With `release`, it lets go of what it has saved as soon as it has run.
  void run(uint32_t index, variable_list&& inputs, bool release);

 private:
  // If the node is a matrix product whose second factor is a parameter that has a sum already: adds
  // that factor's gradient to the sum, and says which edge that settles. See `fusion.cpp`.
  std::optional<uint32_t> add_product(uint32_t index, const variable_list& inputs);

  // Puts a gradient where an edge leads.
  void arrive(Topology::Target target, uint32_t input, at::Tensor&& gradient);

  const Topology& topology_;
  Arrived& arrived_;
  Leaves leaves_;
  variable_list& received_;
};

// The whole backward of a graph, as `pipe_graph_backward` has it.
void backward(
    Graph& graph,
    const edge_list& roots,
    variable_list&& seeds,
    bool keep_graph,
    Leaves leaves,
    variable_list& received);

// Gives the received values' gradients to the caller: null where none arrived.
void hand_over(variable_list&& found, at::Tensor** received);

// Whether something can be added to the sum in place: a gradient may be a view of another one, or
// repeat one number.
bool adds_in_place(const at::Tensor& sum);

// Adds a gradient, in place where that is possible.
void accumulate(at::Tensor& sum, at::Tensor&& gradient);

// Whether the sum could become a parameter's gradient: no other tensor uses its memory.
bool is_alone(const at::Tensor& sum);

} // namespace shim
