#include <olm/nn/moe/experts_internal.h>

#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/grouped_gemm.h>
#include <olm/autograd/ops/select.h>
#include <olm/nn/activations.h>
#include <olm/nn/feedforward.h>

namespace olm::nn {

namespace {

bool same_matrix(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype();
}

ExpertParts parts_of(Module& expert) {
  const auto parts = [](auto& network) {
    return ExpertParts{.up = network.up_proj.typed(),
                       .down = network.down_proj.typed(),
                       .act = network.act.module().get(),
                       .dropout = network.options.dropout};
  };
  if (auto* classic = dynamic_cast<ClassicFFNModule*>(&expert)) return parts(*classic);
  if (auto* gated = dynamic_cast<GatedFFNModule*>(&expert)) return parts(*gated);
  return {};
}

/// Rows of each expert; without values (on meta) the first one has them all.
std::vector<int64_t> row_counts(const Tensor& offsets, int64_t rows) {
  std::vector<int64_t> counts(size_t(offsets.numel() - 1));
  if (offsets.device() == meta) {
    counts[0] = rows;
    return counts;
  }
  const std::vector<int64_t> at = to_host<int64_t>(offsets);
  for (size_t e = 0; e < counts.size(); ++e) counts[e] = at[e + 1] - at[e];
  return counts;
}

Tensor run_one_by_one(const Children& experts, const Tensor& x, const Tensor& offsets,
                      Context& ctx) {
  const std::vector<int64_t> counts = row_counts(offsets, x.size(0));
  std::vector<int64_t> sizes;
  std::vector<Ref<Module>> used;
  for (size_t e = 0; e < counts.size(); ++e) {
    if (counts[e] == 0) continue;
    sizes.push_back(counts[e]);
    used.push_back(experts.at(e));
  }
  if (used.empty()) return x;
  const Tensors rows = split(x, sizes, 0);
  Tensors results;
  for (size_t i = 0; i < used.size(); ++i) {
    results.push_back(used[i](rows[i], ctx));
    require(results.back().shape() == rows[i].shape(), "MoEFeedForward: a ", used[i]->type_name(),
            " made ", results.back().shape(), " of ", rows[i].shape(), ", wanted the same shape");
  }
  return cat(results, 0);
}

}  // namespace

bool ExpertParts::fits(const ExpertParts& other) const {
  if (!up || !down || !other.up || !other.down) return false;
  const auto equal_act = [&] {
    return dynamic_cast<ActivationBase*>(act) && act->parameters().empty() &&
           act->type_name() == other.act->type_name() &&
           act->options_json() == other.act->options_json();
  };
  return (act == other.act || equal_act()) && dropout == other.dropout &&
         up->bias.has_value() == other.up->bias.has_value() &&
         down->bias.has_value() == other.down->bias.has_value() &&
         same_matrix(up->weight, other.up->weight) && same_matrix(down->weight, other.down->weight);
}

std::vector<ExpertParts> common_parts(const Children& experts) {
  std::vector<ExpertParts> all;
  for (size_t i = 0; i < experts.size(); ++i) {
    all.push_back(parts_of(*experts.at(i)));
    if (!all.back().fits(all.front())) return {};
  }
  return all;
}

ExpertParameters parameters_of(std::span<const ExpertParts> parts) {
  ExpertParameters all;
  for (const ExpertParts& p : parts) {
    all.up.push_back(p.up->weight);
    all.down.push_back(p.down->weight);
    if (p.up->bias) all.up_bias.push_back(*p.up->bias);
    if (p.down->bias) all.down_bias.push_back(*p.down->bias);
  }
  return all;
}

Tensor run_grouped(Module& act, const ExpertParameters& p, const Tensor& x, const Tensor& offsets,
                   Context& ctx) {
  const auto* activation = dynamic_cast<const ActivationBase*>(&act);
  const Activation fused = activation ? activation->fused() : Activation::none;
  Tensor h = grouped_linear(x, p.up, p.up_bias, offsets, fused);
  if (fused == Activation::none) h = act.forward(h, ctx);
  return grouped_linear(h, p.down, p.down_bias, offsets);
}

Tensor run_experts(const Children& experts, const Tensor& x, const Tensor& offsets, Context& ctx) {
  const std::vector<ExpertParts> parts = common_parts(experts);
  if (parts.empty()) return run_one_by_one(experts, x, offsets, ctx);
  const ExpertParts& first = parts.front();
  const Tensor y = run_grouped(*first.act, parameters_of(parts), x, offsets, ctx);
  return dropout_if_training(y, first.dropout, ctx);
}

}  // namespace olm::nn
