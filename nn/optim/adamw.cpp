#include <olm/nn/fields.h>
#include <olm/nn/optim.h>

namespace olm::nn {

AdamW::AdamW(std::vector<ParameterGroup> groups, AdamWOptions options)
    : Optimizer(std::move(groups), {.name = "AdamW",
                                    .lr = options.lr,
                                    .weight_decay = options.weight_decay,
                                    .clip_norm = options.clip_norm,
                                    .first = "exp_avg",
                                    .second = "exp_avg_sq",
                                    .options = to_json(options).dump()}),
      options_(options) {
  for (const double beta : options.betas)
    require(beta >= 0 && beta < 1, "AdamW: wanted betas in [0, 1), got ", beta);
  require(options.eps >= 0, "AdamW: wanted eps >= 0, got ", options.eps);
}

AdamW::AdamW(const Tensors& parameters, AdamWOptions options)
    : AdamW(std::vector{ParameterGroup{.parameters = parameters}}, options) {}

void AdamW::update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) {
  raw::adamw_(items, state, options_.betas[0], options_.betas[1], options_.eps);
}

}  // namespace olm::nn
