// Gradient accumulation fusion (Megatron-LM's `gradient_accumulation_fusion`): the product that
// computes a weight's gradient adds it to the sum over the micro-batches. Without it, each
// micro-batch allocates, writes, reads, adds and frees a tensor of the weight's size.
#include "walk.h"

#include <torch/csrc/autograd/generated/Functions.h>

#include <typeinfo>

namespace shim {

using torch::autograd::SavedVariable;
using torch::autograd::generated::AddmmBackward0;
using torch::autograd::generated::MmBackward0;
using torch::autograd::generated::TBackward0;

namespace {

// What a node of `first · second` has saved.
struct Product {
  const SavedVariable& first;
  at::Layout layout;
  at::Scalar alpha;
  // Index of the second factor's edge.
  uint32_t second;
};

std::optional<Product> product_of(const Node& node) {
  const std::type_info& type = typeid(node);
  if (type == typeid(AddmmBackward0)) {
    const auto& addmm = static_cast<const AddmmBackward0&>(node);
    return Product{addmm.mat1_, addmm.mat1_layout, addmm.alpha, 2};
  }
  if (type == typeid(MmBackward0)) {
    const auto& mm = static_cast<const MmBackward0&>(node);
    return Product{mm.self_, mm.self_layout, 1, 1};
  }
  return std::nullopt;
}

// Whether a product with this factor can be added to the sum in place.
bool takes(const at::Tensor& sum, const at::Tensor& factor) {
  return factor.layout() == at::kStrided && factor.scalar_type() == sum.scalar_type() &&
      factor.device() == sum.device();
}

} // namespace

std::optional<uint32_t> Walk::add_product(uint32_t index, const variable_list& inputs) {
  if (!leaves_.parameters.fuse) {
    return std::nullopt;
  }
  const Node& node = *topology_.nodes[index];
  std::optional<Product> product = product_of(node);
  if (!product || product->layout != at::kStrided || !node.next_edge(product->second).is_valid()) {
    return std::nullopt;
  }
  // The weight itself or, as in `linear`, its transpose.
  Topology::Target weight = topology_.targets[topology_.first[index] + product->second];
  bool transposed = weight.kind == Topology::Kind::node &&
      typeid(*topology_.nodes[weight.index]) == typeid(TBackward0);
  if (transposed) {
    weight = topology_.targets[topology_.first[weight.index]];
  }
  if (weight.kind != Topology::Kind::parameter) {
    return std::nullopt;
  }
  const at::Tensor& gradient = inputs[0];
  at::Tensor& sum = leaves_.sums.gradients[weight.index];
  if (!gradient.defined() || !sum.defined() || !at::isFloatingType(sum.scalar_type()) ||
      !adds_in_place(sum) || !takes(sum, gradient)) {
    return std::nullopt;
  }
  at::Tensor first = product->first.unpack();
  if (!takes(sum, first)) {
    return std::nullopt;
  }
  if (transposed) {
    sum.addmm_(gradient.t(), first, /*beta=*/1, product->alpha);
  } else {
    sum.addmm_(first.t(), gradient, /*beta=*/1, product->alpha);
  }
  leaves_.settle(weight.index);
  return product->second;
}

} // namespace shim
