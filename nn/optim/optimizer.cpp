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
  targets_.reset();
}

/// The state is where the parameters are.
void Optimizer::place_state(Device device) {
  if (state_.device() != device) state_ = raw::StepState(device);
}

void Optimizer::add_loss(const Tensor& loss, const Tensors& aux, int64_t targets) {
  require(targets >= 0, kind_.name, ": wanted at least 0 targets, got ", targets);
  if (!targets_) place_state(loss.device());
  raw::accumulate_loss(state_, loss, aux, targets, !targets_);
  targets_ = targets_.value_or(0) + targets;
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
  place_state(items[0].parameter.device());
  state_.write({.lr = lr_, .gradient_scale = options.gradient_scale, .step = steps_});
  Tensors gradients;
  for (const raw::OptimItem& item : items) gradients.push_back(item.gradient);
  raw::begin_step(state_, raw::squared_sums(gradients),
                  {.targets = targets_ ? double(std::max<int64_t>(1, *targets_)) : 0,
                   .clip_norm = kind_.clip_norm,
                   .skip_above = options.skip_above,
                   .skip_loss_above = options.skip_loss_above});
}

/// What a step reports where there is nothing to update.
StepInfo Optimizer::loss_alone() {
  if (!targets_) return {};
  const kernels::StepScalars sums = state_.read();
  const double targets = double(std::max<int64_t>(1, *targets_));
  targets_.reset();
  return {.loss = sums.loss / targets, .aux_loss = sums.aux / targets};
}

StepInfo Optimizer::step(StepOptions options) {
  const std::vector<raw::OptimItem> items = collect();
  if (items.empty()) return loss_alone();
  open_step(items, options);
  update(items, state_);
  const kernels::StepScalars scalars = state_.read();
  StepInfo info{.grad_norm = scalars.norm,
                .skipped = scalars.skip != 0,
                .loss = scalars.loss,
                .aux_loss = scalars.aux};
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
