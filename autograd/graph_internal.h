#pragma once
// The graph behind the tape: what hangs on tensors, and the nodes they lead to.
#include <list>
#include <memory>
#include <vector>

#include <olm/autograd/tape.h>

namespace olm::graph {

struct Node;

/// What hangs on a tensor that takes part in a graph: a leaf's gradient, or its place in a node.
struct Meta final : AutogradSlot {
  bool leaf_wanted = false;
  Tensor grad;
  std::list<std::function<void(const Tensor&)>> hooks;  // a list: it may grow while they run
  std::shared_ptr<Node> node;
  int output = 0;
};

/// From a node to what one of its inputs was: a result of another node, a leaf, or neither.
struct Edge {
  std::shared_ptr<Node> node;
  int output = 0;
  std::shared_ptr<Meta> leaf;
  Shape shape;
  DType dtype = f32;
  Device device;
  bool wanted() const { return node || leaf; }
};

struct Output {
  Shape shape;
  DType dtype = f32;
  Device device;
};

struct Node {
  const char* op = "";
  uint64_t number = 0;
  bool spent = false;
  std::vector<Edge> inputs;
  std::vector<Output> outputs;
  BackwardMany backward;
  ~Node();
};

/// What hangs on a tensor, or null.
std::shared_ptr<Meta> meta_of(const Tensor& t);
/// The same, made where there is none.
Meta& make_meta(const Tensor& t);
/// From an op to its input t.
Edge edge_to(const Tensor& t);

/// on_grad() of autograd/tape.h, also for a leaf whose uses all delivered no gradient, as an expert
/// without rows has none: that is undefined. When fn is called depends on the graph alone.
void on_delivered(const Tensor& leaf, std::function<void(const Tensor& gradient)> fn);

/// The number that the latest node of this thread got.
uint64_t current_number();

/// What a pass does with leaves and nodes that gradients() was not asked about.
struct Foreign {
  bool refused = false;       ///< throw, naming recompute: its function reaches out of its inputs
  uint64_t least_number = 0;  ///< nodes up to this number are foreign, where refused
};
/// gradients() of autograd/tape.h, with a say about the rest of the graph.
Tensors gradients_within(const Tensors& ys, const Tensors& dys, const Tensors& wrt, Sinks into,
                         Foreign foreign);

/// The op whose backward runs on this thread, for messages; null outside.
extern thread_local const char* running_op;

}  // namespace olm::graph
