#pragma once
// Optimizer updates over lists of tensors, in place and without derivatives.
#include <limits>

#include <olm/engine/tensor.h>
#include <olm/kernels/optim.h>

namespace olm::raw {

/// sqrt of the sum of squares of all elements of all tensors: any float dtypes, any devices. Summed
/// in f64 in an order that depends on the shapes alone.
OLM_API double global_norm(const Tensors& xs);

/// Blocks of kernels::kNormBlock elements in n elements.
OLM_API int64_t norm_blocks(int64_t n);
/// The sums of squares of all blocks, f64, tensor after tensor (see kernels::SquaredSums): float
/// tensors of one dtype and device.
OLM_API Tensor squared_sums(const Tensors& xs);

/// The numbers of a step in device memory (see kernels::StepScalars), at one address for life.
class OLM_API StepState {
 public:
  explicit StepState(Device device = cpu);
  Device device() const { return memory_.device(); }
  /// Waits for the device, unless that is the CPU.
  kernels::StepScalars read() const;
  void write(const kernels::StepInputs& inputs) const;
  /// In device memory.
  kernels::StepScalars* scalars() const;

 private:
  Tensor memory_;
};

/// Adds the mean loss over `targets` targets, of which the losses `aux` are a part, to the sums in
/// state; where `first`, replaces them. Scalars of one float dtype on state's device.
OLM_API void accumulate_loss(const StepState& state, const Tensor& loss, const Tensors& aux,
                             int64_t targets, bool first);

/// One parameter of an update, with its gradient and moments (those the optimizer uses): all of one
/// shape and dtype.
struct OptimItem {
  Tensor parameter = {}, gradient = {}, first = {}, second = {};
  double lr_scale = 1, weight_decay = 0;
  int64_t missed = 0;
};

struct BeginStepOptions {
  double targets = 0;    ///< by which the sums of losses are divided; 0: there is no loss
  double clip_norm = 0;  ///< 0: gradients are not clipped
  double skip_above = std::numeric_limits<double>::infinity();
  double skip_loss_above = std::numeric_limits<double>::infinity();
};
/// Opens a step whose gradients have these sums of squares (f64, on state's device): norm, clip
/// factor, and whether the step is skipped.
OLM_API void begin_step(const StepState& state, const Tensor& sums, BeginStepOptions options);

/// The updates of kernels/optim.h. Throw unless parameters are contiguous, of one dtype, f32 (or
/// f64), and on state's device.
OLM_API void adamw_(const std::vector<OptimItem>& items, const StepState& state, double beta1,
                    double beta2, double eps);
OLM_API void sgd_(const std::vector<OptimItem>& items, const StepState& state, double momentum,
                  bool nesterov);
OLM_API void lion_(const std::vector<OptimItem>& items, const StepState& state, double beta1,
                   double beta2);

/// bias_i += rate · sign(mean load - load_i), where expert i was chosen offsets[i+1] - offsets[i]
/// times in each pass (see kernels::ExpertBiasUpdate).
///   bias: [E] f32, contiguous    offsets: [E+1] i32 each, on bias's device
OLM_API void update_expert_bias_(const Tensor& bias, const Tensors& offsets, double rate);

}  // namespace olm::raw
