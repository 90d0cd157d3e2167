#include <algorithm>
#include <cmath>
#include <unordered_set>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/optim.h>

namespace olm::nn {
namespace {

/// Moments begin as zeros and follow their parameter to its device.
void prepare(Tensor& moment, const Tensor& parameter) {
  moment = moment.defined() ? raw::to(moment, parameter.device())
                            : zeros(parameter.shape(), options_of(parameter));
}

}  // namespace

std::vector<ParameterGroup> decay_groups(const Tensors& parameters, double weight_decay) {
  ParameterGroup decayed{.parameters = {}, .weight_decay = weight_decay};
  ParameterGroup plain{.parameters = {}, .weight_decay = 0.0};
  for (const Tensor& p : parameters) (p.rank() >= 2 ? decayed : plain).parameters.push_back(p);
  return {decayed, plain};
}

Optimizer::Optimizer(std::vector<ParameterGroup> groups, Kind kind) : kind_(kind), lr_(kind.lr) {
  set_lr(kind.lr);
  require(kind.weight_decay >= 0, kind.name, ": wanted a weight decay >= 0, got ",
          kind.weight_decay);
  require(kind.clip_norm >= 0, kind.name, ": wanted a clip norm >= 0, got ", kind.clip_norm);
  std::unordered_set<const TensorImpl*> seen;
  for (const ParameterGroup& group : groups) {
    for (const Tensor& p : group.parameters) {
      require_float(kind.name, p);
      require(seen.insert(p.handle().get()).second, kind.name, ": parameter ", entries_.size(), " ",
              p.shape(), " is there twice");
      entries_.push_back({.parameter = p,
                          .lr_scale = group.lr_scale.value_or(1),
                          .weight_decay = group.weight_decay.value_or(kind.weight_decay)});
    }
  }
  if (!entries_.empty()) state_ = raw::StepState(entries_[0].parameter.device());
}

void Optimizer::set_lr(double lr) {
  require(lr >= 0 && std::isfinite(lr), kind_.name, ": wanted a learning rate >= 0, got ", lr);
  lr_ = lr;
}

Tensors Optimizer::parameters() const {
  Tensors result;
  for (const Entry& entry : entries_) result.push_back(entry.parameter);
  return result;
}

void Optimizer::zero_grad() {
  for (const Entry& entry : entries_) olm::zero_grad(entry.parameter);
}

/// Parameters that have a gradient.
std::vector<raw::OptimItem> Optimizer::collect() {
  std::vector<raw::OptimItem> items;
  for (Entry& entry : entries_) {
    const Tensor gradient = grad(entry.parameter);
    if (!gradient.defined()) continue;
    if (kind_.first) prepare(entry.first, entry.parameter);
    if (kind_.second) prepare(entry.second, entry.parameter);
    items.push_back({.parameter = entry.parameter,
                     .gradient = raw::contiguous(gradient),
                     .first = entry.first,
                     .second = entry.second,
                     .lr_scale = entry.lr_scale,
                     .weight_decay = entry.weight_decay,
                     .missed = entry.missed});
  }
  return items;
}

void Optimizer::open_step(const std::vector<raw::OptimItem>& items, const StepOptions& options) {
  const Device device = items[0].parameter.device();
  if (state_.device() != device) state_ = raw::StepState(device);
  state_.write({.lr = lr_, .gradient_scale = options.gradient_scale, .step = steps_});
  raw::begin_step(state_, items, {.clip_norm = kind_.clip_norm, .skip_above = options.skip_above});
}

StepInfo Optimizer::step(StepOptions options) {
  const std::vector<raw::OptimItem> items = collect();
  if (items.empty()) return {};
  open_step(items, options);
  update(items, state_);
  const kernels::StepScalars scalars = state_.read();
  StepInfo info{.grad_norm = scalars.norm, .skipped = scalars.skip != 0};
  steps_ = scalars.step;
  last_grad_norm_ = scalars.norm;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Tensor gradient = grad(entries_[i].parameter);
    if (!gradient.defined()) {
      if (!info.skipped) ++entries_[i].missed;
    } else if (!std::isfinite(info.grad_norm) && info.first_bad < 0 &&
               raw::has_nonfinite(gradient)) {
      info.first_bad = int64_t(i);
    }
  }
  zero_grad();
  return info;
}

}  // namespace olm::nn
