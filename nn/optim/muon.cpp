#include <unordered_set>

#include <olm/engine/raw_muon.h>
#include <olm/nn/blocks.h>
#include <olm/nn/fields.h>
#include <olm/nn/linear.h>
#include <olm/nn/optim.h>

namespace olm::nn {
namespace {

/// What a model ends with, in Blocks within Blocks.
Module& end_of(Module& model) {
  auto* block = dynamic_cast<BlockModule*>(&model);
  return block && block->blocks.size() > 0 ? end_of(*block->blocks.at(block->blocks.size() - 1))
                                           : model;
}

}  // namespace

std::vector<ParameterGroup> muon_groups(Module& model, double weight_decay) {
  std::unordered_set<const TensorImpl*> at_the_ends;
  const Module* end = dynamic_cast<LinearModule*>(&end_of(model));
  model.for_each_module([&](const std::string&, Module& module) {
    if (&module == end || dynamic_cast<OutputHeadModule*>(&module)) {
      for (const Tensor& p : module.parameters()) at_the_ends.insert(&p.impl());
    } else if (module.flops_per_token(1) == 0) {  // a table
      module.for_each_own_parameter([&](Parameter& p) { at_the_ends.insert(&p.handle().impl()); });
    }
  });
  const Tensors all = model.parameters();
  std::vector<ParameterGroup> groups = decay_groups(all, weight_decay);
  groups[1].orthogonalize = false;
  ParameterGroup ends{.parameters = {}, .weight_decay = weight_decay, .orthogonalize = false};
  std::erase_if(groups[0].parameters, [&](const Tensor& p) {
    const bool is_hidden = p.rank() == 2 && !at_the_ends.contains(&p.impl());
    if (!is_hidden) ends.parameters.push_back(p);
    return !is_hidden;
  });
  groups.insert(groups.begin() + 1, std::move(ends));
  return groups;
}

Muon::Muon(std::vector<ParameterGroup> groups, MuonOptions options)
    : Optimizer(std::move(groups), {.name = "Muon",
                                    .lr = options.lr,
                                    .weight_decay = options.weight_decay,
                                    .clip_norm = options.clip_norm,
                                    .first = "exp_avg",
                                    .second = "exp_avg_sq",
                                    .of_matrices = "momentum",
                                    .iterations = options.iterations,
                                    .options = to_json(options).dump()}),
      options_(options) {
  require(options.momentum >= 0 && options.momentum < 1, "Muon: wanted a momentum in [0, 1), got ",
          options.momentum);
  require(options.iterations >= 1, "Muon: wanted at least 1 iteration, got ", options.iterations);
  require(options.dtype == bf16 || options.dtype == f32,
          "Muon: wanted to multiply matrices in bf16 or f32, got ", options.dtype);
  for (const double beta : options.betas)
    require(beta >= 0 && beta < 1, "Muon: wanted betas in [0, 1), got ", beta);
  require(options.eps >= 0, "Muon: wanted eps >= 0, got ", options.eps);
}

Muon::Muon(const Tensors& parameters, MuonOptions options)
    : Muon(std::vector{ParameterGroup{.parameters = parameters}}, options) {}

void Muon::update(const std::vector<raw::OptimItem>& items, const raw::StepState& state) {
  std::vector<raw::OptimItem> matrices, others;  // matrices have no second moment
  for (const raw::OptimItem& item : items)
    (item.second.defined() ? others : matrices).push_back(item);
  raw::muon_(matrices, state,
             {.momentum = options_.momentum,
              .nesterov = options_.nesterov,
              .match_adamw = options_.match_adamw,
              .orthogonalize = {.iterations = options_.iterations, .dtype = options_.dtype}});
  raw::adamw_(others, state, options_.betas[0], options_.betas[1], options_.eps);
}

}  // namespace olm::nn
