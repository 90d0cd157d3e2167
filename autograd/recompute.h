#pragma once
// Trading time for memory: forward without graph, once more in backward.
#include <functional>

#include <olm/autograd/tape.h>

namespace olm {

/// fn(inputs), without keeping what it computes on the way: backward calls fn again on the same
/// inputs, then differentiates that. fn must compute the same both times (it owns its random
/// state). `parameters` are the leaves fn uses besides its inputs: their gradients are delivered.
/// Chen et al. 2016, arXiv:1604.06174.
OLM_API Tensors recompute(std::function<Tensors(const Tensors& inputs)> fn, const Tensors& inputs,
                          const Tensors& parameters);

}  // namespace olm
