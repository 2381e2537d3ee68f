#include "walk.h"

#include <c10/core/AutogradState.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/functions/tensor.h>
#include <torch/csrc/autograd/utils/grad_layout_contract.h>

#include <cstring>
#include <typeinfo>

namespace shim {

using torch::autograd::AccumulateGrad;
using torch::autograd::InputMetadata;

// Whether libtorch's engine would do nothing but run the node. Hooks, nodes of other code that may
// ask for the engine's state, and nodes on another stream than this thread's are left to the
// engine.
static bool is_plain(Node& node) {
  static constexpr char generated[] = "N5torch8autograd9generated";
  const std::type_info& type = typeid(node);
  bool known = std::strncmp(type.name(), generated, sizeof(generated) - 1) == 0 ||
      type == typeid(torch::autograd::CopySlices) || type == typeid(torch::autograd::CopyBackwards);
  if (!known || !node.pre_hooks().empty() || !node.tensor_pre_hooks().empty() ||
      !node.retains_grad_hooks().empty() || !node.post_hooks().empty()) {
    return false;
  }
  for (uint32_t input = 0; input < node.num_inputs(); ++input) {
    const InputMetadata& metadata = node.input_metadata(input);
    if (metadata.device().type() != at::kCPU &&
        c10::impl::VirtualGuardImpl(metadata.device().type()).getStream(metadata.device()) !=
            metadata.stream()) {
      return false;
    }
  }
  return true;
}

static bool has_hooks(AccumulateGrad& leaf) {
  return !leaf.pre_hooks().empty() || !leaf.tensor_pre_hooks().empty() ||
      !leaf.retains_grad_hooks().empty() || !leaf.post_hooks().empty();
}

bool engine_is_choosy() {
  const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
  return wanted && !wanted->empty();
}

Topology::Topology(const edge_list& root_edges, Graph& graph, const Parameters& known) {
  const Node* boundary = graph.boundary.get();
  plain = !torch::autograd::AnomalyMode::is_enabled() && !engine_is_choosy();
  ska::flat_hash_map<Node*, Target> found;
  auto target = [&](const Edge& edge) -> Target {
    Node* node = edge.function.get();
    if (!node) {
      return {};
    }
    if (node == boundary) {
      return {Kind::boundary, 0};
    }
    auto [place, fresh] =
        found.emplace(node, Target{Kind::node, static_cast<uint32_t>(nodes.size())});
    if (!fresh) {
      return place->second;
    }
    auto parameter_at = [&](at::TensorImpl* variable) {
      auto parameter = known.index.find(variable);
      if (parameter == known.index.end()) {
        return false;
      }
      place->second = {Kind::parameter, static_cast<uint32_t>(parameter->second)};
      leaves.emplace_back(edge.function, 0);
      parameters.push_back(parameter->second);
      return true;
    };
    if (node->next_edges().empty()) {
      if (typeid(*node) == typeid(Boundary)) {
        refuse_side_door();
      }
      if (typeid(*node) == typeid(ParameterSink)) {
        if (!parameter_at(static_cast<ParameterSink*>(node)->parameter.unsafeGetTensorImpl())) {
          refuse_side_door();
        }
        return place->second;
      }
      if (auto* leaf = dynamic_cast<AccumulateGrad*>(node)) {
        plain = plain && !has_hooks(*leaf);
        if (!parameter_at(leaf->variable.unsafeGetTensorImpl())) {
          graph.strangers.add(leaf->variable);
          place->second = {};
        }
        return place->second;
      }
    }
    if (graph.is_foreign(*node)) {
      refuse_side_door();
    }
    plain = plain && is_plain(*node);
    splits = splits && typeid(*node) != typeid(torch::autograd::CopySlices);
    nodes.push_back(node);
    return place->second;
  };

  for (const Edge& root : root_edges) {
    roots.push_back(target(root));
  }
  for (uint32_t index = 0; index < nodes.size(); ++index) {
    Node* node = nodes[index];
    first.push_back(targets.size());
    for (const Edge& edge : node->next_edges()) {
      Target below = target(edge);
      plain = plain &&
          (below.kind != Kind::node || nodes[below.index]->sequence_nr() < node->sequence_nr());
      targets.push_back(below);
    }
  }
  order.resize(nodes.size());
  for (uint32_t index = 0; index < nodes.size(); ++index) {
    order[index] = index;
  }
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return nodes[a]->sequence_nr() > nodes[b]->sequence_nr();
  });
}

std::vector<bool> Topology::above_boundary() const {
  std::vector<bool> above(nodes.size());
  for (auto index = order.rbegin(); index != order.rend(); ++index) {
    for (uint32_t edge = 0; edge < nodes[*index]->num_outputs(); ++edge) {
      Target below = targets[first[*index] + edge];
      if (below.kind == Kind::boundary || (below.kind == Kind::node && above[below.index])) {
        above[*index] = true;
        break;
      }
    }
  }
  return above;
}

variable_list engine(
    const edge_list& roots,
    const variable_list& seeds,
    bool keep_graph,
    const edge_list& targets) {
  struct OnThisThread {
    bool before = c10::AutogradState::get_tls_state().get_multithreading_enabled();
    OnThisThread() {
      c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
    }
    ~OnThisThread() {
      c10::AutogradState::get_tls_state().set_multithreading_enabled(before);
    }
  } on_this_thread;
  return torch::autograd::Engine::get_default_engine().execute(
      roots, seeds, keep_graph, /*create_graph=*/false, /*accumulate_grad=*/false, targets);
}

void Walk::start(const edge_list& roots, variable_list&& seeds) {
  torch::autograd::validate_outputs(
      roots, seeds, [](const std::string& message) { return message; });
  for (size_t root = 0; root < roots.size(); ++root) {
    arrive(topology_.roots[root], roots[root].input_nr, std::move(seeds[root]));
  }
}

void Walk::arrive(Topology::Target target, uint32_t input, at::Tensor&& gradient) {
  if (!gradient.defined()) {
    return;
  }
  switch (target.kind) {
    case Topology::Kind::nothing:
      return;
    case Topology::Kind::parameter:
      return leaves_.arrive(target.index, std::move(gradient));
    case Topology::Kind::boundary:
      return accumulate(received_[input], std::move(gradient));
    case Topology::Kind::node: {
      variable_list& inputs = arrived_[target.index];
      if (inputs.empty()) {
        inputs.resize(topology_.nodes[target.index]->num_inputs());
      }
      return accumulate(inputs[input], std::move(gradient));
    }
  }
}

void Walk::run(uint32_t index, variable_list&& arrived, bool release) {
  Node& node = *topology_.nodes[index];
  variable_list outputs;
  {
    // Freed before the outputs are added, so that the next tensors get memory that is still in the
    // cache.
    variable_list inputs = std::move(arrived);
    inputs.resize(node.num_inputs());
    if (release) {
      node.will_release_variables();
    }
    std::optional<Without> without;
    if (std::optional<uint32_t> done = add_product(index, inputs)) {
      without.emplace(node, [&](uint32_t edge) { return edge == *done; });
    }
    outputs = node(std::move(inputs));
    if (release) {
      node.release_variables();
    }
  }
  const edge_list& edges = node.next_edges();
  torch::autograd::validate_outputs(edges, outputs, [&](const std::string& message) {
    return "Function " + node.name() + " returned an " + message;
  });
  for (uint32_t edge = 0; edge < edges.size(); ++edge) {
    if (edges[edge].is_valid()) {
      arrive(
          topology_.targets[topology_.first[index] + edge],
          edges[edge].input_nr,
          std::move(outputs[edge]));
    }
  }
}

void backward(
    Graph& graph,
    const edge_list& roots,
    variable_list&& seeds,
    bool keep_graph,
    Leaves leaves,
    variable_list& received) {
  at::NoGradGuard no_grad;
  graph.complaint = leaves.parameters.complaint;
  Topology topology(roots, graph, leaves.parameters);
  graph.reaches_parameters |= !topology.parameters.empty();
  if (topology.plain && !leaves.sums.by_engine) {
    Arrived arrived(topology.nodes.size());
    Walk walk(topology, arrived, leaves, received);
    walk.start(roots, std::move(seeds));
    for (uint32_t index : topology.order) {
      walk.run(index, std::move(arrived[index]), /*release=*/!keep_graph);
    }
    return;
  }

  edge_list targets;
  for (uint32_t slot = 0; slot < graph.received; ++slot) {
    targets.emplace_back(graph.boundary, slot);
  }
  targets.insert(targets.end(), topology.leaves.begin(), topology.leaves.end());
  if (targets.empty()) {
    return;
  }
  variable_list found = engine(roots, seeds, keep_graph, targets);
  for (uint32_t slot = 0; slot < graph.received; ++slot) {
    received[slot] = std::move(found[slot]);
  }
  for (size_t leaf = 0; leaf < topology.parameters.size(); ++leaf) {
    at::Tensor& gradient = found[graph.received + leaf];
    if (gradient.defined()) {
      leaves.arrive(topology.parameters[leaf], std::move(gradient));
    }
  }
}

// The gradient in memory that it does not share: itself, unless another tensor may use it, or it is
// a part of a larger tensor.
static at::Tensor own(at::Tensor&& gradient) {
  if (gradient.is_sparse() || !gradient.has_storage()) {
    return std::move(gradient);
  }
  // A view knows its base, and keeps the memory alive. (The gradient of `linear`'s transposed
  // weight is a view of the product.)
  at::Tensor plain =
      gradient.is_view() && gradient.use_count() == 1 ? gradient.variable_data() : gradient;
  gradient.reset();
  bool whole = is_alone(plain) && plain.storage().nbytes() == plain.nbytes();
  return whole ? plain : plain.clone();
}

// A sum owns its memory from the start. Even if no other handle to a gradient is left, its memory
// may still be in use: on an accelerator, other streams may still have to read it.
void Leaves::arrive(size_t parameter, at::Tensor&& gradient) {
  at::Tensor& sum = sums.gradients[parameter];
  if (sum.defined() && sum.is_sparse() && gradient.is_sparse() && !sums.joined) {
    // The order in which libtorch adds to a parameter's gradient.
    sum = sum + gradient;
  } else if (sum.defined()) {
    accumulate(sum, std::move(gradient));
  } else {
    sum = own(std::move(gradient));
  }
  settle(parameter);
}

// The last gradient is in the cache now, and other threads are busy with other stages. So a sum
// whose layout differs from its parameter's (that of a matrix product is transposed) is reordered
// here, and not at the end of the step.
void Leaves::settle(size_t parameter) {
  at::Tensor& sum = sums.gradients[parameter];
  const at::Tensor& variable = parameters.tensors[parameter];
  if (last && !sum.is_sparse() && !torch::autograd::utils::obeys_layout_contract(sum, variable)) {
    sum = torch::autograd::utils::clone_obey_contract(sum, variable);
  }
}

void hand_over(variable_list&& found, at::Tensor** received) {
  for (size_t slot = 0; slot < found.size(); ++slot) {
    received[slot] = found[slot].defined() ? new at::Tensor(std::move(found[slot])) : nullptr;
  }
}

bool is_alone(const at::Tensor& sum) {
  return !sum.is_sparse() && sum.use_count() == 1 && sum.has_storage() &&
      sum.storage().use_count() == 1;
}

bool adds_in_place(const at::Tensor& sum) {
  return is_alone(sum) && sum.is_non_overlapping_and_dense();
}

void accumulate(at::Tensor& sum, at::Tensor&& gradient) {
  if (!sum.defined()) {
    sum = std::move(gradient);
  } else if (!gradient.is_sparse() && adds_in_place(sum)) {
    sum.add_(gradient);
  } else if (sum.is_sparse()) {
    // As in libtorch's engine. It has no sum of a sparse and a dense tensor, and the order of two
    // sparse tensors is that of their entries.
    sum = gradient + sum;
  } else {
    sum = sum + gradient;
  }
}

} // namespace shim
