// Walking the graph: uses are counted first, then nodes run once all their uses have delivered.
#include <algorithm>
#include <queue>
#include <unordered_map>
#include <utility>

#include <olm/autograd/graph_internal.h>
#include <olm/engine/raw.h>

namespace olm {
namespace {

using namespace graph;

/// True where nobody else can see the tensor's memory, so it may be added into or handed on.
bool owned_alone(const Tensor& t) {
  return t.handle().use_count() == 1 && t.impl().storage.use_count() == 1 && t.is_contiguous();
}

/// One pass over a graph: counts uses, then runs nodes whose uses have all delivered.
class Pass {
 public:
  Pass(const Tensors& ys, const Tensors& dys, bool retain, Foreign foreign = {})
      : retain_(retain), foreign_(foreign) {
    for (const Tensor& y : ys) roots_.push_back(edge_to(y));
    count_uses();
    root_grads_ = dys;
  }

  /// The gradient of this leaf is kept here instead of in the leaf, and those of leaves that no
  /// call named are dropped.
  void capture(const Tensor& wrt, Tensor pending) {
    const Edge edge = edge_to(wrt);
    require(edge.leaf != nullptr, "gradients: wanted leaves that require a gradient, got ",
            wrt.shape());
    if (pending.defined())
      require(pending.shape() == edge.shape && pending.dtype() == edge.dtype &&
                  pending.device() == edge.device && pending.is_contiguous(),
              "gradients: a gradient so far ", pending.dtype(), " ", pending.shape(), " strides ",
              pending.strides(), " does not fit its leaf ", edge.dtype, " ", edge.shape);
    Leaf& leaf = leaves_[edge.leaf.get()];
    leaf.lent = pending.defined();
    leaf.pending = std::move(pending);
    leaf.captured = true;
    capturing_ = true;
  }
  Tensor captured(const Tensor& wrt) { return leaves_[edge_to(wrt).leaf.get()].pending; }

  void run() {
    NoGrad guard;
    if (foreign_.refused)
      for (const auto& [meta, leaf] : leaves_)
        require(leaf.captured || leaf.uses == 0,
                "recompute: the function uses a leaf that requires a gradient and is not among its "
                "inputs and parameters");
    try {
      for (size_t i = 0; i < roots_.size(); ++i) deliver(nullptr, roots_[i], {.g = root_grads_[i]});
      root_grads_.clear();
      while (!ready_.empty()) {
        const std::shared_ptr<Node> node = ready_.top().node;
        ready_.pop();
        run_node(*node);
      }
    } catch (...) {
      abandon();
      throw;
    }
  }

 private:
  /// A leaf and its gradient so far. `started`: the gradient of earlier passes was taken over, for
  /// this one to add to. `captured`: gradients() keeps it here, for its caller.
  struct Leaf {
    int uses = 0;
    bool started = false, captured = false;
    bool lent = false;  // `pending` is the caller's, to be added into
    Tensor pending;
    bool writable() const { return pending.defined() && (lent || owned_alone(pending)); }
  };
  /// A node that waits for its uses, and the gradients of its outputs so far.
  struct Pending {
    int uses = 0;
    Tensors grads;
  };
  /// Nodes run from the highest number down: then everything that uses a node has run before it,
  /// and the order does not depend on how the graph was walked.
  struct Ready {
    std::shared_ptr<Node> node;
    bool operator<(const Ready& other) const { return node->number < other.node->number; }
  };

  void count_uses() {
    std::vector<const Edge*> stack;
    for (const Edge& root : roots_) stack.push_back(&root);
    while (!stack.empty()) {
      const Edge& edge = *stack.back();
      stack.pop_back();
      if (edge.leaf) ++leaves_[edge.leaf.get()].uses;
      if (!edge.node) continue;
      Node& node = *edge.node;
      require(!foreign_.refused || node.number > foreign_.least_number,
              "recompute: the function uses a result of ", node.op, " ", edge.shape,
              " that was computed outside; pass it as an input");
      require(!node.spent, "backward: the graph of ", node.op,
              " was used by an earlier backward; pass {.retain_graph = true} to that one");
      Pending& state = nodes_[&node];
      if (state.uses++ > 0) continue;
      state.grads.resize(node.outputs.size());
      for (const Edge& input : node.inputs) stack.push_back(&input);
    }
  }

  bool wanted(const Edge& edge) {
    if (edge.leaf && capturing_) return leaves_[edge.leaf.get()].captured;
    return edge.wanted();
  }

  Sink sink_for(const Edge& edge) {
    Sink sink{.needed = wanted(edge),
              .last_run = !retain_,
              .shape = edge.shape,
              .dtype = edge.dtype,
              .device = edge.device};
    if (sink.needed && edge.leaf) {
      Leaf& leaf = leaves_[edge.leaf.get()];
      start(*edge.leaf, leaf);
      if (leaf.writable()) sink.pending = leaf.pending;
    }
    return sink;
  }

  /// The leaf's gradient from earlier passes is what this one adds to.
  static void start(Meta& meta, Leaf& leaf) {
    if (leaf.started) return;
    leaf.started = true;
    if (!leaf.captured) leaf.pending = std::move(meta.grad), meta.grad = {};
  }

  void run_node(Node& node) {
    require(!node.spent, "backward: the graph of ", node.op,
            " was used by another backward while this one ran; pass {.retain_graph = true} to "
            "that one");
    Pending& state = nodes_[&node];
    Results results(node.inputs.size());
    const bool reached = std::any_of(state.grads.begin(), state.grads.end(),
                                     [](const Tensor& g) { return g.defined(); });
    if (reached) {
      for (size_t i = 0; i < state.grads.size(); ++i) {
        const Output& o = node.outputs[i];
        if (!state.grads[i].defined() && is_float(o.dtype))
          state.grads[i] = zeros(o.shape, {o.dtype, o.device});
      }
      results = call(node, state.grads);
    }
    state.grads.clear();
    if (!retain_) node.backward = nullptr, node.spent = true;
    for (size_t i = 0; i < node.inputs.size(); ++i)
      deliver(node.op, node.inputs[i], std::move(results[i]));
  }

  /// A gradient that a backward returned, or word that it is in the pending one already.
  struct Result {
    Tensor g = {};
    bool accumulated = false;
  };
  using Results = std::vector<Result>;

  Results call(Node& node, const Tensors& dys) {
    std::vector<Sink> sinks;
    sinks.reserve(node.inputs.size());
    for (const Edge& edge : node.inputs) sinks.push_back(sink_for(edge));
    const char* outer = std::exchange(running_op, node.op);
    Grads grads;
    try {
      grads = node.backward(dys, sinks);
    } catch (...) {
      running_op = outer;
      throw;
    }
    running_op = outer;
    require(grads.size() == node.inputs.size(), node.op, " backward: returned ", grads.size(),
            " gradients for ", node.inputs.size(), " inputs");
    Results results(grads.size());
    for (size_t i = 0; i < grads.size(); ++i) {
      results[i].accumulated = grads[i].defined() && sinks[i].accumulates(grads[i]);
      results[i].g = std::move(grads[i]);
    }
    return results;
  }

  /// Hands a gradient to the node or leaf that it is for, which is ready, or finished, once its
  /// last use has delivered. An undefined gradient is 0, and counts as delivered too. `op` is null
  /// for what the caller of backward() gave.
  void deliver(const char* op, const Edge& edge, Result result) {
    if (!wanted(edge)) return;
    Tensor& g = result.g;
    if (g.defined())
      require(g.shape() == edge.shape && g.dtype() == edge.dtype, op ? op : "",
              op ? " backward: gradient " : "backward: gradient ", g.dtype(), " ", g.shape(),
              " does not fit its input ", edge.dtype, " ", edge.shape);
    if (g.defined())
      require(g.device() == edge.device, op ? op : "", op ? " backward" : "backward",
              ": tensors are on different devices, a gradient on ", g.device(),
              " and its input on ", edge.device);
    if (edge.leaf) {
      Leaf& leaf = leaves_[edge.leaf.get()];
      start(*edge.leaf, leaf);
      if (!result.accumulated) add(leaf.pending, std::move(g), leaf.lent);
      g = {};
      if (--leaf.uses == 0) finish(*edge.leaf, leaf);
    } else {
      Pending& state = nodes_[edge.node.get()];
      add(state.grads[size_t(edge.output)], std::move(g), false);
      if (--state.uses == 0) ready_.push({edge.node});
    }
  }

  /// total += g. The first gradient to arrive becomes the total without a copy, which is why it may
  /// only be added into where nobody else holds it, or where the caller lent it for that.
  static void add(Tensor& total, Tensor g, bool lent) {
    if (!g.defined()) return;
    if (!total.defined()) {
      total = std::move(g);
      return;
    }
    if (!lent && !owned_alone(total)) total = raw::clone(total);
    raw::add_(total, g);
  }

  /// All uses of a leaf have delivered: it gets its gradient, and functions of on_grad run. Memory
  /// that others see too is copied first, so that whoever adds to the gradient later changes
  /// nothing of theirs. A captured leaf's gradient stays here, and a lent one is in the caller's
  /// memory.
  static void finish(Meta& meta, Leaf& leaf) {
    if (leaf.lent) return;
    const bool came = leaf.pending.defined();
    if (came && !owned_alone(leaf.pending)) leaf.pending = raw::clone(leaf.pending);
    if (leaf.captured) return;
    // What functions of on_grad put there while this pass was under way, such as by a backward.
    if (came) add(leaf.pending, std::exchange(meta.grad, {}), false);
    const Tensor gradient = std::exchange(leaf.pending, {});
    if (came) meta.grad = gradient;
    // They may give the leaf more functions, which wait for the next pass: so those of this one are
    // counted first. They may also clear its gradient: so all are handed the same tensor.
    auto hook = meta.hooks.begin();
    for (size_t n = meta.hooks.size(); n > 0; --n) (*hook++)(gradient);
  }

  /// After an exception the graph is spent, and leaves hold what had arrived for them.
  void abandon() noexcept {
    for (auto& [node, state] : nodes_) node->backward = nullptr, node->spent = true;
    for (auto& [meta, leaf] : leaves_) {
      if (leaf.captured || !leaf.pending.defined()) continue;
      try {
        add(leaf.pending, std::exchange(meta->grad, {}), false);
      } catch (...) {  // no memory: what came from this pass stays
      }
      meta->grad = std::move(leaf.pending);
    }
  }

  bool retain_, capturing_ = false;
  Foreign foreign_;
  std::vector<Edge> roots_;
  Tensors root_grads_;
  std::unordered_map<Node*, Pending> nodes_;
  std::unordered_map<Meta*, Leaf> leaves_;
  std::priority_queue<Ready> ready_;
};

}  // namespace

void backward(const Tensor& y, BackwardOptions options) {
  require(requires_grad(y), "backward: ", y.shape(),
          " does not depend on anything that requires a gradient");
  if (!options.gradient.defined()) {
    require(y.numel() == 1, "backward: ", y.shape(), " is no scalar; give {.gradient = …}");
    options.gradient = ones_like(y);
  }
  require(options.gradient.shape() == y.shape() && options.gradient.dtype() == y.dtype(),
          "backward: gradient ", options.gradient.dtype(), " ", options.gradient.shape(),
          " does not fit ", y.dtype(), " ", y.shape());
  Pass(Tensors{y}, Tensors{std::move(options.gradient)}, options.retain_graph).run();
}

Tensors gradients(const Tensors& ys, const Tensors& dys, const Tensors& wrt, Sinks into) {
  return graph::gradients_within(ys, dys, wrt, into, {});
}

Tensors graph::gradients_within(const Tensors& ys, const Tensors& dys, const Tensors& wrt,
                                Sinks into, Foreign foreign) {
  require(ys.size() == dys.size(), "gradients: ", dys.size(), " weights for ", ys.size(),
          " results");
  if (wrt.empty()) return {};
  Pass pass(ys, dys, false, foreign);
  for (size_t i = 0; i < wrt.size(); ++i)
    pass.capture(wrt[i], i < into.size() ? into[i].pending : Tensor());
  pass.run();
  Tensors results;
  for (const Tensor& t : wrt) results.push_back(pass.captured(t));
  return results;
}

}  // namespace olm
