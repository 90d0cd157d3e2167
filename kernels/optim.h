#pragma once
// Optimizer updates, fused over a list of tensors. What changes from step to step is read from
// device memory (StepScalars), so that a step needs no answer from the device and can be replayed.
#include <limits>

#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// Numbers of one optimizer step, in the memory of the device: 64 bytes, which one copy brings to
/// the host.
struct StepScalars {
  double lr = 0;
  double gradient_scale = 1;  ///< gradients arrive as 1/gradient_scale of what they mean
  double norm = 0;            ///< global norm of the gradients after gradient_scale
  double clip = 1;   ///< gradient_scale times the clip factor: what gradients are multiplied by
  int64_t step = 0;  ///< updates done, this one included
  int64_t skip = 0;  ///< not 0: this step leaves everything as it is
  double loss = 0;  ///< without auxiliary losses: a sum over targets until BeginStep, then the mean
  double aux = 0;   ///< auxiliary losses likewise
};
static_assert(sizeof(StepScalars) == 64);

/// What the host knows of a step.
struct StepInputs {
  double lr = 0;
  double gradient_scale = 1;
  int64_t step = 0;  ///< updates done before this one
};

/// Puts `inputs` into the members of the same names; the others stay as they are.
struct WriteStep {
  static constexpr const char* name = "optimizer step";
  StepScalars* scalars = nullptr;
  StepInputs inputs = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const WriteStep&);
OLM_API void run(Cuda, const WriteStep&);

/// Takes the loss of a micro-batch, of which each auxiliary loss is a part; in f64:
///   a = sum over i of aux[i], in order
///   scalars->loss = (loss - a) · targets    scalars->aux = a · targets
/// or, with `accumulate`, adds to what is there.
///   loss, aux[i]: one element of `dtype`, f32 or f64    aux: a list in host memory, read before
///   run() returns, of pointers into device memory
struct AccumulateLoss {
  static constexpr const char* name = "accumulate loss";
  DType dtype = f32;
  StepScalars* scalars = nullptr;
  const void* loss = nullptr;
  const void* const* aux = nullptr;
  int64_t aux_count = 0;
  double targets = 0;
  bool accumulate = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const AccumulateLoss&);
OLM_API void run(Cuda, const AccumulateLoss&);

/// One parameter of an update: contiguous, all of the update's dtype.
struct OptimTensor {
  void* parameter = nullptr;
  const void* gradient = nullptr;
  void* first = nullptr;   ///< first moment (momentum)
  void* second = nullptr;  ///< second moment, where there is one
  int64_t n = 0;
  double lr_scale = 1, weight_decay = 0;
  int64_t missed = 0;  ///< steps that passed without a gradient for this parameter
};

/// A contiguous piece of memory with n elements.
struct NormTensor {
  const void* x = nullptr;
  int64_t n = 0;
};

/// Elements whose squares are summed together: the unit in which a norm is cut among ranks.
inline constexpr int64_t kNormBlock = 32768;

/// sums[b] = sum of x² over block b, in f64 and a fixed order; blocks of kNormBlock elements are
/// counted through all tensors, each of which begins a new one.
///   dtype: f32, f64, bf16 or f16    sums: device memory    tensors: host memory, read before run()
///   returns, as in all updates below
struct SquaredSums {
  static constexpr const char* name = "squared_sums";
  DType dtype = f32;
  const NormTensor* tensors = nullptr;
  int64_t count = 0;
  double* sums = nullptr;
  Stream stream = {};
};
OLM_API void run(Cpu, const SquaredSums&);
OLM_API void run(Cuda, const SquaredSums&);

/// *norm = sqrt(sum of n sums), in a fixed order.
///   sums, norm: device memory
struct NormOfSums {
  static constexpr const char* name = "norm";
  const double* sums = nullptr;
  int64_t n = 0;
  double* norm = nullptr;
  Stream stream = {};
};
OLM_API void run(Cpu, const NormOfSums&);
OLM_API void run(Cuda, const NormOfSums&);

/// Opens a step. Divides loss and aux by `targets`, or makes them 0 where that is 0, and norm, of
/// the gradients as they arrived, becomes that of gradient_scale times them. The step is skipped
/// where loss or norm is not finite, loss > skip_loss_above, norm > skip_above, or a kernel has
/// reported a bad index that the host has yet to throw. Else clip = gradient_scale · min(1,
/// clip_norm / (norm + 1e-6)), without the second factor if clip_norm is 0, and the step is
/// counted. A skipped step has clip = gradient_scale.
struct BeginStep {
  static constexpr const char* name = "optimizer step";
  StepScalars* scalars = nullptr;
  double targets = 0;
  double clip_norm = 0, skip_above = std::numeric_limits<double>::infinity();
  double skip_loss_above = std::numeric_limits<double>::infinity();
  Stream stream = {};
};
OLM_API void run(Cpu, const BeginStep&);
OLM_API void run(Cuda, const BeginStep&);

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), g = clip · gradient, lr = lr · lr_scale,
/// t = step - missed:
///   p *= 1 - lr·weight_decay    m = b1·m + (1-b1)·g    v = b2·v + (1-b2)·g²
///   p -= lr · (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
/// dtype: f32 or f64. Traffic: p, g, m, v read once, p, m, v written once.
struct AdamWUpdate {
  static constexpr const char* name = "adamw";
  DType dtype = f32;
  const OptimTensor* tensors = nullptr;
  int64_t count = 0;
  const StepScalars* scalars = nullptr;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  Stream stream = {};
};
OLM_API void run(Cpu, const AdamWUpdate&);
OLM_API void run(Cuda, const AdamWUpdate&);

/// Stochastic gradient descent, g = clip · gradient + weight_decay · p, lr = lr · lr_scale:
///   b = momentum·b + g    p -= lr · (nesterov ? g + momentum·b : b)
/// With momentum 0 the buffer `first` is not touched and may be null. dtype: f32 or f64.
struct SGDUpdate {
  static constexpr const char* name = "sgd";
  DType dtype = f32;
  const OptimTensor* tensors = nullptr;
  int64_t count = 0;
  const StepScalars* scalars = nullptr;
  double momentum = 0;
  bool nesterov = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const SGDUpdate&);
OLM_API void run(Cuda, const SGDUpdate&);

/// Lion (Chen et al. 2023, arXiv:2302.06675), g = clip · gradient, lr = lr · lr_scale:
///   p *= 1 - lr·weight_decay    p -= lr · sign(b1·m + (1-b1)·g)    m = b2·m + (1-b2)·g
/// dtype: f32 or f64.
struct LionUpdate {
  static constexpr const char* name = "lion";
  DType dtype = f32;
  const OptimTensor* tensors = nullptr;
  int64_t count = 0;
  const StepScalars* scalars = nullptr;
  double beta1 = 0.9, beta2 = 0.99;
  Stream stream = {};
};
OLM_API void run(Cpu, const LionUpdate&);
OLM_API void run(Cuda, const LionUpdate&);

/// Moves the bias of each expert against its load (Wang et al. 2024, arXiv:2408.15664), in f64
/// rounded once; the argument of sign is a whole number:
///   load[e] = sum over i of offsets[i][e + 1] - offsets[i][e]    total = sum over e of load[e]
///   bias[e] += rate · sign(total - experts · load[e]), sign(0) = 0
/// bias: [experts] f32    offsets: a list in host memory, read before run() returns, of pointers to
/// [experts + 1] in device memory, ascending from 0
struct ExpertBiasUpdate {
  static constexpr const char* name = "expert bias";
  float* bias = nullptr;
  const int32_t* const* offsets = nullptr;
  int64_t count = 0;  ///< of `offsets`
  int64_t experts = 0;
  double rate = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const ExpertBiasUpdate&);
OLM_API void run(Cuda, const ExpertBiasUpdate&);

}  // namespace olm::kernels
