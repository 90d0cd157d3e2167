#pragma once
// The tensors of a module: parameters, with the rules that fill them, and buffers.
#include <functional>
#include <memory>
#include <string>

#include <olm/autograd/tape.h>
#include <olm/engine/random.h>

namespace olm::nn {

class Module;

/// How a parameter is filled: values for its shape from a stream of its own.
using InitRule = std::function<Tensor(const Shape& shape, Generator& rng)>;
/// The rules layers use. A struct, because `init` is also the function that applies them.
struct OLM_API init {
  static Tensor zeros(const Shape& shape, Generator&);
  static Tensor ones(const Shape& shape, Generator&);
  /// Independent normal numbers of deviation `std`.
  static InitRule normal(double std);
  /// Uniform in [-bound, bound).
  static InitRule uniform(double bound);
  static InitRule constant(double value);
  /// PyTorch's default of linear layers: uniform within 1/sqrt(n) for n inputs.
  static InitRule fan_in(int64_t n);
};

/// A tensor that is trained. Declared with a shape and a rule, filled by init() or by loading; its
/// Tensor handle stays the same for life, so optimizers may keep it.
class OLM_API Parameter {
 public:
  Parameter(Module* owner, std::string name, Shape shape, InitRule rule);
  Parameter(const Parameter&) = delete;
  /// Ties: from now on both are one tensor with one gradient. Shapes must agree.
  Parameter& operator=(const Parameter& other);

  /// The values; throws naming the key where nothing filled them.
  const Tensor& tensor() const;
  operator const Tensor&() const { return tensor(); }
  /// The handle, filled or not.
  const Tensor& handle() const { return state_->tensor; }
  const Shape& shape() const { return state_->tensor.shape(); }
  const std::string& name() const { return name_; }
  bool filled() const { return state_->filled; }
  /// Frees the values, which another rank keeps. Shape and dtype stay here, on meta: what fills,
  /// loads or moves a model passes by, until assign() brings values back.
  void keep_elsewhere();
  bool is_elsewhere() const;
  bool is_tied_to(const Parameter& other) const { return state_ == other.state_; }
  const InitRule& rule() const { return state_->rule; }
  void set_rule(InitRule rule) { state_->rule = std::move(rule); }
  /// Puts `values` (same shape) into the handle.
  void assign(const Tensor& values);
  void set_trainable(bool trainable);
  bool trainable() const;

 private:
  struct State {
    Tensor tensor;
    InitRule rule;
    bool filled = false, elsewhere = false;
  };
  Module* owner_;
  std::string name_;
  std::shared_ptr<State> state_;
};

/// A tensor that belongs to a module but is not trained: computed at construction, and part of the
/// state dict only if `persistent`.
class OLM_API Buffer {
 public:
  Buffer(Module* owner, std::string name, Tensor values, bool persistent = false);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  operator const Tensor&() const { return tensor_; }
  const Tensor& tensor() const { return tensor_; }
  /// The values in another dtype and on another device: converted once, on the host (only it has
  /// f64), and kept until they change. Thread-safe.
  Tensor as(TensorOptions wanted) const;
  const std::string& name() const { return name_; }
  bool persistent() const { return persistent_; }
  void assign(const Tensor& values);

 private:
  struct Converted;
  std::string name_;
  Tensor tensor_;
  bool persistent_;
  std::shared_ptr<Converted> converted_;
};

}  // namespace olm::nn
