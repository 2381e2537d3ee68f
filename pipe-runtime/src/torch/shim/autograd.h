// Everything that differs between versions of libtorch: how autograd's nodes are made, held and
// linked. No other file depends on the version.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include <memory>
#include <utility>

namespace shim {

using torch::autograd::Edge;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::variable_list;

#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 13

// Nodes are held by shared pointers whose deleter does not recurse down the graph.
template <typename T>
using NodePtr = std::shared_ptr<T>;
using WeakNodePtr = std::weak_ptr<Node>;

template <typename T, typename... Arguments>
NodePtr<T> make_node(Arguments&&... arguments) {
  return NodePtr<T>(new T(std::forward<Arguments>(arguments)...), torch::autograd::deleteNode);
}

// Makes a node of the shim.
struct OwnNode : public Node {
  using Node::Node;

  // Not called in these versions: the destructor runs as soon as nothing holds the node any more.
  virtual void drop_contents() {}
};

#else

// Nodes contain their reference counts.
template <typename T>
using NodePtr = c10::intrusive_ptr<T>;
using WeakNodePtr = c10::weak_intrusive_ptr<Node>;

template <typename T, typename... Arguments>
NodePtr<T> make_node(Arguments&&... arguments) {
  return c10::make_intrusive<T>(std::forward<Arguments>(arguments)...);
}

// Makes a node of the shim.
struct OwnNode : public Node {
  using Node::Node;

  // Drops what the node holds, once nothing holds the node any more. The destructor waits for the
  // last weak pointer, which may be part of what the node holds.
  virtual void drop_contents() {}

  void release_resources() override {
    drop_contents();
    Node::release_resources();
  }
};

#endif

} // namespace shim
