#include <olm/nn/fields.h>
#include <olm/nn/optim.h>

namespace olm::nn {

Lion::Lion(std::vector<ParameterGroup> groups, LionOptions options)
    : Optimizer(std::move(groups), {.name = "Lion",
                                    .lr = options.lr,
                                    .weight_decay = options.weight_decay,
                                    .clip_norm = options.clip_norm,
                                    .first = "exp_avg",
                                    .options = to_json(options).dump()}),
      options_(options) {
  for (const double beta : options.betas)
    require(beta >= 0 && beta < 1, "Lion: wanted betas in [0, 1), got ", beta);
}

Lion::Lion(const Tensors& parameters, LionOptions options)
    : Lion(std::vector{ParameterGroup{.parameters = parameters}}, options) {}

void Lion::update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) {
  raw::lion_(items, state, options_.betas[0], options_.betas[1]);
}

}  // namespace olm::nn
