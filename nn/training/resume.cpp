#include <algorithm>

#include <olm/engine/file.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>
#include <olm/nn/training/ranks_internal.h>

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

/// All ranks go on from the step that rank 0 finds, which alone cuts the logs.
void Trainer::resume_newest() {
  const Checkpoints checkpoints(options_.folder, options_.keep);
  const int64_t newest = ranks::of_first_rank(comm_, [&] {
    const std::vector<int64_t> steps = checkpoints.steps();
    if (steps.empty()) throw FileError(options_.folder, ": holds no checkpoint to resume from");
    return steps.back();
  });
  dist::set_place(detail::concat("reading the checkpoint of step ", newest));
  const CheckpointState state = checkpoints.state(newest);
  check_same(state);
  Loader moved = loader_;
  moved.set_state(state.loader);
  checkpoints.load(newest, *model_, optimizer_, comm_);
  loader_ = moved;
  dropout_seed_ = state.rng_seed;
  spikes_ = state.spikes;
  step_ = saved_step_ = state.step;
  train_seconds_ = state.train_seconds;
  val_loss_ = state.val_loss;
  evaluates_rest_ = state.evaluates_rest;
  if (state.val_loss) evaluated_step_ = step_;
  take_total_steps(std::max<int64_t>(1, state.total_steps));
  sampled_step_ = ranks::of_first_rank(comm_, [&] {
    for (const char* log : {"/metrics.jsonl", "/samples.jsonl"})
      JsonLines::cut(options_.folder + log, step_);
    const std::string samples = options_.folder + "/samples.jsonl";
    int64_t last = -1;
    if (file_exists(samples))
      for (const Json& line : JsonLines::read(samples)) last = line.at("step").as_int();
    return last;
  });
}

void Trainer::resume() {
  ranks::or_fail(comm_, [&] { resume_newest(); });
}

}  // namespace olm::nn
