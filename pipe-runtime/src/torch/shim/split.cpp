// A stage's backward in two halves: for the values that it received (I), which the stage before waits for, and for its parameters (W), which
// nobody waits for (Qi et al. 2023, "Zero Bubble Pipeline Parallelism"). Both walk the same graph, each node's two kinds of gradient computed once.
#include "graph.h"

#include <unordered_map>

using namespace pipe;

namespace {

// The nodes below `roots` from which the boundary can be reached, in the order in which their visits end.
std::vector<Node*> above_boundary(const edge_list& roots, Node* boundary) {
  enum State : uint8_t { open, no, yes };
  std::unordered_map<Node*, State> states;
  std::vector<Node*> above;
  struct Visit {
    Node* node;
    size_t next = 0;
    bool reaches = false;
  };
  std::vector<Visit> stack;
  for (const Edge& root : roots) {
    if (root.function && root.function.get() != boundary && states.emplace(root.function.get(), open).second) {
      stack.push_back({root.function.get()});
    }
    while (!stack.empty()) {
      Visit& visit = stack.back();
      const edge_list& edges = visit.node->next_edges();
      bool descended = false;
      while (visit.next < edges.size()) {
        Node* below = edges[visit.next++].function.get();
        if (!below) {
          continue;
        }
        if (below == boundary) {
          visit.reaches = true;
          continue;
        }
        auto [known, fresh] = states.emplace(below, open);
        if (fresh) {
          stack.push_back({below});
          descended = true;
          break;
        }
        visit.reaches |= known->second == yes;
      }
      if (descended) {
        continue;
      }
      Visit done = visit;
      stack.pop_back();
      states[done.node] = done.reaches ? yes : no;
      if (done.reaches) {
        above.push_back(done.node);
        if (!stack.empty()) {
          stack.back().reaches = true;
        }
      }
    }
  }
  return above;
}

} // namespace

extern "C" {

// The first half: from the roots to the values received, whose gradients are written to `received` (null where none arrived). Keeps what the second half
// starts from. What neither half needs any more is released.
int pipe_graph_backward_input(Graph* graph, const at::Tensor* const* gradients, at::Tensor** received) {
  return pipe::guarded([&] {
    edge_list roots;
    variable_list seeds;
    for (size_t i = 0; i < graph->roots.size(); ++i) {
      if (gradients[i]) {
        roots.push_back(graph->roots[i]);
        seeds.push_back(*gradients[i]);
      }
    }
    Node* boundary = graph->boundary.get();
    std::vector<Node*> above = boundary ? above_boundary(roots, boundary) : std::vector<Node*>{};
    std::unordered_map<Node*, bool> is_cut;
    for (Node* node : above) {
      is_cut.emplace(node, false);
    }
    Cut cut;
    bool any_boundary_root = false;
    for (size_t i = 0; i < roots.size(); ++i) {
      if (roots[i].function.get() == boundary) {
        any_boundary_root = true;
      } else if (is_cut.find(roots[i].function.get()) == is_cut.end()) {
        cut.edges.push_back(roots[i]);
        cut.gradients.push_back(seeds[i]);
      }
    }

    edge_list targets;
    for (uint32_t slot = 0; slot < graph->received; ++slot) {
      targets.emplace_back(graph->boundary, slot);
    }
    edge_list cut_edges;
    for (Node* node : above) {
      bool has_parameters = false;
      for (const Edge& edge : node->next_edges()) {
        Node* below = edge.function.get();
        has_parameters |= below && below != boundary && is_cut.find(below) == is_cut.end();
      }
      if (has_parameters) {
        is_cut[node] = true;
        for (uint32_t input = 0; input < node->num_inputs(); ++input) {
          cut_edges.emplace_back(node->shared_from_this(), input);
        }
      }
    }
    targets.insert(targets.end(), cut_edges.begin(), cut_edges.end());

    if (!above.empty() || any_boundary_root) {
      variable_list found = walk(roots, seeds, /*keep_graph=*/true, targets);
      for (uint32_t slot = 0; slot < graph->received; ++slot) {
        received[slot] = found[slot].defined() ? new at::Tensor(std::move(found[slot])) : nullptr;
      }
      for (size_t i = 0; i < cut_edges.size(); ++i) {
        at::Tensor& gradient = found[graph->received + i];
        if (gradient.defined()) {
          cut.edges.push_back(cut_edges[i]);
          cut.gradients.push_back(std::move(gradient));
        }
      }
    }
    for (auto& [node, cuts] : is_cut) {
      if (cuts) {
        // From here on, the second half only goes down to the parameters: no cut reaches another.
        for (Edge& edge : node->next_edges()) {
          if (edge.function.get() == boundary || is_cut.find(edge.function.get()) != is_cut.end()) {
            edge = Edge();
          }
        }
      } else {
        node->release_variables();
      }
    }
    graph->cut = std::move(cut);
  });
}

// The second half: from the cuts to the parameters, whose gradients are added to `sums`.
int pipe_graph_backward_weight(Graph* graph, const Parameters* parameters, Sums* sums) {
  return pipe::guarded([&] {
    TORCH_CHECK(graph->cut.has_value(), "the backward for the weights comes after the one for the inputs");
    Cut cut = std::move(*graph->cut);
    graph->cut.reset();
    Reached leaves = reached(cut.edges, graph->boundary.get(), *parameters);
    if (leaves.targets.empty()) {
      return;
    }
    variable_list found = walk(cut.edges, cut.gradients, /*keep_graph=*/false, leaves.targets);
    at::NoGradGuard no_grad;
    accumulate_reached(*sums, *parameters, leaves, std::move(found), 0);
  });
}

} // extern "C"
