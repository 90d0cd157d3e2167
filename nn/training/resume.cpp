#include <algorithm>

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
          "resume: the checkpoint was trained on another corpus than ", data.describe(),
          "; give the text back that it was trained on, or begin a new run");
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
  evaluates_rest_ = state.evaluates_rest;
  if (state.val_loss) evaluated_step_ = step_;
  set_total_steps(std::max<int64_t>(1, state.total_steps));
  for (const char* log : {"/metrics.jsonl", "/samples.jsonl"})
    JsonLines::cut(options_.folder + log, step_);
  const std::string samples = options_.folder + "/samples.jsonl";
  if (!file_exists(samples)) return;
  for (const Json& line : JsonLines::read(samples)) sampled_step_ = line.at("step").as_int();
}

}  // namespace olm::nn
