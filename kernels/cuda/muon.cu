// Pointwise passes over a matrix, bound by memory; numbers of the step are read from device memory,
// so that a step that is skipped needs no word from the host.
#include <olm/kernels/muon.h>
#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels {
namespace {

__global__ void make_direction(const float* g, float* b, float* d, int64_t n, float keep,
                               float take, bool nesterov, const StepScalars* scalars) {
  const bool skip = scalars->skip != 0;
  const float clip = float(scalars->clip);
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    float direction = 0;
    if (!skip) {
      const float taken = g[i] * clip * take, moved = fmaf(b[i], keep, taken);
      b[i] = moved;
      direction = nesterov ? fmaf(moved, keep, taken) : moved;
    }
    d[i] = direction;
  }
}

template <class T>
__global__ void divide(const float* x, T* y, int64_t n, const double* norm, double eps) {
  const float factor = float(1 / (*norm + eps));
  for (int64_t i = global_thread(); i < n; i += global_threads())
    y[i] = from_float<T>(x[i] * factor);
}

__global__ void update(float* p, const float* o, int64_t n, double lr_scale, double decay,
                       double scale, const StepScalars* scalars) {
  if (scalars->skip) return;  // the whole grid
  const double lr = scalars->lr * lr_scale;
  const float keep = float(1 - lr * decay), rate = float(lr * scale);
  for (int64_t i = global_thread(); i < n; i += global_threads())
    p[i] = fmaf(-rate, o[i], p[i] * keep);
}

void require_f32(const char* name, DType dtype) {
  require(dtype == f32, name, ": on cuda parameters must be f32, got ", dtype);
}

}  // namespace

void run(Cuda, const MuonDirection& k) {
  require_f32(k.name, k.dtype);
  launch(make_direction, grid_over(k.n, k.stream), in<float>(k.gradient), out<float>(k.buffer),
         out<float>(k.direction), k.n, float(k.momentum), float(1 - k.momentum), k.nesterov,
         k.scalars);
}

void run(Cuda, const DivideByNorm& k) {
  require_f32(k.name, k.x_dtype);
  visit_cuda_float(k.y_dtype, [&]<class T>() {
    launch(divide<T>, grid_over(k.n, k.stream), in<float>(k.x), out<T>(k.y), k.n, k.norm, k.eps);
  });
}

void run(Cuda, const MuonUpdate& k) {
  require_f32(k.name, k.dtype);
  launch(update, grid_over(k.n, k.stream), out<float>(k.parameter), in<float>(k.direction), k.n,
         k.lr_scale, k.weight_decay, k.scale, k.scalars);
}

}  // namespace olm::kernels
