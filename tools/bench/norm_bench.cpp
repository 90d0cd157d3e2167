#include <olm/autograd/ops/norm.h>

#include "tools/bench/bench.h"

namespace olm::tools {
namespace {

/// What differs between the norms of a benchmark.
struct Norm {
  const char* name;
  int parameters;        ///< after x, [cols] each
  double forward, both;  ///< floating-point operations on an element
  bool adds = false;     ///< a residual first, the last leaf
  Tensors (*call)(const Tensors& leaves);
};
constexpr Norm kRms{
    .name = "rms_norm", .parameters = 1, .forward = 4, .both = 14, .call = [](const Tensors& x) {
      return Tensors{rms_norm(x[0], x[1])};
    }};
constexpr Norm kLayer{
    .name = "layer_norm", .parameters = 2, .forward = 8, .both = 22, .call = [](const Tensors& x) {
      return Tensors{layer_norm(x[0], x[1], x[2])};
    }};
constexpr Norm kAddRms{.name = "add_rms_norm",
                       .parameters = 1,
                       .forward = 5,
                       .both = 15,
                       .adds = true,
                       .call = [](const Tensors& x) {
                         const SumAndNorm r = add_rms_norm(x[0], x[2], x[1]);
                         return Tensors{r.sum, r.y};
                       }};
constexpr Norm kAddLayer{.name = "add_layer_norm",
                         .parameters = 2,
                         .forward = 9,
                         .both = 27,
                         .adds = true,
                         .call = [](const Tensors& x) {
                           const SumAndNorm r = add_layer_norm(x[0], x[3], x[1], x[2]);
                           return Tensors{r.sum, r.y};
                         }};

/// Without a residual x is read and y written, then x and dy read and dx written; with one twice as
/// much but for dx. The residual gets no gradient: it would be that of x, copied because both are
/// leaves here, which they are not in a model.
void add_norm_case(Cases& cases, const Norm& norm, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], cols = shape[1];
  const double n = double(rows * cols), bytes = n * double(size_of(dtype));
  add_op(cases, {.name = norm.name,
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = {.flop = norm.forward * n, .bytes = (norm.adds ? 4 : 2) * bytes},
                 .both = {.flop = norm.both * n,
                          .bytes = (norm.adds ? 8 : 5) * bytes,
                          .traffic = Traffic::axpy},
                 .make =
                     [=](Generator& rng) {
                       const auto x = [&] { return randn({rows, cols}, rng, {.dtype = dtype}); };
                       Tensors leaves{x()};
                       const Tensor residual = norm.adds ? x() : Tensor();
                       for (int i = 0; i < norm.parameters; ++i)
                         leaves.push_back(randn({cols}, rng));
                       if (norm.adds) leaves.push_back(residual);
                       return leaves;
                     },
                 .call = norm.call,
                 .fixed = size_t(norm.adds)});
}

}  // namespace

void add_rms_norm(Cases& cases, const Sizes& shape, DType dtype) {
  add_norm_case(cases, kRms, shape, dtype);
}
void add_layer_norm(Cases& cases, const Sizes& shape, DType dtype) {
  add_norm_case(cases, kLayer, shape, dtype);
}
/// The step between two residual blocks, in its two forms.
void add_add_norm(Cases& cases, const Sizes& shape, DType dtype) {
  for (const Norm& norm : {kAddRms, kAddLayer}) add_norm_case(cases, norm, shape, dtype);
}

}  // namespace olm::tools
