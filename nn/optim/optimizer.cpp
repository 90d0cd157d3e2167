#include <algorithm>
#include <cmath>
#include <unordered_set>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/optim.h>

namespace olm::nn {
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
      const bool orthogonalize = kind.of_matrices && group.orthogonalize.value_or(p.rank() == 2);
      require(!orthogonalize || p.rank() == 2, kind.name, ": parameter ", entries_.size(), " ",
              p.shape(), " is no matrix and cannot be orthogonalized");
      ranges_.push_back({.parameter = int64_t(entries_.size()), .begin = 0, .end = p.numel()});
      entries_.push_back({.parameter = p,
                          .lr_scale = group.lr_scale.value_or(1),
                          .weight_decay = group.weight_decay.value_or(kind.weight_decay),
                          .orthogonalize = orthogonalize});
    }
  }
  kept_.resize(ranges_.size());
  place_state(device());
}

/// Of the parameters; those of other ranks are on meta.
Device Optimizer::device() const {
  for (const Entry& entry : entries_)
    if (entry.parameter.device() != meta) return entry.parameter.device();
  return entries_.empty() ? state_.device() : meta;
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

std::string Optimizer::describe() const {
  std::string text = kind_.options;
  for (const Entry& entry : entries_)
    text += detail::concat(", ", entry.lr_scale, "x ", entry.weight_decay,
                           entry.orthogonalize ? " orthogonalized" : "");
  return text;
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

Tensor Optimizer::squared_sums(const Tensors& gradients) const {
  require(gradients.size() == ranges_.size(), kind_.name, ": ", gradients.size(), " gradients for ",
          ranges_.size(), " ranges of parameters");
  const Tensor none = zeros({0}, {.dtype = f64, .device = device()});
  Tensors all, present;
  bool complete = true;
  for (const Tensor& g : gradients) {
    if (g.defined()) present.push_back(raw::cast(g, acc_dtype(g.dtype())));
    complete = complete && g.defined();
  }
  if (present.empty() && complete) return none;
  Tensor sums = present.empty() ? none : raw::squared_sums(present);
  if (complete) return sums;
  int64_t blocks = 0, from = 0, to = 0;
  for (const ParameterRange& r : ranges_) blocks += raw::norm_blocks(r.end - r.begin);
  const Tensor padded = zeros({blocks}, options_of(none));
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const int64_t n = raw::norm_blocks(ranges_[i].end - ranges_[i].begin);
    if (gradients[i].defined() && n > 0) {
      raw::copy_(raw::slice(padded, 0, to, to + n), raw::slice(sums, 0, from, from + n));
      from += n;
    }
    to += n;
  }
  return padded;
}

void Optimizer::begin_step(const Tensor& squared_sums, const StepOptions& options) {
  int64_t blocks = 0;
  for (const Entry& entry : entries_) blocks += raw::norm_blocks(entry.parameter.numel());
  require(squared_sums.numel() == blocks, kind_.name, ": ", squared_sums.numel(),
          " sums of squares for ", blocks, " blocks of parameters");
  place_state(device());
  state_.write({.lr = lr_, .gradient_scale = options.gradient_scale, .step = steps_});
  raw::begin_step(state_, raw::to(squared_sums, state_.device()),
                  {.targets = targets_ ? double(std::max<int64_t>(1, *targets_)) : 0,
                   .clip_norm = kind_.clip_norm,
                   .skip_above = options.skip_above,
                   .skip_loss_above = options.skip_loss_above});
}

/// The update of a range by its gradient.
raw::OptimItem Optimizer::item_of(size_t range, const Tensor& gradient) {
  require(range < ranges_.size(), kind_.name, ": there are ", ranges_.size(),
          " ranges of parameters, a gradient came for number ", range);
  const ParameterRange& r = ranges_[range];
  Entry& entry = entries_[size_t(r.parameter)];
  const Tensor part = part_of(entry.parameter, r);
  require(gradient.numel() == part.numel(), kind_.name, ": a gradient ", gradient.shape(),
          " does not fit elements ", r.begin, " to ", r.end, " of parameter ", r.parameter);
  entry.started = true;
  Kept& kept = kept_[range];
  prepare(kept, r);
  const Tensor& master = kept[kMaster];
  const DType dtype = master.defined() ? master.dtype() : part.dtype();
  return {.parameter = master.defined() ? master : part,
          .gradient = raw::reshape(raw::cast(gradient, dtype), part.shape()),
          .first = kept[0],
          .second = kept[1],
          .lr_scale = entry.lr_scale,
          .weight_decay = entry.weight_decay,
          .missed = entry.missed};
}

void Optimizer::update_ranges(const Tensors& gradients, size_t first) {
  std::vector<raw::OptimItem> items;
  for (size_t i = 0; i < gradients.size(); ++i)
    if (gradients[i].defined()) items.push_back(item_of(first + i, gradients[i]));
  if (items.empty()) return;
  update(items, state_);
  for (size_t i = first; i < first + gradients.size(); ++i) {
    const Tensor& master = kept_[i][kMaster];
    if (!gradients[i - first].defined() || !master.defined()) continue;
    raw::copy_(part_of(entries_[size_t(ranges_[i].parameter)].parameter, ranges_[i]), master);
  }
}

/// The first parameter with a sum that is not finite.
int64_t Optimizer::first_bad(const Tensor& squared_sums) const {
  const std::vector<double> sums = to_host<double>(squared_sums);
  size_t block = 0;
  for (size_t i = 0; i < entries_.size(); ++i)
    for (int64_t n = raw::norm_blocks(entries_[i].parameter.numel()); n > 0; --n, ++block)
      if (!std::isfinite(sums[block])) return int64_t(i);
  return -1;
}

StepInfo Optimizer::end_step(const Tensor& squared_sums, const std::vector<bool>& present) {
  require(present.size() == entries_.size(), kind_.name, ": wanted to know of ", entries_.size(),
          " parameters whether they had a gradient, got ", present.size());
  const kernels::StepScalars scalars = state_.read();
  StepInfo info{.grad_norm = scalars.norm,
                .skipped = scalars.skip != 0,
                .loss = scalars.loss,
                .aux_loss = scalars.aux};
  if (!std::isfinite(info.grad_norm)) info.first_bad = first_bad(squared_sums);
  steps_ = scalars.step;
  last_grad_norm_ = scalars.norm;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (present[i])
      entries_[i].started = true;
    else if (!info.skipped)
      ++entries_[i].missed;
  }
  for (size_t i = 0; i < ranges_.size(); ++i)
    if (entries_[size_t(ranges_[i].parameter)].started) prepare(kept_[i], ranges_[i]);
  zero_grad();
  return info;
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
  Tensors gradients;
  std::vector<bool> present;
  for (const Entry& entry : entries_) {
    const Tensor gradient = grad(entry.parameter);
    present.push_back(gradient.defined());
    gradients.push_back(gradient.defined() ? raw::contiguous(gradient) : gradient);
  }
  if (std::find(present.begin(), present.end(), true) == present.end()) return loss_alone();
  require_whole("step()");
  const Tensor sums = squared_sums(gradients);
  begin_step(sums, options);
  update_ranges(gradients, 0);
  return end_step(sums, present);
}

}  // namespace olm::nn
