#include <olm/nn/fields.h>
#include <olm/nn/optim.h>

namespace olm::nn {

SGD::SGD(std::vector<ParameterGroup> groups, SGDOptions options)
    : Optimizer(std::move(groups), {.name = "SGD",
                                    .lr = options.lr,
                                    .weight_decay = options.weight_decay,
                                    .clip_norm = options.clip_norm,
                                    .first = options.momentum != 0 ? "momentum" : nullptr,
                                    .options = to_json(options).dump()}),
      options_(options) {
  require(options.momentum >= 0, "SGD: wanted a momentum >= 0, got ", options.momentum);
  require(!options.nesterov || options.momentum > 0, "SGD: nesterov needs a momentum");
}

SGD::SGD(const Tensors& parameters, SGDOptions options)
    : SGD(std::vector{ParameterGroup{.parameters = parameters}}, options) {}

void SGD::update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) {
  raw::sgd_(items, state, options_.momentum, options_.nesterov);
}

}  // namespace olm::nn
