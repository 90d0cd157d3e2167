#include <olm/engine/raw_optim.h>

#include <cmath>
#include <cstring>

#include <olm/engine/raw.h>
#include <olm/engine/raw_optim_internal.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/run.h>

namespace olm::raw {
namespace {

/// The norm of what has these sums of squares, left in the memory of their device.
void norm_into(double* norm, const Tensor& sums) {
  kernels::run(sums.device().kind,
               kernels::NormOfSums{.sums = static_cast<const double*>(sums.data()),
                                   .n = sums.numel(),
                                   .norm = norm,
                                   .stream = stream_of(sums)});
}

std::vector<kernels::OptimTensor> list_of(const char* op, const std::vector<OptimItem>& items,
                                          const StepState& state, Moments needed) {
  std::vector<kernels::OptimTensor> list;
  for (const OptimItem& item : items) {
    check_item(op, item, items[0], state.device(), needed);
    list.push_back({.parameter = item.parameter.mutable_data(),
                    .gradient = item.gradient.data(),
                    .first = item.first.defined() ? item.first.mutable_data() : nullptr,
                    .second = item.second.defined() ? item.second.mutable_data() : nullptr,
                    .n = item.parameter.numel(),
                    .lr_scale = item.lr_scale,
                    .weight_decay = item.weight_decay,
                    .missed = item.missed});
  }
  return list;
}

/// Runs an update with the members that all of them share.
template <class Update>
void run_update(Update update, const std::vector<OptimItem>& items, const StepState& state,
                Moments needed) {
  if (items.empty()) return;
  const std::vector<kernels::OptimTensor> list = list_of(Update::name, items, state, needed);
  update.dtype = items[0].parameter.dtype();
  update.tensors = list.data();
  update.count = int64_t(list.size());
  update.scalars = state.scalars();
  update.stream = stream_of(items[0].parameter);
  kernels::run(state.device().kind, update);
}

}  // namespace

void check_item(const char* op, const OptimItem& item, const OptimItem& first, Device device,
                Moments needed) {
  const Tensor& p = item.parameter;
  require(p.dtype() == f32 || p.dtype() == f64, op,
          ": parameters must be f32, of which bf16 activations are made; got ", p.dtype(), " ",
          p.shape());
  require(p.is_contiguous(), op, ": parameter ", p.shape(), " is not contiguous");
  require(p.device() == device, op, ": parameter ", p.shape(), " is on ", p.device(),
          ", the optimizer's state on ", device);
  require(p.dtype() == first.parameter.dtype(), op,
          ": parameters of one optimizer have one dtype, got ", first.parameter.dtype(), " and ",
          p.dtype());
  for (const Tensor* t : {&item.gradient, &item.first, &item.second})
    require(!t->defined() || (t->shape() == p.shape() && t->dtype() == p.dtype() &&
                              t->device() == device && t->is_contiguous()),
            op, ": a gradient or moment does not fit parameter ", p.dtype(), " ", p.shape());
  require(item.gradient.defined(), op, ": parameter ", p.shape(), " has no gradient");
  require(item.first.defined() || !needed.first, op, ": parameter ", p.shape(),
          " has no first moment");
  require(item.second.defined() || !needed.second, op, ": parameter ", p.shape(),
          " has no second moment");
}

int64_t norm_blocks(int64_t n) { return kernels::ceil_div(n, kernels::kNormBlock); }

Tensor squared_sums(const Tensors& xs) {
  require(!xs.empty(), kernels::SquaredSums::name, ": there are no tensors");
  Tensors held;  // contiguous copies live as long as the call
  std::vector<kernels::NormTensor> list;
  int64_t blocks = 0;
  for (const Tensor& x : xs) {
    require_same_dtype(kernels::SquaredSums::name, xs[0], x);
    require_same_device(kernels::SquaredSums::name, xs[0], x);
    held.push_back(contiguous(x));
    list.push_back({.x = held.back().data(), .n = x.numel()});
    blocks += norm_blocks(x.numel());
  }
  const Tensor sums = empty({blocks}, {.dtype = f64, .device = xs[0].device()});
  kernels::run(xs[0].device().kind,
               kernels::SquaredSums{.dtype = xs[0].dtype(),
                                    .tensors = list.data(),
                                    .count = int64_t(list.size()),
                                    .sums = static_cast<double*>(sums.mutable_data()),
                                    .stream = stream_of(sums)});
  return sums;
}

double global_norm(const Tensors& xs) {
  std::vector<Tensors> groups;  // by dtype and device, in order of appearance
  for (const Tensor& x : xs) {
    require_float("global_norm", x);
    Tensors* group = nullptr;
    for (Tensors& g : groups)
      if (g[0].dtype() == x.dtype() && g[0].device() == x.device()) group = &g;
    if (!group) group = &groups.emplace_back();
    group->push_back(x);
  }
  double squares = 0;
  for (const Tensors& group : groups) {
    const StepState state(group[0].device());
    norm_into(&state.scalars()->norm, squared_sums(group));
    const double norm = state.read().norm;
    squares += norm * norm;
  }
  return std::sqrt(squares);
}

StepState::StepState(Device device)
    : memory_(zeros({int64_t(sizeof(kernels::StepScalars) / sizeof(int64_t))},
                    {.dtype = i64, .device = device})) {
  write({});
}

kernels::StepScalars StepState::read() const {
  kernels::StepScalars scalars;
  if (device() == meta) return scalars;
  const Tensor host = to(memory_, cpu);
  std::memcpy(&scalars, host.data(), sizeof scalars);
  return scalars;
}

void StepState::write(const kernels::StepInputs& inputs) const {
  kernels::run(
      device().kind,
      kernels::WriteStep{.scalars = scalars(), .inputs = inputs, .stream = stream_of(memory_)});
}

kernels::StepScalars* StepState::scalars() const {
  return static_cast<kernels::StepScalars*>(memory_.mutable_data());
}

void accumulate_loss(const StepState& state, const Tensor& loss, const Tensors& aux,
                     int64_t targets, bool first) {
  const char* op = kernels::AccumulateLoss::name;
  Tensors held;  // copies in the dtype of the kernel live as long as the call
  std::vector<const void*> list;
  const auto take = [&](const Tensor& x) {
    require_float(op, x);
    require_same_dtype(op, loss, x);
    require(x.numel() == 1, op, ": wanted a scalar, got ", x.shape());
    require(x.device() == state.device(), op, ": a loss is on ", x.device(),
            ", the optimizer's state on ", state.device());
    held.push_back(cast(x, acc_dtype(x.dtype())));
    return held.back().data();
  };
  const void* value = take(loss);
  for (const Tensor& x : aux) list.push_back(take(x));
  kernels::run(state.device().kind, kernels::AccumulateLoss{.dtype = held[0].dtype(),
                                                            .scalars = state.scalars(),
                                                            .loss = value,
                                                            .aux = list.data(),
                                                            .aux_count = int64_t(list.size()),
                                                            .targets = double(targets),
                                                            .accumulate = !first,
                                                            .stream = stream_of(loss)});
}

void begin_step(const StepState& state, const Tensor& sums, BeginStepOptions options) {
  const char* op = kernels::BeginStep::name;
  require(sums.dtype() == f64 && sums.is_contiguous() && sums.device() == state.device(), op,
          ": wanted contiguous sums of squares in f64 on ", state.device(), ", got ", sums.dtype(),
          " ", sums.shape(), " on ", sums.device());
  norm_into(&state.scalars()->norm, sums);
  kernels::run(state.device().kind, kernels::BeginStep{.scalars = state.scalars(),
                                                       .targets = options.targets,
                                                       .clip_norm = options.clip_norm,
                                                       .skip_above = options.skip_above,
                                                       .skip_loss_above = options.skip_loss_above,
                                                       .stream = stream_of(sums)});
}

void adamw_(const std::vector<OptimItem>& items, const StepState& state, double beta1, double beta2,
            double eps) {
  run_update(kernels::AdamWUpdate{.beta1 = beta1, .beta2 = beta2, .eps = eps}, items, state,
             {.first = true, .second = true});
}

void sgd_(const std::vector<OptimItem>& items, const StepState& state, double momentum,
          bool nesterov) {
  run_update(kernels::SGDUpdate{.momentum = momentum, .nesterov = nesterov}, items, state,
             {.first = momentum != 0});
}

void lion_(const std::vector<OptimItem>& items, const StepState& state, double beta1,
           double beta2) {
  run_update(kernels::LionUpdate{.beta1 = beta1, .beta2 = beta2}, items, state, {.first = true});
}

void update_expert_bias_(const Tensor& bias, const Tensors& offsets, double rate) {
  const char* op = kernels::ExpertBiasUpdate::name;
  require(bias.dtype() == f32 && bias.rank() == 1 && bias.is_contiguous(), op,
          ": wanted a contiguous bias [E] of f32, got ", bias.dtype(), " ", bias.shape());
  Tensors held;
  std::vector<const int32_t*> list;
  for (const Tensor& x : offsets) {
    require_same_device(op, bias, x);
    require(x.dtype() == i32 && x.shape() == Shape{bias.size(0) + 1}, op,
            ": wanted offsets [E+1] of i32 for a bias ", bias.shape(), ", got ", x.dtype(), " ",
            x.shape());
    held.push_back(contiguous(x));
    list.push_back(static_cast<const int32_t*>(held.back().data()));
  }
  kernels::run(bias.device().kind,
               kernels::ExpertBiasUpdate{.bias = static_cast<float*>(bias.mutable_data()),
                                         .offsets = list.data(),
                                         .count = int64_t(list.size()),
                                         .experts = bias.size(0),
                                         .rate = rate,
                                         .stream = stream_of(bias)});
}

}  // namespace olm::raw
