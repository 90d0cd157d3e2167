#include <olm/autograd/graph_internal.h>

namespace olm::graph {

thread_local const char* running_op = nullptr;

/// Chains of nodes are destroyed by a loop, not by recursion: a graph may be very deep.
Node::~Node() {
  thread_local std::vector<std::shared_ptr<Node>>* doomed = nullptr;
  std::vector<std::shared_ptr<Node>> mine;
  const bool outermost = doomed == nullptr;
  if (outermost) doomed = &mine;
  for (Edge& edge : inputs)
    if (edge.node) doomed->push_back(std::move(edge.node));
  if (!outermost) return;
  while (!mine.empty()) {
    std::shared_ptr<Node> next = std::move(mine.back());
    mine.pop_back();
    next.reset();
  }
  doomed = nullptr;
}

std::shared_ptr<Meta> meta_of(const Tensor& t) {
  return t.defined() ? std::static_pointer_cast<Meta>(t.impl().autograd) : nullptr;
}

Meta& make_meta(const Tensor& t) {
  auto& slot = t.impl().autograd;
  if (!slot) slot = std::make_shared<Meta>();
  return static_cast<Meta&>(*slot);
}

Edge edge_to(const Tensor& t) {
  const auto meta = meta_of(t);
  if (!meta || (!meta->node && !meta->leaf_wanted)) return {};
  Edge edge;
  edge.shape = t.shape();
  edge.dtype = t.dtype();
  edge.device = t.device();
  if (meta->node) {
    edge.node = meta->node;
    edge.output = meta->output;
  } else {
    edge.leaf = meta;
  }
  return edge;
}

}  // namespace olm::graph
