#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>
#include <utility>

#include <olm/autograd/ops/combine.h>
#include <olm/engine/raw.h>
#include <olm/engine/raw_optim.h>
#include <olm/nn/moe.h>

namespace olm::nn {

namespace {

/// What one router did in all passes, of which `records` are on the host.
ExpertLoad load_of(const MoERouterModule& router, const std::vector<RoutingRecord>& records) {
  ExpertLoad load;
  int64_t choices = 0;
  for (const RoutingRecord& record : records) {
    if (record.router != &router) continue;
    const std::vector<int64_t> offsets = to_host<int64_t>(record.offsets);
    load.tokens.resize(offsets.size() - 1);
    for (size_t e = 0; e < load.tokens.size(); ++e) load.tokens[e] += offsets[e + 1] - offsets[e];
    choices += offsets.back();
    for (const auto& [name, loss] : record.aux_losses)
      load.aux_losses[name] += loss.item<double>() * double(offsets.back());
  }
  for (auto& [name, loss] : load.aux_losses) loss /= double(choices);
  return load;
}

/// Visits every router of a model once, with its first path.
void for_each_router(Module& model,
                     const std::function<void(const std::string&, MoERouterModule&)>& visit) {
  std::unordered_set<const Module*> seen;
  model.for_each_module([&](const std::string& path, Module& module) {
    auto* router = dynamic_cast<MoERouterModule*>(&module);
    if (router && seen.insert(router).second) visit(path, *router);
  });
}

bool is_frozen(MoERouterModule& router) {
  bool frozen = true;
  router.for_each_parameter([&](const std::string&, Parameter& p) { frozen &= !p.trainable(); });
  return frozen;
}

}  // namespace

double ExpertLoad::entropy() const {
  const auto total = double(std::accumulate(tokens.begin(), tokens.end(), int64_t(0)));
  double sum = 0;
  for (const int64_t n : tokens)
    if (n > 0) sum -= double(n) / total * std::log(double(n) / total);
  return tokens.size() > 1 ? sum / std::log(double(tokens.size())) : 1;
}

int64_t ExpertLoad::idle_experts() const {
  return std::count(tokens.begin(), tokens.end(), int64_t(0));
}

double ExpertLoad::imbalance() const {
  const int64_t total = std::accumulate(tokens.begin(), tokens.end(), int64_t(0));
  if (total == 0) return 1;
  return double(*std::max_element(tokens.begin(), tokens.end())) * double(tokens.size()) /
         double(total);
}

std::vector<RoutingRecord> on_host(std::vector<RoutingRecord> records) {
  if (records.empty() || records[0].offsets.device() == cpu) return records;
  NoGrad guard;
  Tensors offsets, losses;
  for (const RoutingRecord& record : records) {
    offsets.push_back(record.offsets);
    for (const auto& [name, loss] : record.aux_losses) losses.push_back(raw::view(loss, {1}));
  }
  const Tensor all_offsets = raw::to(cat(offsets), cpu);
  const Tensor all_losses = losses.empty() ? Tensor() : raw::to(cat(losses), cpu);
  int64_t offset = 0, next_loss = 0;
  for (RoutingRecord& record : records) {
    const int64_t begin = std::exchange(offset, offset + record.offsets.numel());
    record.offsets = raw::slice(all_offsets, 0, begin, offset);
    for (auto& [name, loss] : record.aux_losses) loss = raw::select(all_losses, 0, next_loss++);
  }
  return records;
}

std::vector<ExpertLoad> expert_loads(Module& model, const Metrics& metrics) {
  std::vector<ExpertLoad> loads;
  if (metrics.routing.empty()) return loads;
  const std::vector<RoutingRecord> records = on_host(metrics.routing);
  for_each_router(model, [&](const std::string& path, MoERouterModule& router) {
    ExpertLoad load = load_of(router, records);
    if (load.tokens.empty()) return;
    load.router = path;
    loads.push_back(std::move(load));
  });
  return loads;
}

std::map<std::string, double> routing_totals(const std::vector<ExpertLoad>& loads) {
  std::map<std::string, double> totals;
  for (const ExpertLoad& load : loads) {
    totals["expert_entropy"] += load.entropy() / double(loads.size());
    double& worst = totals["expert_imbalance"];
    worst = std::max(worst, load.imbalance());
    totals["idle_experts"] += double(load.idle_experts());
    for (const auto& [name, loss] : load.aux_losses) totals[name] += loss;
  }
  return totals;
}

void update_expert_biases(Module& model, const Metrics& metrics) {
  for_each_router(model, [&](const std::string&, MoERouterModule& router) {
    if (!router.expert_bias || is_frozen(router)) return;
    const Tensor& bias = router.expert_bias->tensor();
    Tensors offsets;
    for (const RoutingRecord& record : metrics.routing)
      if (record.router == &router) offsets.push_back(raw::to(record.offsets, bias.device()));
    if (!offsets.empty())
      raw::update_expert_bias_(bias, offsets, router.options.routing.bias_update_rate);
  });
}

}  // namespace olm::nn
