#include <algorithm>
#include <chrono>
#include <cmath>

#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/tape.h>
#include <olm/engine/file.h>
#include <olm/engine/raw.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

namespace olm::nn {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int64_t kMaxSkipped = 20;  // steps in a row

}  // namespace

Trainer::Trainer(Ref<Module> model, Optimizer& optimizer, Loader loader, TokenDataset validation,
                 TrainerOptions options, TrainerCallbacks callbacks,
                 std::shared_ptr<const Tokenizer> tokenizer)
    : model_(std::move(model)),
      optimizer_(optimizer),
      loader_(std::move(loader)),
      validation_(std::move(validation)),
      options_(std::move(options)),
      callbacks_(std::move(callbacks)),
      tokenizer_(std::move(tokenizer)),
      rng_(derive_seed(options_.seed, "dropout")) {
  require(options_.accumulation >= 1, "trainer: accumulation wants at least 1, got ",
          options_.accumulation);
  require(options_.dtype == f32 || options_.dtype == bf16, "trainer: dtype wants f32 or bf16, got ",
          options_.dtype);
  require(options_.sample_every == 0 || (tokenizer_ && !options_.prompt.empty()),
          "trainer: samples want a tokenizer and a prompt");
  require(options_.sample.stop_strings.empty(), "trainer: samples take no stop_strings");
  set_total_steps(options_.total_steps);
}

void Trainer::set_total_steps(int64_t total) {
  require(total >= 1, "trainer: total_steps wants at least 1, got ", total);
  options_.total_steps = total;
  options_.schedule.total_steps = total;
  options_.schedule.decay_steps = int64_t(std::llround(double(total) * options_.decay_fraction));
}

/// The loss is a mean over the micro-batch's targets. Weighted by their number, micro-batches of
/// different length add up to the mean over all, once the optimizer divides by the number of all.
/// Returns that number. Nothing is read from the device.
int64_t Trainer::loss_and_backward(const Batch& batch, Generator& rng, Metrics& metrics) {
  const Device device = device_of(*model_);
  Context ctx{.dtype = options_.dtype, .rng = &rng, .metrics = &metrics};
  if (options_.end_of_text) set_documents(ctx, batch.inputs, *options_.end_of_text, device);
  const int64_t targets = count_targets(batch.targets);
  const Tensor loss =
      model_->loss(raw::to(batch.inputs, device), raw::to(batch.targets, device), ctx);
  optimizer_.add_loss(loss, ctx.aux_losses, targets);
  if (options_.accumulation == 1)
    backward(loss);
  else
    backward(loss, {.gradient = full(loss.shape(), double(targets), options_of(loss))});
  return targets;
}

StepReport Trainer::train_step() {
  const auto start = Clock::now();
  StepReport report{.step = step_ + 1, .total_steps = options_.total_steps};
  const int64_t first_batch = loader_.position();
  Metrics metrics;
  for (int64_t i = 0; i < options_.accumulation; ++i)
    report.tokens += loss_and_backward(loader_.next(), rng_, metrics);

  StepOptions how{.skip_loss_above = spikes_.limit(options_.spike_factor)};
  if (options_.accumulation > 1) how.gradient_scale = 1 / double(report.tokens);
  report.lr = options_.schedule.at(step_);
  optimizer_.set_lr(report.lr);
  const StepInfo info = optimizer_.step(how);
  report.loss = info.loss;
  report.aux_loss = info.aux_loss;
  report.grad_norm = info.grad_norm;
  if (info.skipped) {
    report.skipped = count_skipped_step(report, first_batch, info.loss > how.skip_loss_above, info);
  } else {
    spikes_.take(report.loss);
    update_expert_biases(*model_, metrics);
  }

  ++step_;
  report_routing(report, metrics);
  const double seconds = seconds_since(start);
  report.train_seconds = train_seconds_ += seconds;
  report.tokens_per_second = double(report.tokens) / std::max(seconds, 1e-9);
  return report;
}

void Trainer::report_routing(StepReport& report, const Metrics& metrics) const {
  if (device_of(*model_) == cpu || is_due(options_.loads_every)) {
    report.loads = expert_loads(*model_, metrics);
    report.metrics = routing_totals(report.loads);
  }
  const std::map<std::string, double>& values = metrics.values;
  report.metrics.insert(values.begin(), values.end());
}

/// Counts a skipped step and says why it was; throws where too many were, one after another.
std::string Trainer::count_skipped_step(const StepReport& report, int64_t first_batch, bool spike,
                                        const StepInfo& info) {
  std::string text =
      detail::concat("step ", report.step, " was skipped: batch ", first_batch, " gave ");
  if (spike)
    text += detail::concat("a loss of ", report.loss, " after a mean of ", spikes_.mean);
  else if (!std::isfinite(report.loss))
    text += detail::concat("a loss of ", report.loss);
  else
    text += detail::concat("a gradient norm of ", info.grad_norm);
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

bool Trainer::is_due(int64_t every) const {
  return every > 0 && (step_ % every == 0 || step_ == options_.total_steps);
}

bool Trainer::is_asked_to_stop() const {
  return callbacks_.should_stop && callbacks_.should_stop();
}

void Trainer::evaluate_now() {
  EvalReport report = evaluate(
      *model_, validation_, loader_.options().context, options_.dtype,
      [this] { return is_asked_to_stop(); }, evaluates_rest_, options_.end_of_text);
  if (!report.finished) return;
  report.step = step_;
  report.total_steps = options_.total_steps;
  val_loss_ = report.loss;
  evaluated_step_ = step_;
  if (callbacks_.on_eval) callbacks_.on_eval(report);
}

void Trainer::sample_now() {
  bool finished = true;
  const std::vector<int32_t> ids =
      generate(*model_, options_.prompt, options_.sample,
               [&](int32_t) { return finished = !is_asked_to_stop(); });
  if (!finished) return;
  sampled_step_ = step_;
  const SampleReport report{.step = step_,
                            .prompt = tokenizer_->decode(options_.prompt),
                            .text = tokenizer_->decode(ids)};
  if (samples_) {
    Json line;
    line["step"] = report.step;
    line["prompt"] = report.prompt;
    line["text"] = report.text;
    samples_->append(line);
  }
  if (callbacks_.on_sample) callbacks_.on_sample(report);
}

void Trainer::checkpoint_now() {
  saved_step_ = step_;
  if (options_.folder.empty()) return;
  CheckpointState state{.step = step_,
                        .total_steps = options_.total_steps,
                        .rng_seed = rng_.seed(),
                        .rng_offset = rng_.offset(),
                        .loader = loader_.state(),
                        .spikes = spikes_,
                        .corpus_hash = loader_.dataset().source_hash(),
                        .tokenizer_hash = loader_.dataset().tokenizer_hash(),
                        .model = describe(*model_),
                        .train_seconds = train_seconds_};
  state.evaluates_rest = evaluates_rest_;
  if (evaluated_step_ == step_) state.val_loss = val_loss_;
  Checkpoints checkpoints(options_.folder, options_.keep);
  checkpoints.save(state, *model_, optimizer_);
  if (callbacks_.on_checkpoint) callbacks_.on_checkpoint(step_, checkpoints.path(step_));
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

void Trainer::after_step(const StepReport& report) {
  if (callbacks_.on_step) callbacks_.on_step(report);
  if (validation_.size() > 0 && is_due(options_.eval_every)) evaluate_now();
  if (metrics_) {
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
  if (is_due(options_.sample_every)) sample_now();
  if (is_due(options_.checkpoint_every)) checkpoint_now();
}

bool Trainer::owes_evaluation() const {
  const bool due = step_ == 0 ? options_.eval_every > 0 : is_due(options_.eval_every);
  return due && validation_.size() > 0 && evaluated_step_ != step_;
}

bool Trainer::owes_sample() const {
  return step_ > 0 && is_due(options_.sample_every) && sampled_step_ != step_;
}

/// Makes what is due at this step and was not made: the evaluation before the first step, and what
/// was cut off when the run stopped here.
void Trainer::catch_up() {
  if (owes_evaluation()) {
    evaluate_now();
    Json line;
    line["step"] = step_;
    if (evaluated_step_ == step_) line["val_loss"] = *val_loss_;
    if (metrics_ && evaluated_step_ == step_) metrics_->append(line);
  }
  if (owes_sample()) sample_now();
}

bool Trainer::run() {
  if (!options_.folder.empty()) {
    metrics_ = std::make_unique<JsonLines>(options_.folder + "/metrics.jsonl");
    samples_ = std::make_unique<JsonLines>(options_.folder + "/samples.jsonl");
  }
  catch_up();
  while (step_ < options_.total_steps) {
    if (is_asked_to_stop()) break;
    after_step(train_step());
  }
  if (saved_step_ != step_) checkpoint_now();
  return step_ >= options_.total_steps && !owes_evaluation() && !owes_sample();
}

}  // namespace olm::nn
