#include <cmath>

#include <olm/engine/file.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>
#include <olm/nn/training/ranks_internal.h>

namespace olm::nn {

Trainer::Trainer(Ref<Module> model, Optimizer& optimizer, Loader loader, TokenDataset validation,
                 TrainerOptions options, TrainerCallbacks callbacks,
                 std::shared_ptr<const Tokenizer> tokenizer, dist::Comm comm,
                 std::shared_ptr<ExpertParallel> experts)
    : model_(std::move(model)),
      optimizer_(optimizer),
      loader_(std::move(loader)),
      validation_(std::move(validation)),
      options_(std::move(options)),
      callbacks_(std::move(callbacks)),
      tokenizer_(std::move(tokenizer)),
      comm_(std::move(comm)),
      experts_(std::move(experts)),
      dropout_seed_(derive_seed(options_.seed, "dropout")) {
  ranks::or_fail(comm_, [&] {
    dist::set_place("the start");
    check_options();
    require_same_ranks();
    if (comm_.size() > 1 && !options_.folder.empty()) require_shared_folder(options_.folder, comm_);
    take_total_steps(options_.total_steps);
    const DistributedOptions& d = options_.dist;
    const DataParallelOptions how{.micro_batches = options_.accumulation,
                                  .zero = d.zero,
                                  .bucket_mb = d.buckets,
                                  .deterministic = d.deterministic,
                                  .wire = d.wire,
                                  .order = model_->parameters()};
    parallel_ = std::make_unique<DataParallel>(optimizer_, how, comm_, experts_);
    hand_out_buffers();
  });
}

void Trainer::check_options() const {
  require(options_.accumulation >= 1, "trainer: accumulation wants at least 1, got ",
          options_.accumulation);
  require(options_.dtype == f32 || options_.dtype == bf16, "trainer: dtype wants f32 or bf16, got ",
          options_.dtype);
  require(options_.sample_every == 0 || (tokenizer_ && !options_.prompt.empty()),
          "trainer: samples want a tokenizer and a prompt");
  require(options_.sample.stop_strings.empty(), "trainer: samples take no stop_strings");
  const int64_t wanted = options_.dist.experts, given = experts_ ? experts_->group().size() : 1;
  require(wanted == 1 || wanted == given, "trainer: experts are spread over ", given,
          " ranks, dist.experts wants ", wanted);
}

void Trainer::take_total_steps(int64_t total) {
  require(total >= 1, "trainer: total_steps wants at least 1, got ", total);
  options_.total_steps = total;
  options_.schedule.total_steps = total;
  options_.schedule.decay_steps = int64_t(std::llround(double(total) * options_.decay_fraction));
}

void Trainer::set_total_steps(int64_t total) {
  ranks::or_fail(comm_,
                 [&] { take_total_steps(ranks::of_first_rank(comm_, [&] { return total; })); });
}

void Trainer::set_place(const char* doing) const {
  dist::set_place(detail::concat(doing, " ", step_));
}

bool Trainer::is_due(int64_t every) const {
  return every > 0 && (step_ % every == 0 || step_ == options_.total_steps);
}

bool Trainer::spreads_experts() const { return experts_ && experts_->group().size() > 1; }

bool Trainer::is_asked_to_stop() const {
  return (callbacks_.should_stop && callbacks_.should_stop()) || dist::asked_to_stop();
}

bool Trainer::all_are_asked_to_stop() const {
  return ranks::on_any_rank(comm_, is_asked_to_stop());
}

void Trainer::evaluate_now() {
  set_place("evaluation at step");
  EvalReport report = evaluate(
      *model_, validation_, loader_.options().context, options_.dtype,
      [this] { return is_asked_to_stop(); }, evaluates_rest_, options_.end_of_text, comm_);
  if (!report.finished) return;
  report.step = step_;
  report.total_steps = options_.total_steps;
  val_loss_ = report.loss;
  evaluated_step_ = step_;
  if (callbacks_.on_eval && comm_.rank() == 0) callbacks_.on_eval(report);
}

/// Undefined where it was asked to stop. Rank 0 draws; where experts are spread all ranks draw the
/// same, since a token needs the experts of all.
std::optional<std::vector<int32_t>> Trainer::draw_sample(const GenerateOptions& options) {
  bool finished = true;
  const auto goes_on = [&](int32_t id) {
    const bool asked = is_asked_to_stop();
    if (!spreads_experts()) return finished = !asked;
    const std::vector<std::string> all = comm_.all_gather(detail::concat(asked ? "-" : "+", id));
    for (const std::string& other : all) {
      require(other.substr(1) == all[0].substr(1), "sample: ranks draw different tokens, ",
              all[0].substr(1), " and ", other.substr(1));
      finished &= other[0] == '+';
    }
    return finished;
  };
  std::vector<int32_t> ids;
  if (spreads_experts() || comm_.rank() == 0)
    ids = generate(*model_, options_.prompt, options, goes_on);
  if (!ranks::of_first_rank(comm_, [&] { return finished; })) return {};
  return ids;
}

void Trainer::sample_now() {
  set_place("sample at step");
  const std::optional<std::vector<int32_t>> ids = draw_sample(options_.sample);
  if (!ids) return;
  sampled_step_ = step_;
  if (comm_.rank() != 0) return;
  const SampleReport report{.step = step_,
                            .prompt = tokenizer_->decode(options_.prompt),
                            .text = tokenizer_->decode(*ids)};
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
  if (options_.folder.empty()) {
    saved_step_ = step_;
    return;
  }
  set_place("checkpoint of step");
  CheckpointState state{.step = step_,
                        .total_steps = options_.total_steps,
                        .rng_seed = dropout_seed_,
                        .loader = loader_.state(),
                        .spikes = spikes_,
                        .corpus_hash = loader_.dataset().source_hash(),
                        .tokenizer_hash = loader_.dataset().tokenizer_hash(),
                        .model = describe(*model_),
                        .train_seconds = train_seconds_};
  state.evaluates_rest = evaluates_rest_;
  if (evaluated_step_ == step_) state.val_loss = val_loss_;
  Checkpoints checkpoints(options_.folder, options_.keep);
  checkpoints.save(state, *model_, optimizer_, comm_);
  saved_step_ = step_;
  if (callbacks_.on_checkpoint && comm_.rank() == 0)
    callbacks_.on_checkpoint(step_, checkpoints.path(step_));
}

void Trainer::after_step(const StepReport& report) {
  if (callbacks_.on_step && comm_.rank() == 0) callbacks_.on_step(report);
  if (validation_.size() > 0 && is_due(options_.eval_every)) evaluate_now();
  if (metrics_) log_step(report);
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
    // The loss says which checkpoint is the best, and that it is not made again.
    if (evaluated_step_ == step_ && saved_step_ == step_) checkpoint_now();
  }
  if (owes_sample()) sample_now();
}

bool Trainer::train() {
  if (!options_.folder.empty() && comm_.rank() == 0) {
    metrics_ = std::make_unique<JsonLines>(options_.folder + "/metrics.jsonl");
    samples_ = std::make_unique<JsonLines>(options_.folder + "/samples.jsonl");
  }
  catch_up();
  while (step_ < options_.total_steps) {
    if (all_are_asked_to_stop()) break;
    after_step(train_step());
  }
  if (saved_step_ != step_) checkpoint_now();
  return step_ >= options_.total_steps && !owes_evaluation() && !owes_sample();
}

bool Trainer::run() {
  return ranks::or_fail(comm_, [&] { return train(); });
}

}  // namespace olm::nn
