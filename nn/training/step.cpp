// One step of training.
#include <algorithm>
#include <chrono>
#include <cmath>

#include <olm/autograd/ops/cross_entropy.h>
#include <olm/engine/raw.h>
#include <olm/nn/training.h>
#include <olm/nn/training/step_metrics_internal.h>

namespace olm::nn {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int64_t kMaxSkipped = 20;  // steps in a row

}  // namespace

/// Forward and backward of this rank's micro-batches of a step. What one computes depends on its
/// number among all batches of the training, its dropout too, so that any rank may do it. Nothing
/// is read from the device.
std::vector<MicroBatchMetrics> Trainer::run_micro_batches() {
  const Device device = device_of(*model_);
  std::vector<MicroBatchMetrics> reported(size_t(parallel_->end() - parallel_->begin()));
  for (int64_t i = parallel_->begin(); i < parallel_->end(); ++i) {
    const int64_t number = loader_.position() + i;
    const Batch batch = loader_.at(number);
    MicroBatchMetrics& its = reported[size_t(i - parallel_->begin())];
    its.targets = count_targets(batch.targets);
    Generator rng(derive_seed(dropout_seed_, std::to_string(number)));
    Context ctx{.dtype = options_.dtype, .rng = &rng, .metrics = &its.metrics};
    if (options_.end_of_text) set_documents(ctx, batch.inputs, *options_.end_of_text, device);
    const Tensor loss =
        model_->loss(raw::to(batch.inputs, device), raw::to(batch.targets, device), ctx);
    parallel_->backward(loss, its.targets, ctx.aux_losses);
  }
  return reported;
}

StepReport Trainer::train_step() {
  const auto start = Clock::now();
  const int64_t first_batch = loader_.position();
  StepReport report{
      .step = ++step_, .total_steps = options_.total_steps, .lr = options_.schedule.at(step_ - 1)};
  set_place("step");
  std::vector<MicroBatchMetrics> reported;
  try {
    reported = run_micro_batches();
  } catch (...) {  // alone, another run() makes this step again
    --step_;
    parallel_->zero_grad();
    throw;
  }
  loader_.set_position(first_batch + options_.accumulation);
  optimizer_.set_lr(report.lr);
  const double limit = spikes_.limit(options_.spike_factor);
  const bool alone = comm_.size() == 1;
  const StepInfo info = parallel_->step(
      {.skip_loss_above = limit}, alone ? "" : write_metrics(*model_, reported, wants_routing()));
  const Metrics metrics =
      alone ? merge_metrics(std::move(reported)) : merge_metrics(*model_, parallel_->notes());
  report.loss = info.loss;
  report.aux_loss = info.aux_loss;
  report.grad_norm = info.grad_norm;
  report.tokens = parallel_->targets();
  if (info.skipped) {
    report.skipped = count_skipped_step(report, first_batch, info.loss > limit, info);
  } else {
    spikes_.take(report.loss);
    update_expert_biases(*model_, metrics);
  }
  report_routing(report, metrics);
  const double seconds = seconds_since(start);
  report.train_seconds = train_seconds_ += seconds;
  report.tokens_per_second = double(report.tokens) / std::max(seconds, 1e-9);
  return report;
}

/// True where some rank reads what routers of others did.
bool Trainer::wants_routing() const {
  if (device_of(*model_) == cpu || is_due(options_.loads_every)) return true;
  bool has_biases = false;
  model_->for_each_module([&](const std::string&, Module& module) {
    const auto* router = dynamic_cast<const MoERouterModule*>(&module);
    has_biases |= router && router->expert_bias;
  });
  return has_biases;
}

void Trainer::report_routing(StepReport& report, const Metrics& metrics) const {
  if (device_of(*model_) == cpu || is_due(options_.loads_every)) {
    report.loads = expert_loads(*model_, metrics);
    report.metrics = routing_totals(report.loads);
  }
  const std::map<std::string, double>& values = metrics.values;
  report.metrics.insert(values.begin(), values.end());
}

namespace {
/// For people: of a NaN hardware often sets the sign, which means nothing.
double printed(double x) { return std::isnan(x) ? NAN : x; }
}  // namespace

/// Counts a skipped step and says why it was; throws where too many were, one after another.
std::string Trainer::count_skipped_step(const StepReport& report, int64_t first_batch, bool spike,
                                        const StepInfo& info) {
  std::string text =
      detail::concat("step ", report.step, " was skipped: batch ", first_batch, " gave ");
  if (spike)
    text += detail::concat("a loss of ", report.loss, " after a mean of ", spikes_.mean);
  else if (!std::isfinite(report.loss))
    text += detail::concat("a loss of ", printed(report.loss));
  else
    text += detail::concat("a gradient norm of ", printed(info.grad_norm));
  if (info.first_bad >= 0)
    text += ", first bad gradient: " + key_of(optimizer_.parameters()[size_t(info.first_bad)]);
  if (++spikes_.in_a_row >= kMaxSkipped) {
    require(spike, "training has diverged, ", kMaxSkipped, " steps in a row were skipped; ", text);
    spikes_ = {};  // the loss stays where it is: that is its new level
  }
  return text;
}

std::string Trainer::key_of(const Tensor& parameter) {
  for (const auto& [key, tensor] : model_->named_parameters())
    if (tensor.is_same(parameter)) return key;
  return "unknown";
}

namespace {

/// What layers reported, behind the other members of a line.
void add_metrics(Json& line, const StepReport& report, bool with_loads) {
  if (report.aux_loss != 0) line["aux_loss"] = report.aux_loss;
  for (const auto& [name, value] : report.metrics)
    if (!line.contains(name)) line[name] = value;
  if (report.loads.empty() || !with_loads) return;
  for (const ExpertLoad& load : report.loads) {
    Json& entry = line["experts"][load.router];
    entry["tokens"] = Json(load.tokens);
    entry["entropy"] = load.entropy();
    entry["imbalance"] = load.imbalance();
    entry["idle"] = load.idle_experts();
    for (const auto& [name, loss] : load.aux_losses) entry[name] = loss;
  }
}

}  // namespace

void Trainer::log_step(const StepReport& report) {
  Json line;
  line["step"] = report.step;
  line["loss"] = report.loss;
  if (evaluated_step_ == step_) line["val_loss"] = *val_loss_;
  line["lr"] = report.lr;
  line["grad_norm"] = report.grad_norm;
  line["tokens_per_second"] = report.tokens_per_second;
  line["train_seconds"] = report.train_seconds;
  add_metrics(line, report, is_due(options_.loads_every));
  if (!report.skipped.empty()) line["skipped"] = report.skipped;
  metrics_->append(line);
}

}  // namespace olm::nn
