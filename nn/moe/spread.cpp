#include <olm/nn/moe/spread_internal.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <string>

#include <olm/autograd/ops/all_to_all_rows.h>
#include <olm/engine/raw.h>
#include <olm/nn/parameter_internal.h>

namespace olm::nn {

namespace {

/// Rows by source rank and expert.
using Table = std::vector<std::vector<int32_t>>;

void follow(const Tensor& leaf, const Tensor& parameter) {
  const TensorImpl &a = leaf.impl(), &b = parameter.impl();
  if (a.storage != b.storage || a.offset != b.offset || a.dtype != b.dtype) {
    zero_grad(leaf);
    reseat(leaf, parameter);
  }
  if (requires_grad(leaf) != requires_grad(parameter))
    set_requires_grad(leaf, requires_grad(parameter));
}

ExpertParameters parameters_here(const std::vector<ExpertParts>& parts,
                                 const SpreadExperts& spread) {
  return parameters_of(std::span(parts).subspan(size_t(spread.first()), size_t(spread.here())));
}

bool same_handles(const ExpertParameters& a, const ExpertParameters& b) {
  return std::ranges::all_of(ExpertParameters::kLists, [&](const auto list) {
    return std::ranges::equal(a.*list, b.*list,
                              [](const Tensor& x, const Tensor& y) { return x.is_same(y); });
  });
}

/// Backward has its exchanges on all ranks only where it has them on one.
void require_trained_alike(const ExpertParameters& all) {
  for (const auto list : ExpertParameters::kLists)
    for (const Tensor& p : all.*list)
      require(requires_grad(p) == requires_grad((all.*list)[0]),
              "MoEFeedForward: some experts are frozen and some are not; those that are spread "
              "over ranks want to be trained alike");
}

/// What all ranks have for each expert.
Table exchanged_counts(const Tensor& offsets, const SpreadExperts& spread) {
  const std::vector<int32_t> at = to_host<int32_t>(offsets);
  std::vector<int32_t> own(at.size() - 1);
  for (size_t e = 0; e < own.size(); ++e) own[e] = at[e + 1] - at[e];
  const size_t bytes = own.size() * sizeof(int32_t);
  Table table;
  for (const std::string& theirs :
       spread.group.all_gather(std::string(reinterpret_cast<const char*>(own.data()), bytes))) {
    require(theirs.size() == bytes, "MoEFeedForward: rank ", table.size(),
            " of those that share the experts sent counts of ", theirs.size() / sizeof(int32_t),
            " experts, this one has ", own.size());
    std::memcpy(table.emplace_back(own.size()).data(), theirs.data(), bytes);
  }
  return table;
}

/// What travels, and the groups in which rows arrive.
struct Plan {
  dist::Counts sent, received;
  Tensor offsets;  // i32 [ranks · here + 1]
};

Plan plan_of(const Table& table, const SpreadExperts& spread, Device device) {
  const auto ranks = size_t(spread.group.size()), here = size_t(spread.here());
  Plan plan{.sent = dist::Counts(ranks), .received = dist::Counts(ranks), .offsets = {}};
  std::vector<int32_t> offsets{0};
  int64_t rows = 0;
  for (size_t r = 0; r < ranks; ++r)
    for (size_t i = 0; i < here; ++i) {
      plan.sent[r] += table[size_t(spread.group.rank())][r * here + i];
      const int64_t arriving = table[r][size_t(spread.first()) + i];
      plan.received[r] += arriving;
      rows += arriving;
      require(rows <= std::numeric_limits<int32_t>::max(), "MoEFeedForward: more than ",
              std::numeric_limits<int32_t>::max(), " rows came to the experts of one rank");
      offsets.push_back(int32_t(rows));
    }
  plan.offsets = from_host(offsets, {int64_t(offsets.size())}, device);
  return plan;
}

}  // namespace

void SpreadExperts::update_leaves() const {
  for (const auto list : ExpertParameters::kLists)
    for (size_t i = 0; i < (leaves.*list).size(); ++i)
      follow((leaves.*list)[i], (parameters.*list)[i % size_t(here())]);
}

void require_spreadable(const std::string& layer, const Children& experts) {
  const std::vector<ExpertParts> parts = common_parts(experts);
  require(!parts.empty() && parts.front().act->parameters().empty(), "the experts of \"", layer,
          "\" cannot be spread over ranks: wanted ClassicFFN alone or GatedFFN alone, of the same "
          "options, with plain projections and an activation without parameters");
}

std::shared_ptr<SpreadExperts> spread_over(const dist::Comm& group, const Children& experts) {
  auto spread = std::make_shared<SpreadExperts>();
  spread->group = group;
  spread->experts = int64_t(experts.size());
  spread->parameters = parameters_here(common_parts(experts), *spread);
  for (int source = 0; source < group.size(); ++source)
    for (const auto list : ExpertParameters::kLists)
      for (const Tensor& p : spread->parameters.*list)
        (spread->leaves.*list).push_back(raw::alias(p));
  spread->update_leaves();
  return spread;
}

Tensor run_spread(const Children& experts, const SpreadExperts& spread, const Tensor& x,
                  const Tensor& offsets, Context& ctx) {
  const std::vector<ExpertParts> parts = common_parts(experts);
  require(int64_t(parts.size()) == spread.experts &&
              same_handles(parameters_here(parts, spread), spread.parameters),
          "MoEFeedForward: experts were replaced after they had been spread over ranks");
  require_trained_alike(parameters_of(parts));
  spread.update_leaves();
  const Plan plan = plan_of(exchanged_counts(offsets, spread), spread, x.device());
  const ExpertParts& first = parts.front();
  const Tensor rows = all_to_all_rows(x, plan.sent, plan.received, spread.group);
  const Tensor there = run_grouped(*first.act, spread.leaves, rows, plan.offsets, ctx);
  const Tensor y = all_to_all_rows(there, plan.received, plan.sent, spread.group);
  // On the source rank, in the order of its rows: the random numbers of the unspread layer.
  return dropout_if_training(y, first.dropout, ctx);
}

}  // namespace olm::nn
