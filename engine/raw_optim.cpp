#include <olm/engine/raw_optim.h>

#include <cmath>
#include <cstring>

#include <olm/engine/raw.h>

namespace olm::raw {
namespace {

/// The norm of tensors of one dtype and device, left in that device's memory.
void norm_into(double* norm, const Tensors& xs) {
  Tensors held;  // contiguous copies live as long as the call
  std::vector<kernels::NormTensor> list;
  for (const Tensor& x : xs) {
    held.push_back(contiguous(x));
    list.push_back({.x = held.back().data(), .n = x.numel()});
  }
  kernels::run(xs[0].device().kind, kernels::GlobalNorm{.dtype = xs[0].dtype(),
                                                        .tensors = list.data(),
                                                        .count = int64_t(list.size()),
                                                        .norm = norm,
                                                        .stream = stream_of(xs[0])});
}

void check_item(const char* op, const OptimItem& item, const OptimItem& first, Device device) {
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
}

/// The moments that an update reads and writes.
struct Moments {
  bool first = false, second = false;
};

std::vector<kernels::OptimTensor> list_of(const char* op, const std::vector<OptimItem>& items,
                                          const StepState& state, Moments needed) {
  std::vector<kernels::OptimTensor> list;
  for (const OptimItem& item : items) {
    check_item(op, item, items[0], state.device());
    const Shape& shape = item.parameter.shape();
    require(item.gradient.defined(), op, ": parameter ", shape, " has no gradient");
    require(item.first.defined() || !needed.first, op, ": parameter ", shape,
            " has no first moment");
    require(item.second.defined() || !needed.second, op, ": parameter ", shape,
            " has no second moment");
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
    norm_into(&state.scalars()->norm, group);
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

void StepState::write(const kernels::StepScalars& scalars) {
  if (device() == meta) return;
  const Tensor host = empty(memory_.shape(), {.dtype = i64});
  std::memcpy(host.mutable_data(), &scalars, sizeof scalars);
  memory_ = to(host, device());
}

kernels::StepScalars* StepState::scalars() const {
  return static_cast<kernels::StepScalars*>(memory_.mutable_data());
}

void begin_step(const StepState& state, const std::vector<OptimItem>& items,
                BeginStepOptions options) {
  require(!items.empty(), "optimizer step: there are no gradients");
  Tensors gradients;
  for (const OptimItem& item : items) {
    require(item.gradient.defined(), "optimizer step: parameter ", item.parameter.shape(),
            " has no gradient");
    require_same_dtype("optimizer step", items[0].gradient, item.gradient);
    require_same_device("optimizer step", items[0].gradient, item.gradient);
    gradients.push_back(item.gradient);
  }
  norm_into(&state.scalars()->norm, gradients);
  kernels::run(state.device().kind, kernels::BeginStep{.scalars = state.scalars(),
                                                       .clip_norm = options.clip_norm,
                                                       .skip_above = options.skip_above,
                                                       .stream = stream_of(gradients[0])});
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

}  // namespace olm::raw
