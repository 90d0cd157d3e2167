#pragma once
// What a model takes, from its architecture alone: everything here runs on `meta`, without memory.
#include <cstdint>
#include <string>
#include <vector>

#include <olm/nn/module.h>

namespace olm::nn {

/// One layer in the order of the calls.
struct TracedLayer {
  std::string path, type;
  Shape in, out;
};

/// Runs ids [batch, time] through a copy of the model and says what shapes pass. Layers that build
/// their own children are one row. What does not fit throws, naming the layer by its path, such as
/// $.blocks[1].stack[0].block.
OLM_API std::vector<TracedLayer> trace(Module& model, int64_t batch, int64_t time);

struct CostOptions {
  int64_t batch = 1, context = 1;  ///< sequences, and tokens of each
  DType dtype = f32;               ///< of activations, f32 or bf16
  int64_t moments = 2;             ///< numbers that the optimizer keeps for each weight
};

/// What training and generating take.
struct Cost {
  int64_t parameters = 0, trained = 0;
  double forward_flops_per_token = 0;   ///< at this context
  double training_flops_per_token = 0;  ///< of forward and backward, three times as much
  /// Bytes. `activations` is the most that forward and backward of one batch hold beside weights
  /// and gradients, without what kernels borrow during a call; `kv_cache` is what generating keeps
  /// of `batch` full contexts, 0 for models that keep nothing.
  double weights = 0, gradients = 0, moments = 0, activations = 0, kv_cache = 0;
  double training_bytes() const { return weights + gradients + moments + activations; }
  double generating_bytes() const { return weights + kv_cache; }
};
/// Throws where the model does not take ids [batch, context].
OLM_API Cost cost_of(Module& model, const CostOptions& options = {});

}  // namespace olm::nn
