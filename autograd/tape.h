#pragma once
// The reverse-mode tape: tensors own the graph, `record` adds to it, `backward` walks it.
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <olm/engine/tensor.h>

namespace olm {

/// What a backward function is told about one input of its op.
struct Sink {
  bool needed = false;    ///< a gradient is wanted; otherwise return an undefined tensor
  Tensor pending = {};    ///< the gradient so far, where a kernel may add into it
  bool last_run = false;  ///< backward will not run again: what it holds may become the gradient
  /// What the input was, and its gradient must be, where one is needed.
  Shape shape = {};
  DType dtype = f32;
  Device device = {};

  /// True where `buffer` is `pending`: the kernel must add into it.
  bool accumulates(const Tensor& buffer) const {
    return pending.defined() && buffer.is_same(pending);
  }
};
using Sinks = std::span<const Sink>;
/// One gradient per input, in their order; undefined where none is needed or flows.
using Grads = std::vector<Tensor>;

using Backward = std::function<Grads(const Tensor& dy, Sinks into)>;
using BackwardMany = std::function<Grads(const Tensors& dys, Sinks into)>;

/// Returns y as the result of `op` on `inputs`. A node is made only while recording and if some
/// input requires a gradient. `backward` must not capture inputs or results directly: see saved().
OLM_API Tensor record(const char* op, Tensor y, const Tensors& inputs, Backward backward);
/// The same for several outputs; outputs of integer dtype stay outside the graph.
OLM_API Tensors record(const char* op, Tensors ys, const Tensors& inputs, BackwardMany backward);
/// In place of a backward function: throws if a gradient ever reaches the op.
OLM_API Backward no_derivative(const char* op);

/// A tensor kept for backward: a detached alias (so saving an output makes no cycle) and the
/// version it had, which get() checks.
class OLM_API Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& t);
  /// Throws if the tensor was modified in place since it was saved.
  const Tensor& get() const;
  bool defined() const { return alias_.defined(); }

 private:
  Tensor alias_;
  uint64_t version_ = 0;
};
inline Saved saved(const Tensor& t) { return Saved(t); }

/// Leaves. A tensor whose gradient is wanted is marked once and collects in grad(t).
OLM_API void set_requires_grad(const Tensor& leaf, bool wanted = true);
OLM_API bool requires_grad(const Tensor& t);
OLM_API bool is_leaf(const Tensor& t);
/// The gradient of a leaf; undefined before the first backward and after zero_grad.
OLM_API Tensor grad(const Tensor& leaf);
OLM_API void set_grad(const Tensor& leaf, Tensor gradient);
OLM_API void zero_grad(const Tensor& leaf);
/// The same values outside the graph.
OLM_API Tensor detach(const Tensor& t);
/// Calls fn(gradient) whenever a backward has delivered the last contribution to `leaf`, in the
/// order in which functions were given. They stay for as long as the leaf does: none can be taken
/// away, so one that is to end must ignore later calls. All functions of a leaf get the same
/// tensor, also where one of them clears or sets the leaf's gradient; a function given to the leaf
/// by one of them waits for the next backward. They run without recording, and may call backward
/// on other graphs: what that brings is added. Where one throws, so does backward, as for an op.
OLM_API void on_grad(const Tensor& leaf, std::function<void(const Tensor& gradient)> fn);

/// Where backward starts, and what it leaves behind.
struct BackwardOptions {
  Tensor gradient = {};       ///< of the result with respect to y; 1 if y is a scalar
  bool retain_graph = false;  ///< keep what backward saved, so that it can run again
};
/// Adds the gradient of y to every leaf it depends on. Throws on a second call over the same graph
/// unless the first one retained it. Not differentiable itself. Where an op throws on the way, the
/// graph is spent and leaves hold what had arrived: zero_grad them before going on.
OLM_API void backward(const Tensor& y, BackwardOptions options = {});
/// Gradients of `ys` (weighted by `dys`) with respect to the leaves `wrt`, returned instead of
/// collected; other leaves get nothing. `into`, if given, holds for each of `wrt` a gradient so far
/// (contiguous, of its shape and dtype) to add to. Undefined where nothing flows.
OLM_API Tensors gradients(const Tensors& ys, const Tensors& dys, const Tensors& wrt,
                          Sinks into = {});

/// True while ops are recorded on this thread.
OLM_API bool grad_enabled();
/// Ops are not recorded on this thread while the guard lives.
class OLM_API NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};
/// Ops are recorded again while the guard lives, inside a NoGrad.
class OLM_API EnableGrad {
 public:
  EnableGrad();
  ~EnableGrad();
  EnableGrad(const EnableGrad&) = delete;
  EnableGrad& operator=(const EnableGrad&) = delete;

 private:
  bool previous_;
};

/// In-place ops call this: they are legal only where nothing is recorded.
OLM_API void require_no_grad(const char* op, const Tensor& t);

}  // namespace olm
