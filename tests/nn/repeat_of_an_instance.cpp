// Does not compile: an instance would share one set of weights among all repetitions.
#include <olm/nn/norms.h>
#include <olm/nn/structure.h>

auto refused() { return olm::nn::Repeat(olm::nn::LayerNorm(8), 3); }
