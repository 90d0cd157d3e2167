#pragma once
// Layers against fixtures of OpenLanguageModel.
#include <string>

#include <olm/nn/module.h>

namespace olm::test {

/// Fills `layer` with the parameters of `name` in a file of fixtures, runs it in f32 on its input,
/// and checks output and all gradients (relative L2 at most 1e-5). mask, positions and documents of
/// the fixture go into the context. The keys must be the layer's, tied ones once; a parameter
/// without a gradient in the fixture must have none.
void check_layer_parity(const std::string& name, nn::Module& layer,
                        const std::string& file = "layers.safetensors");
/// The largest relative L2 error among them.
double layer_parity_error(const std::string& name, nn::Module& layer,
                          const std::string& file = "layers.safetensors");
template <class M>
void check_layer_parity(const std::string& name, const nn::Ref<M>& layer,
                        const std::string& file = "layers.safetensors") {
  check_layer_parity(name, *layer, file);
}

}  // namespace olm::test
