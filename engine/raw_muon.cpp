#include <olm/engine/raw_muon.h>

#include <algorithm>
#include <cmath>

#include <olm/engine/raw.h>
#include <olm/engine/raw_optim_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/gemm.h>
#include <olm/kernels/muon.h>

namespace olm::raw {
namespace {

// Of the polynomial that drives singular values towards one; the slope at zero is as large as five
// iterations allow (Jordan et al. 2024).
constexpr double kLinear = 3.4445, kCubic = -4.7750, kQuintic = 2.0315;
constexpr double kEps = 1e-7;

struct Operand {
  const Tensor& x;
  bool transposed = false;
};

/// c = alpha · op(a) · op(b), or adds that.
void multiply(const Tensor& c, Operand a, Operand b, double alpha = 1, bool accumulate = false) {
  kernels::run(c.device().kind, kernels::Gemm{.a_dtype = a.x.dtype(),
                                              .b_dtype = b.x.dtype(),
                                              .c_dtype = c.dtype(),
                                              .a = a.x.data(),
                                              .b = b.x.data(),
                                              .c = c.mutable_data(),
                                              .transpose_a = a.transposed,
                                              .transpose_b = b.transposed,
                                              .m = c.size(0),
                                              .n = c.size(1),
                                              .k = a.x.size(a.transposed ? 0 : 1),
                                              .alpha = alpha,
                                              .accumulate = accumulate,
                                              .stream = stream_of(c)});
}

/// x / (‖x‖ + eps).
Tensor normalized(const Tensor& x, DType dtype) {
  const Tensor sums = squared_sums({x});
  const Tensor norm = empty({1}, options_of(sums));
  const Tensor y = empty(x.shape(), {.dtype = dtype, .device = x.device()});
  const auto kind = x.device().kind;
  kernels::run(kind, kernels::NormOfSums{.sums = static_cast<const double*>(sums.data()),
                                         .n = sums.numel(),
                                         .norm = static_cast<double*>(norm.mutable_data()),
                                         .stream = stream_of(x)});
  kernels::run(kind, kernels::DivideByNorm{.x_dtype = x.dtype(),
                                           .y_dtype = dtype,
                                           .x = x.data(),
                                           .y = y.mutable_data(),
                                           .n = x.numel(),
                                           .norm = static_cast<const double*>(norm.data()),
                                           .eps = kEps,
                                           .stream = stream_of(x)});
  return y;
}

/// kCubic·A + kQuintic·A², for a symmetric A.
Tensor polynomial(const Tensor& a, DType dtype) {
  const Tensor narrow = cast(a, dtype), sum = clone(a);
  scale_(sum, kCubic);
  multiply(sum, {narrow}, {narrow}, kQuintic, true);
  return cast(sum, dtype);
}

Tensor muon_direction(const OptimItem& item, const StepState& state, const MuonStep& step) {
  const Tensor direction = empty_like(item.gradient);
  kernels::run(state.device().kind, kernels::MuonDirection{.dtype = item.gradient.dtype(),
                                                           .gradient = item.gradient.data(),
                                                           .buffer = item.first.mutable_data(),
                                                           .direction = direction.mutable_data(),
                                                           .n = direction.numel(),
                                                           .momentum = step.momentum,
                                                           .nesterov = step.nesterov,
                                                           .scalars = state.scalars(),
                                                           .stream = stream_of(direction)});
  return direction;
}

double scale_of(const Shape& shape, bool match_adamw) {
  const auto rows = double(shape[0]), columns = double(shape[1]);
  return match_adamw ? 0.2 * std::sqrt(std::max(rows, columns))
                     : std::sqrt(std::max(1.0, rows / std::max(1.0, columns)));
}

void move_matrix(const OptimItem& item, const StepState& state, const MuonStep& step) {
  const Tensor o = orthogonalize(muon_direction(item, state, step), step.orthogonalize);
  kernels::run(state.device().kind,
               kernels::MuonUpdate{.dtype = o.dtype(),
                                   .parameter = item.parameter.mutable_data(),
                                   .direction = o.data(),
                                   .n = o.numel(),
                                   .lr_scale = item.lr_scale,
                                   .weight_decay = item.weight_decay,
                                   .scale = scale_of(o.shape(), step.match_adamw),
                                   .scalars = state.scalars(),
                                   .stream = stream_of(o)});
}

}  // namespace

Tensor orthogonalize(const Tensor& x, const OrthogonalizeOptions& options) {
  const char* op = "orthogonalize";
  require(x.rank() == 2 && x.is_contiguous() && (x.dtype() == f32 || x.dtype() == f64), op,
          ": wanted a contiguous matrix of f32 or f64, got ", x.dtype(), " ", x.shape());
  require(options.dtype == f32 || options.dtype == bf16 || options.dtype == f64, op,
          ": wanted to multiply in f32, bf16 or f64, got ", options.dtype);
  require(options.iterations >= 0, op, ": wanted iterations >= 0, got ", options.iterations);
  if (x.numel() == 0) return clone(x);
  const DType wide = x.dtype(), dtype = wide == f64 ? f64 : options.dtype == bf16 ? bf16 : f32;
  const bool flat = x.size(0) <= x.size(1);
  const int64_t k = std::min(x.size(0), x.size(1));
  Tensor y = normalized(x, options.iterations == 0 ? wide : dtype);
  for (int64_t i = 0; i < options.iterations; ++i) {
    const Tensor gram = empty({k, k}, options_of(x));
    multiply(gram, {y, !flat}, {y, flat});
    const Tensor p = polynomial(gram, dtype);
    const bool last = i + 1 == options.iterations;
    const Tensor next = last && wide != dtype ? cast(y, wide) : clone(y);
    scale_(next, kLinear);
    flat ? multiply(next, {p}, {y}, 1, true) : multiply(next, {y}, {p}, 1, true);
    y = next;
  }
  return y;
}

double orthogonalize_flops(int64_t rows, int64_t columns, int64_t iterations) {
  const double k = double(std::min(rows, columns)), length = double(std::max(rows, columns));
  return double(iterations) * (4 * k * k * length + 2 * k * k * k);
}

void muon_(const std::vector<OptimItem>& items, const StepState& state, const MuonStep& step) {
  for (const OptimItem& item : items) {
    check_item(kernels::MuonUpdate::name, item, items[0], state.device(), {.first = true});
    require(item.parameter.rank() == 2, kernels::MuonUpdate::name,
            ": wanted matrices, got a parameter ", item.parameter.shape());
  }
  for (const OptimItem& item : items) move_matrix(item, state, step);
}

}  // namespace olm::raw
