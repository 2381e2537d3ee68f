// A stage's backward in two halves: first the gradients of the values that it received (I), for
// which the previous stage waits, then those of its parameters (W), for which no stage waits (Qi et
// al. 2023, "Zero Bubble Pipeline Parallelism"). Both halves walk the same graph, and each of a
// node's two kinds of gradient is computed once. A node that leads to both is a cut: it runs twice,
// first for the received values, then for the parameters.
#include "walk.h"

using namespace shim;

extern "C" {

// Runs the first half: from the roots to the received values, whose gradients are written to
// `received` (null where none arrived). Keeps the starting points of the second half, and releases
// what neither half needs any more. If the graph cannot be split, this runs the whole backward,
// into `sums`.
int pipe_graph_backward_input(
    Graph* graph,
    const at::Tensor* const* gradients,
    const Parameters* parameters,
    Sums* sums,
    at::Tensor** received) {
  return shim::guarded([&] {
    edge_list roots;
    variable_list seeds;
    for (size_t i = 0; i < graph->roots.size(); ++i) {
      if (gradients[i]) {
        roots.push_back(graph->roots[i]);
        seeds.push_back(*gradients[i]);
      }
    }
    at::NoGradGuard no_grad;
    variable_list found(graph->received);
    sums->gradients.resize(parameters->tensors.size());
    graph->complaint = parameters->complaint;
    Topology below(roots, *graph, *parameters);
    if (!below.plain || !below.splits) {
      backward(
          *graph,
          roots,
          std::move(seeds),
          /*keep_graph=*/false,
          {*parameters, *sums, /*last=*/false},
          found);
      return hand_over(std::move(found), received);
    }

    size_t count = below.nodes.size();
    auto cut = std::unique_ptr<Cut>(
        new Cut{std::move(below), std::vector<bool>(count), Arrived(count), {}});
    const Topology& topology = cut->topology;
    Walk walk(topology, cut->arrived, {*parameters, *sums, /*last=*/false}, found);
    walk.start(roots, std::move(seeds));

    std::vector<bool> above = topology.above_boundary();
    auto leads_up = [&](uint32_t index, uint32_t edge) {
      Topology::Target target = topology.targets[topology.first[index] + edge];
      return target.kind == Topology::Kind::boundary ||
          (target.kind == Topology::Kind::node && above[target.index]);
    };
    for (uint32_t index : topology.order) {
      Node& node = *topology.nodes[index];
      if (!above[index]) {
        cut->pending[index] = true;
        continue;
      }
      bool leads_down = false;
      for (uint32_t edge = 0; edge < node.num_outputs(); ++edge) {
        leads_down |= node.next_edge(edge).is_valid() && !leads_up(index, edge);
      }
      if (leads_down) {
        cut->pending[index] = true;
        Without parameters(node, [&](uint32_t edge) { return !leads_up(index, edge); });
        walk.run(index, variable_list(cut->arrived[index]), /*release=*/false);
      } else {
        walk.run(index, std::move(cut->arrived[index]), /*release=*/true);
      }
    }
    // From here on, the cuts lead only to the parameters. Removing their edges towards the boundary
    // releases the nodes there, so the pending ones are kept explicitly.
    for (uint32_t index : topology.order) {
      if (cut->pending[index]) {
        cut->nodes.push_back(topology.nodes[index]->getptr());
      }
    }
    for (uint32_t index : topology.order) {
      if (cut->pending[index] && above[index]) {
        edge_list& edges = topology.nodes[index]->next_edges();
        for (uint32_t edge = 0; edge < edges.size(); ++edge) {
          if (leads_up(index, edge)) {
            edges[edge] = Edge();
          }
        }
      }
    }
    graph->roots.clear();
    graph->cut = std::move(cut);
    hand_over(std::move(found), received);
  });
}

// Runs the second half: from the cuts to the parameters, whose gradients are added to `sums`, for
// the last time if `last`.
int pipe_graph_backward_weight(Graph* graph, const Parameters* parameters, Sums* sums, int last) {
  return shim::guarded([&] {
    std::unique_ptr<Cut> cut = std::move(graph->cut);
    if (!cut) {
      return;
    }
    at::NoGradGuard no_grad;
    sums->gradients.resize(parameters->tensors.size());
    variable_list none;
    const Topology& topology = cut->topology;
    Walk walk(topology, cut->arrived, {*parameters, *sums, last != 0}, none);
    for (uint32_t index : topology.order) {
      if (cut->pending[index]) {
        walk.run(index, std::move(cut->arrived[index]), /*release=*/true);
      }
    }
  });
}

} // extern "C"
