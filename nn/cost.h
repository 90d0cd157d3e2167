#pragma once
// FLOPs and memory of a model, computed from its architecture on the `meta` device: tensors there
// have shapes and no memory.
#include <cstdint>
#include <string>
#include <vector>

#include <olm/nn/module.h>

namespace olm::nn {

/// A layer and the shapes of its input and output.
struct TracedLayer {
  std::string path, type;
  Shape in, out;
};

/// Runs ids [batch, time] through a copy of the model on `meta` and returns its layers in the order
/// of their calls; a layer that makes its own children is one row. Shapes that do not fit throw,
/// naming the layer by its path, such as $.blocks[1].stack[0].block.
OLM_API std::vector<TracedLayer> trace(Module& model, int64_t batch, int64_t time);

struct CostOptions {
  int64_t batch = 1;    ///< sequences
  int64_t context = 1;  ///< tokens of each sequence
  DType dtype = f32;    ///< of activations, f32 or bf16
  double moments = 2;   ///< optimizer state: f32 numbers per parameter, on average
};

/// Memory over the forward and backward pass of one batch, in bytes beside weights and those
/// gradients that have arrived, without the workspaces of kernels.
struct OLM_API PassMemory {
  /// The gradient of a trained parameter.
  struct Arrival {
    std::string key = {};
    double bytes = 0;  ///< of the gradient
    double peak = 0;   ///< the most that was held since the arrival before it, itself included
    double held = 0;   ///< at its arrival, without it
  };
  std::vector<Arrival> arrivals = {};  ///< in the order in which backward delivers them
  double rest = 0;                     ///< the most that was held after the last of them
  /// The most that is held with the gradients of which backward leaves so many copies, where
  /// before it there were `before`: 0 and 1 where a gradient is kept, 1 and 1 where it is added to
  /// one that is there.
  double peak(double before, double after) const;
  double gradient_bytes() const;
};
/// Throws where the model does not take ids [batch, context].
OLM_API PassMemory pass_memory(Module& model, const CostOptions& options = {});

/// What training and generation take.
struct Cost {
  int64_t parameters = 0;               ///< tied ones counted once
  int64_t trained = 0;                  ///< of them, those that are not frozen
  double forward_flops_per_token = 0;   ///< with `context` tokens
  double training_flops_per_token = 0;  ///< forward and backward: three times that
  /// Bytes. `activations` is what the peak of forward and backward of one batch is above weights
  /// and gradients, and at least the peak of forward; `kv_cache` is the cache of `batch` full
  /// contexts, 0 for models without one.
  double weights = 0, gradients = 0, moments = 0, activations = 0, kv_cache = 0;
  double training_bytes() const { return weights + gradients + moments + activations; }
  double generating_bytes() const { return weights + kv_cache; }
};
/// The cost of a model; throws where it does not take ids [batch, context].
OLM_API Cost cost_of(Module& model, const CostOptions& options = {});

}  // namespace olm::nn
