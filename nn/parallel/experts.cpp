#include <olm/nn/expert_parallel.h>

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <olm/nn/moe/spread_internal.h>

namespace olm::nn {

namespace {

struct Mixture {
  std::string path;
  MoEFeedForwardBase* layer = nullptr;
};

/// Each mixture once, with its first path.
std::vector<Mixture> mixtures_of(Module& model) {
  std::vector<Mixture> all;
  std::unordered_set<const Module*> seen;
  model.for_each_module([&](const std::string& path, Module& module) {
    auto* layer = dynamic_cast<MoEFeedForwardBase*>(&module);
    if (layer && seen.insert(layer).second) all.push_back({path, layer});
  });
  return all;
}

/// How many modules, each counted once, have a tensor as their own parameter.
std::unordered_map<const TensorImpl*, int> owners_of_parameters(Module& model) {
  std::unordered_map<const TensorImpl*, int> owners;
  std::unordered_set<const Module*> seen;
  model.for_each_module([&](const std::string&, Module& module) {
    if (!seen.insert(&module).second) return;
    module.for_each_own_parameter([&](Parameter& p) { ++owners[&p.handle().impl()]; });
  });
  return owners;
}

void check_layers(Module& model, const std::vector<Mixture>& mixtures, int64_t ranks) {
  require(!mixtures.empty(), "spread_experts: the model has no mixture of experts");
  const auto owners = owners_of_parameters(model);
  std::unordered_set<const TensorImpl*> seen;
  for (const auto& [path, layer] : mixtures) {
    const auto experts = int64_t(layer->experts.size());
    require(experts % ranks == 0, "spread_experts: \"", path, "\" has ", experts,
            " experts, which ", ranks, " ranks cannot share evenly");
    require(!layer->spread, "spread_experts: the experts of \"", path,
            "\" are spread over ranks already");
    require_spreadable(path, layer->experts);
    for (const auto& slot : layer->experts.slots())
      slot->module()->for_each_parameter([&, &at = path](const std::string& key, Parameter& p) {
        const TensorImpl* tensor = &p.handle().impl();
        require(seen.insert(tensor).second && owners.at(tensor) == 1, "spread_experts: ", at, ".",
                slot->name(), ".", key, " is tied to another parameter; one that is spread ",
                "over ranks cannot be");
      });
  }
}

/// Those ranks of `world` that have f(rank) in common with this one.
template <class F>
dist::Comm ranks_alike(const dist::Comm& world, const F& f) {
  std::vector<int> ranks;
  for (int r = 0; r < world.size(); ++r)
    if (f(r) == f(world.rank())) ranks.push_back(r);
  return world.group(ranks);
}

/// Spreads one mixture, and appends what its experts here have as sources.
void spread(MoEFeedForwardBase& layer, const dist::Comm& group,
            std::vector<ExpertParallel::Source>& sources) {
  layer.spread = spread_over(group, layer.experts);
  const SpreadExperts& spread = *layer.spread;
  for (size_t e = 0; e < layer.experts.size(); ++e) {
    const bool here = int64_t(e) / spread.here() == group.rank();
    if (!here)
      layer.experts.at(e)->for_each_parameter(
          [](const std::string&, Parameter& p) { p.keep_elsewhere(); });
  }
  for (const auto list : ExpertParameters::kLists)
    for (size_t i = 0; i < (spread.parameters.*list).size(); ++i)
      for (int s = 0; s < group.size(); ++s)
        sources.push_back({.parameter = (spread.parameters.*list)[i],
                           .rank = s,
                           .leaf = (spread.leaves.*list)[size_t(s * spread.here()) + i]});
}

}  // namespace

ExpertParallel::ExpertParallel(dist::Comm group, dist::Comm replicas, std::vector<Source> sources)
    : group_(std::move(group)), replicas_(std::move(replicas)), sources_(std::move(sources)) {}

void ExpertParallel::check_micro_batches(int64_t micro_batches, bool ordered) const {
  require_even_groups(replicas_.size(), group_.size(), micro_batches, ordered);
}

void require_even_groups(int64_t groups, int64_t in_group, int64_t micro_batches, bool ordered) {
  const SumTree tree(micro_batches);
  const std::vector<SumTree::Node> nodes = tree.cut(groups * in_group), whole = tree.cut(groups);
  for (int64_t g = 0; g < groups; ++g) {
    const SumTree::Node &first = nodes[size_t(g * in_group)],
                        &last = nodes[size_t((g + 1) * in_group - 1)];
    for (int64_t r = g * in_group; r < (g + 1) * in_group; ++r)
      require(nodes[size_t(r)].size() == first.size(), "ranks ", g * in_group, " to ",
              (g + 1) * in_group - 1, " share experts, and so want the same number of ",
              "micro-batches; of ", micro_batches, " they have ", first.size(), " and ",
              nodes[size_t(r)].size());
    require(!ordered || SumTree::Node{first.begin, last.end} == whole[size_t(g)], "of ",
            micro_batches, " micro-batches, ranks ", g * in_group, " to ", (g + 1) * in_group - 1,
            ", which share experts, have [", first.begin, ", ", last.end,
            "), for which the sum in "
            "a fixed order has no part; take a power of two for each rank, or sums in any order");
  }
}

void require_spreadable_experts(Module& model, int64_t ranks) {
  require(ranks >= 1, "spread_experts: wanted groups of at least 1 rank, got ", ranks);
  if (ranks > 1) check_layers(model, mixtures_of(model), ranks);
}

std::shared_ptr<ExpertParallel> spread_experts(Module& model, int64_t ranks, dist::Comm world) {
  require(ranks >= 1 && world.size() % ranks == 0, "spread_experts: groups of ", ranks,
          " ranks do not divide the ", world.size(), " ranks there are");
  const std::vector<Mixture> mixtures = mixtures_of(model);
  std::vector<ExpertParallel::Source> sources;
  if (ranks > 1) check_layers(model, mixtures, ranks);
  const dist::Comm group = ranks_alike(world, [&](int r) { return r / ranks; });
  const dist::Comm replicas = ranks_alike(world, [&](int r) { return r % ranks; });
  if (ranks > 1)
    for (const Mixture& mixture : mixtures) spread(*mixture.layer, group, sources);
  return std::make_shared<ExpertParallel>(group, replicas, std::move(sources));
}

}  // namespace olm::nn
