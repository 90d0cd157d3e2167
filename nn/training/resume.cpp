#include <algorithm>
#include <chrono>

#include <olm/engine/allocator.h>
#include <olm/engine/file.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

namespace olm::nn {

void Trainer::check_same(const CheckpointState& state) const {
  const TokenDataset& data = loader_.dataset();
  require(state.model == describe(*model_),
          "resume: the checkpoint is of another architecture than the model");
  require(state.tokenizer_hash == data.tokenizer_hash(),
          "resume: the checkpoint was trained with another tokenizer");
  require(state.corpus_hash == data.source_hash(),
          "resume: the checkpoint was trained on another corpus than ", data.describe());
}

void Trainer::resume() {
  const Checkpoints checkpoints(options_.folder, options_.keep);
  const std::vector<int64_t> steps = checkpoints.steps();
  if (steps.empty()) throw FileError(options_.folder, ": holds no checkpoint to resume from");
  const CheckpointState state = checkpoints.state(steps.back());
  check_same(state);
  Loader moved = loader_;
  moved.set_state(state.loader);
  checkpoints.load(steps.back(), *model_, optimizer_);
  loader_ = moved;
  rng_.set_state(state.rng_seed, state.rng_offset);
  spikes_ = state.spikes;
  step_ = saved_step_ = state.step;
  train_seconds_ = state.train_seconds;
  val_loss_ = state.val_loss;
  if (state.val_loss) evaluated_step_ = step_;
  set_total_steps(std::max<int64_t>(1, state.total_steps));
  for (const char* log : {"/metrics.jsonl", "/samples.jsonl"})
    JsonLines::cut(options_.folder + log, step_);
  const std::string samples = options_.folder + "/samples.jsonl";
  if (!file_exists(samples)) return;
  for (const Json& line : JsonLines::read(samples)) sampled_step_ = line.at("step").as_int();
}

Timing Trainer::measure(double seconds) {
  using Clock = std::chrono::steady_clock;
  auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  Loader loader = loader_;
  Generator rng = rng_;
  Timing timing;
  std::vector<double> times;
  reset_peak_memory();
  const auto begin = Clock::now();
  // The first one allocates, and is not counted where there are others.
  while (times.size() < 2 || (times.size() < 50 && since(begin) < seconds)) {
    const auto start = Clock::now();
    gather(loader, rng);
    times.push_back(since(start));
    optimizer_.zero_grad();
    if (times.size() == 1 && times[0] > seconds) break;
  }
  if (times.size() > 1) times.erase(times.begin());
  std::sort(times.begin(), times.end());
  timing.step_seconds = times[times.size() / 2];
  timing.peak_bytes = memory_stats().peak;
  const int64_t context = loader_.options().context;
  if (options_.eval_every > 0 && validation_.size() > context) {
    const int64_t part = std::min(validation_.size(), std::max<int64_t>(16384, context) + 1);
    const EvalReport report =
        evaluate(*model_, validation_.slice(0, part), context, options_.dtype);
    timing.eval_seconds = report.seconds * double(validation_.size()) / double(report.tokens);
  }
  return timing;
}

}  // namespace olm::nn
