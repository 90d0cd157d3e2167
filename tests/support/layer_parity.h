#pragma once
// Layers against fixtures of OpenLanguageModel.
#include <string>

#include <olm/nn/module.h>

namespace olm::test {

/// Fills `layer` with the parameters of `name` in layers.safetensors, runs it in f32 on its input,
/// and checks output and all gradients (relative L2 at most 1e-5). mask and positions of the
/// fixture go into the context. The keys must be the layer's, tied ones once.
void check_layer_parity(const std::string& name, nn::Module& layer);
/// The largest relative L2 error among them.
double layer_parity_error(const std::string& name, nn::Module& layer);
template <class M>
void check_layer_parity(const std::string& name, const nn::Ref<M>& layer) {
  check_layer_parity(name, *layer);
}

}  // namespace olm::test
