#include <olm/autograd/tape.h>

#include <algorithm>
#include <utility>

#include <olm/autograd/graph_internal.h>
#include <olm/engine/raw.h>

namespace olm {
namespace {

using namespace graph;

thread_local bool recording = true;
thread_local uint64_t last_number = 0;

std::shared_ptr<Node> make_node(const char* op, const Tensors& inputs) {
  auto node = std::make_shared<Node>();
  node->op = op;
  uint64_t number = last_number;
  bool wanted = false;
  for (const Tensor& input : inputs) {
    Edge edge = edge_to(input);
    if (edge.node) number = std::max(number, edge.node->number);
    wanted = wanted || edge.wanted();
    node->inputs.push_back(std::move(edge));
  }
  if (!wanted) return nullptr;
  node->number = last_number = number + 1;
  return node;
}

void attach(Tensor& y, const std::shared_ptr<Node>& node) {
  Meta& meta = make_meta(y);
  meta.node = node;
  meta.output = int(node->outputs.size());
  node->outputs.push_back({y.shape(), y.dtype(), y.device()});
}

/// y as a handle of its own where it is one that others hold already.
void separate(Tensor& y, const Tensors& inputs) {
  bool shared = y.impl().autograd != nullptr;
  for (const Tensor& input : inputs) shared = shared || input.is_same(y);
  if (shared) y = raw::alias(y);
}

}  // namespace

uint64_t graph::current_number() { return last_number; }

Tensor record(const char* op, Tensor y, const Tensors& inputs, Backward backward) {
  auto node = recording ? make_node(op, inputs) : nullptr;
  separate(y, inputs);
  if (!node) return y;
  node->backward = [backward = std::move(backward)](const Tensors& dys, Sinks into) {
    return backward(dys[0], into);
  };
  attach(y, node);
  return y;
}

Tensors record(const char* op, Tensors ys, const Tensors& inputs, BackwardMany backward) {
  auto node = recording ? make_node(op, inputs) : nullptr;
  for (Tensor& y : ys) separate(y, inputs);
  if (!node) return ys;
  node->backward = std::move(backward);
  for (Tensor& y : ys) {
    if (is_float(y.dtype()))
      attach(y, node);
    else
      node->outputs.push_back({y.shape(), y.dtype(), y.device()});
  }
  return ys;
}

Backward no_derivative(const char* op) {
  return [op](const Tensor&, Sinks) -> Grads { fail(op, " has no derivative"); };
}

Saved::Saved(const Tensor& t) {
  if (!t.defined()) return;
  alias_ = raw::alias(t);
  version_ = t.version();
}

const Tensor& Saved::get() const {
  if (alias_.defined())
    require(alias_.version() == version_, running_op ? running_op : "op", " backward: a saved ",
            alias_.dtype(), " tensor ", alias_.shape(), " was modified in place (version ",
            alias_.version(), ", saved at ", version_, ")");
  return alias_;
}

void set_requires_grad(const Tensor& leaf, bool wanted) {
  require(!wanted || is_float(leaf.dtype()),
          "set_requires_grad: only float tensors have gradients, got ", leaf.dtype());
  require(is_leaf(leaf), "set_requires_grad: the tensor is the result of an op; detach it first");
  make_meta(leaf).leaf_wanted = wanted;
}

bool requires_grad(const Tensor& t) {
  const auto meta = meta_of(t);
  return meta && (meta->node || meta->leaf_wanted);
}

bool is_leaf(const Tensor& t) {
  const auto meta = meta_of(t);
  return !meta || !meta->node;
}

Tensor grad(const Tensor& leaf) {
  const auto meta = meta_of(leaf);
  require(!meta || !meta->node, "grad: only leaves keep a gradient");
  return meta ? meta->grad : Tensor();
}

void set_grad(const Tensor& leaf, Tensor gradient) {
  if (gradient.defined())
    require(gradient.shape() == leaf.shape() && gradient.dtype() == leaf.dtype(),
            "set_grad: gradient ", gradient.dtype(), " ", gradient.shape(), " does not fit ",
            leaf.dtype(), " ", leaf.shape());
  if (gradient.defined()) require_same_device("set_grad", leaf, gradient);
  make_meta(leaf).grad = std::move(gradient);
}

void zero_grad(const Tensor& leaf) {
  if (const auto meta = meta_of(leaf)) meta->grad = {};
}

Tensor detach(const Tensor& t) { return raw::alias(t); }

void on_grad(const Tensor& leaf, std::function<void(const Tensor&)> fn) {
  graph::on_delivered(leaf, [fn = std::move(fn)](const Tensor& gradient) {
    if (gradient.defined()) fn(gradient);
  });
}

void graph::on_delivered(const Tensor& leaf, std::function<void(const Tensor&)> fn) {
  require(is_leaf(leaf), "on_grad: only leaves keep a gradient");
  make_meta(leaf).hooks.push_back(std::move(fn));
}

bool grad_enabled() { return recording; }
NoGrad::NoGrad() : previous_(std::exchange(recording, false)) {}
NoGrad::~NoGrad() { recording = previous_; }
EnableGrad::EnableGrad() : previous_(std::exchange(recording, true)) {}
EnableGrad::~EnableGrad() { recording = previous_; }

void require_no_grad(const char* op, const Tensor& t) {
  require(!recording || !requires_grad(t), op,
          ": in-place operations on tensors that require a gradient need a NoGrad guard");
}

}  // namespace olm
