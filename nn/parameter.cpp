#include <olm/nn/parameter.h>

#include <mutex>
#include <utility>

#include <olm/engine/raw.h>
#include <olm/nn/module.h>
#include <olm/nn/parameter_internal.h>

namespace olm::nn {

Parameter::Parameter(Module* owner, std::string name, Shape shape, InitRule rule)
    : owner_(owner), name_(std::move(name)), state_(std::make_shared<State>()) {
  state_->tensor = empty(shape, {.device = meta});
  state_->rule = std::move(rule);
  set_requires_grad(state_->tensor);
  owner->slots_.push_back(this);
}

Parameter& Parameter::operator=(const Parameter& other) {
  require(shape() == other.shape(), "parameter ", name_, " ", shape(), " cannot be tied to ",
          other.name_, " ", other.shape());
  state_ = other.state_;
  return *this;
}

const Tensor& Parameter::tensor() const {
  require(state_->filled, "parameter ", owner_->path_hint(name_),
          " has no values yet; call init(model) or load weights");
  return state_->tensor;
}

void Parameter::assign(const Tensor& values) {
  require(values.shape() == shape(), "parameter ", name_, " wants shape ", shape(), ", got ",
          values.shape());
  require_float("parameter", values);
  olm::zero_grad(state_->tensor);
  reseat(state_->tensor, values);
  state_->filled = true;
}

void Parameter::keep_elsewhere() {
  assign(empty(shape(), {state_->tensor.dtype(), meta}));
  state_->elsewhere = true;
}

bool Parameter::is_elsewhere() const {
  return state_->elsewhere && state_->tensor.device() == meta;
}

void Parameter::set_trainable(bool trainable) { set_requires_grad(state_->tensor, trainable); }
bool Parameter::trainable() const { return requires_grad(state_->tensor); }

/// What as() made of the values that are in `source`, as of `version`.
struct Buffer::Converted {
  std::mutex mutex;
  std::shared_ptr<Storage> source;
  uint64_t version = 0;
  Tensors all;
};

Buffer::Buffer(Module* owner, std::string name, Tensor values, bool persistent)
    : name_(std::move(name)),
      tensor_(std::move(values)),
      persistent_(persistent),
      converted_(std::make_shared<Converted>()) {
  owner->slots_.push_back(this);
}

Tensor Buffer::as(TensorOptions wanted) const {
  const auto fits = [&](const Tensor& t) {
    return t.dtype() == wanted.dtype && t.device() == wanted.device;
  };
  if (fits(tensor_)) return tensor_;
  if (wanted.device == meta) return empty(tensor_.shape(), wanted);
  Converted& c = *converted_;
  std::lock_guard lock(c.mutex);
  if (c.source != tensor_.impl().storage || c.version != tensor_.version()) {
    c.source = tensor_.impl().storage;
    c.version = tensor_.version();
    c.all.clear();
  }
  for (const Tensor& t : c.all)
    if (fits(t)) return t;
  const Tensor host = raw::cast(raw::to(tensor_, cpu), wanted.dtype);
  return c.all.emplace_back(raw::to(host, wanted.device));
}

void Buffer::assign(const Tensor& values) {
  require(values.shape() == tensor_.shape() && values.dtype() == tensor_.dtype(), "buffer ", name_,
          " wants ", tensor_.dtype(), " ", tensor_.shape(), ", got ", values.dtype(), " ",
          values.shape());
  reseat(tensor_, values);
}

}  // namespace olm::nn
