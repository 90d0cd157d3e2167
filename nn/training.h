#pragma once
// Training: a loop with callbacks, checkpoints from which it resumes bit for bit, and its log; on
// one process or on many, with the same bits.
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/nn/data.h>
#include <olm/nn/generate.h>
#include <olm/nn/module.h>
#include <olm/nn/moe.h>
#include <olm/nn/optim.h>
#include <olm/nn/parallel.h>

namespace olm::nn {

/// Lines of JSON in a file that only grows, each written whole: a line that does not fit on the
/// disk is taken back before the error is thrown.
class OLM_API JsonLines {
 public:
  /// Opens for appending; makes the file where there is none.
  explicit JsonLines(const std::string& path);
  ~JsonLines();
  JsonLines(const JsonLines&) = delete;
  JsonLines& operator=(const JsonLines&) = delete;
  void append(const Json& line);
  /// Reads all lines; a last line that was cut off is left out.
  static std::vector<Json> read(const std::string& path);
  /// Rewrites the file with those lines whose "step" is at most `step`; nothing happens where there
  /// is no file.
  static void cut(const std::string& path, int64_t step);

 private:
  std::string path_;
  int file_ = -1;
};

/// Lines of metrics as CSV (RFC 4180) with a header: one column per name, in the order of first
/// appearance.
OLM_API std::string metrics_csv(const std::vector<Json>& lines);

/// Detects a loss that jumps, by exponential moving averages of earlier losses and of their
/// absolute deviation.
struct OLM_API SpikeStatistics {
  double mean = 0, deviation = 0;
  int64_t count = 0;     ///< losses averaged
  int64_t in_a_row = 0;  ///< steps skipped since then
  /// The largest loss that is no spike: `factor` deviations above the mean of at least 50 losses;
  /// infinity for fewer of them, and with factor 0.
  double limit(double factor) const;
  bool is_spike(double loss, double factor) const { return loss > limit(factor); }
  void take(double loss);
  void fields(auto& v) {
    v("mean", mean);
    v("deviation", deviation);
    v("count", count);
    v("in_a_row", in_a_row);
  }
};

/// The part of a checkpoint that is no tensor.
struct CheckpointState {
  int64_t step = 0, total_steps = 0;
  uint64_t rng_seed = 0, rng_offset = 0;
  Json loader = {};
  SpikeStatistics spikes = {};
  std::string corpus_hash = {}, tokenizer_hash = {};
  Json model = {};  ///< its description
  double train_seconds = 0;
  std::optional<double> val_loss = {};  ///< where it was evaluated at this step
  /// Evaluations include the ids after the last full window. False in runs that began without them,
  /// so that their losses stay comparable.
  bool evaluates_rest = true;
};

/// Checkpoints of a run: folders `checkpoints/000500` with model.safetensors, optimizer.safetensors
/// and state.json. Each appears whole or not at all, and holds hashes that reveal damage. Where
/// ranks share the work, all call save() and load(), and all throw where one fails; the files are
/// the same for any number of them, and belong to none.
class OLM_API Checkpoints {
 public:
  /// The `keep` newest are kept, and the one of lowest validation loss.
  explicit Checkpoints(std::string run_folder, int64_t keep = 3);
  /// Steps of the checkpoints there are, in ascending order.
  std::vector<int64_t> steps() const;
  std::string path(int64_t step) const;
  /// Writes a temporary folder, syncs it, renames it into place, and removes older ones. Each rank
  /// writes a part of what it holds: of the model all but what others keep, of the optimizer its
  /// state_pieces(). Throws Error naming what no rank holds.
  void save(const CheckpointState& state, Module& model, const Optimizer& optimizer,
            const dist::Comm& comm = {});
  /// Reads state.json; throws FileError for what is not a checkpoint.
  CheckpointState state(int64_t step) const;
  /// Fills model, but for what others keep, and optimizer; throws, and changes neither, where a
  /// file is damaged or does not fit.
  void load(int64_t step, Module& model, Optimizer& optimizer, const dist::Comm& comm = {}) const;

 private:
  void write(const std::string& folder, const CheckpointState& state, Module& model,
             const Optimizer& optimizer, const dist::Comm& comm) const;
  void prune(int64_t saved) const;
  void check_hashes(int64_t step, const dist::Comm& comm) const;
  std::string folder_;
  int64_t keep_;
};

/// Throws FileError, on all ranks and naming rank and machine, unless all can write to the same
/// folder under this name; made where it is missing.
OLM_API void require_shared_folder(const std::string& folder, const dist::Comm& comm);

/// How training is spread over ranks: the section [dist] of a configuration. See
/// DataParallelOptions.
struct DistributedOptions {
  int64_t zero = 1;
  int64_t experts = 1;  ///< neighbouring ranks that share experts; see spread_experts()
  double buckets = 25;  ///< MiB
  bool deterministic = true;
  DType wire = f32;
  double timeout = 60;  ///< dist::Options::timeout, which the program sets
  void fields(auto& v) {
    v("zero", zero,
      {.min = 0, .max = 1, .help = "1 shares the moments out among ranks, 0 keeps all on each"});
    v("experts", experts,
      {.min = 1, .max = 1000000, .help = "ranks that the experts of a layer are spread over"});
    v("buckets", buckets,
      {.min = 0.001, .max = 1e6, .help = "MiB of gradients that travel together"});
    v("deterministic", deterministic, {.help = "bits do not depend on the number of ranks"});
    v("wire", wire, {.one_of = {"f32", "bf16"}, .help = "what gradients travel in"});
    v("timeout", timeout,
      {.min = 1, .max = 1e6, .help = "seconds of silence after which a rank is taken for dead"});
  }
};

struct MicroBatchMetrics;  // see training/step_metrics_internal.h

/// Throws on all ranks where they do not have the same values, naming the first key that differs
/// and which ranks have what. Collective. flat_members() gives the keys of a configuration.
OLM_API void require_same_on_all_ranks(const std::map<std::string, std::string>& values,
                                       const dist::Comm& comm = dist::world());
/// The members of an object, and theirs, under dotted paths: {"optim": {"lr": 1}} is "optim.lr": 1.
OLM_API std::map<std::string, std::string> flat_members(const Json& json);

struct TrainerOptions {
  /// Where metrics.jsonl, samples.jsonl and checkpoints go; empty: nothing is written.
  std::string folder = {};
  int64_t total_steps = 1000;
  /// Batches per step, the micro-batches of all ranks. Their gradients are added pairwise (see
  /// DataParallelOptions::deterministic): of m on a rank there are up to log2(m) + 1 gradients at a
  /// time.
  int64_t accumulation = 1;
  DType dtype = f32;             ///< of activations: f32 or bf16
  uint64_t seed = 0;             ///< of dropout
  Schedule schedule = {};        ///< total_steps and decay_steps follow total_steps here
  double decay_fraction = 0.2;   ///< `wsd`: part of all steps, at the end, with decay
  int64_t eval_every = 0;        ///< steps; 0: never, else the last step too
  int64_t sample_every = 0;      ///< steps; 0: never
  int64_t checkpoint_every = 0;  ///< steps; 0: only at the end
  /// Steps between lines with the load of every expert; 0: none. Where the model is not on the CPU,
  /// what experts did (StepReport::loads and routing_totals()) is read and reported then alone: of
  /// other steps, on one rank, nothing but 64 bytes comes to the host.
  int64_t loads_every = 10;
  int64_t keep = 3;         ///< newest checkpoints kept, beside the best
  double spike_factor = 0;  ///< see SpikeStatistics::is_spike(); such steps are skipped
  GenerateOptions sample = {};
  std::vector<int32_t> prompt = {};  ///< ids that samples continue
  /// The id that documents end with; in training and evaluation tokens attend only within their
  /// document. Empty: across documents.
  std::optional<int64_t> end_of_text = {};
  DistributedOptions dist = {};
};

/// Of all ranks, but for times, which are this one's.
struct StepReport {
  int64_t step = 0, total_steps = 0;  ///< the first step is 1
  double loss = 0;      ///< cross-entropy alone, comparable with that of an evaluation
  double aux_loss = 0;  ///< what layers added to it (Context::aux_losses)
  double lr = 0, grad_norm = 0;
  int64_t tokens = 0;  ///< targets in this step
  double tokens_per_second = 0, train_seconds = 0;
  /// Why the parameters were left alone, naming step, batch and first bad parameter; empty where
  /// they were not.
  std::string skipped = {};
  /// Metrics::values, of several micro-batches the mean over their targets, and routing_totals().
  std::map<std::string, double> metrics = {};
  /// Of all routers, in the order of the model; see TrainerOptions::loads_every.
  std::vector<ExpertLoad> loads = {};
};
struct EvalReport {
  int64_t step = 0, total_steps = 0;  ///< of the training it was made in
  double loss = 0;                    ///< nats per token
  int64_t tokens = 0;
  double seconds = 0;
  bool finished = true;  ///< false where it was asked to stop: there is no loss then
};
struct SampleReport {
  int64_t step = 0;
  std::string prompt, text;
};

/// Those that report are called on rank 0 alone, should_stop on every rank. What one throws ends
/// the run on all.
struct TrainerCallbacks {
  std::function<void(const StepReport&)> on_step = {};
  std::function<void(const EvalReport&)> on_eval = {};
  std::function<void(const SampleReport&)> on_sample = {};
  std::function<void(int64_t step, const std::string& path)> on_checkpoint = {};
  /// Called between steps, batches of an evaluation and tokens of a sample, also in measure(); true
  /// on any rank, or dist::ask_all_to_stop(), ends the run on all with a checkpoint. An evaluation
  /// or sample that was cut off is repeated when the run resumes.
  std::function<bool()> should_stop = {};
};

/// How long things take, from a few timed steps that change nothing.
struct Timing {
  double step_seconds = 0, eval_seconds = 0, sample_seconds = 0;
  size_t peak_bytes = 0;
};

/// Mean loss of a model over a whole dataset in windows of `context`, nats per token; the last
/// window may be shorter, so that each id but the first is a target once. Deterministic: no
/// dropout. `should_stop` is asked before each batch. With `end_of_text`, tokens attend within the
/// documents that end with it. Ranks of `comm` share the batches, and get the loss of one alone, to
/// the bit; where one is asked to stop all do.
OLM_API EvalReport evaluate(Module& model, const TokenDataset& data, int64_t context,
                            DType dtype = f32, const std::function<bool()>& should_stop = {},
                            bool with_rest = true, std::optional<int64_t> end_of_text = {},
                            const dist::Comm& comm = {});

struct ScoreOptions {
  int64_t context = 0;  ///< most tokens that are seen at once
  /// Tokens from the begin of a window to that of the next, at most `context`; 0 is `context`.
  /// Every token but those of the first window is predicted from at least context - stride before
  /// it.
  int64_t stride = 0;
  /// The id before a text, from which its first token is predicted. Without, nothing says what that
  /// token is, and it costs the logarithm of the number of ids, as if all were equally likely.
  std::optional<int64_t> start = {};
  DType dtype = f32;                        ///< of activations
  std::optional<int64_t> end_of_text = {};  ///< as in evaluate()
};
struct ScoreReport {
  double nats = 0;     ///< of all tokens together
  int64_t tokens = 0;  ///< of all texts
  double seconds = 0;
};
/// What texts cost: minus the logarithm of the probability that a model gives each of their tokens,
/// the first included, summed. Each text stands alone; no token is left out or counted twice.
/// Deterministic: no dropout.
OLM_API ScoreReport score(Module& model, std::span<const TokenDataset> texts,
                          const ScoreOptions& options);

/// The training loop: batches, loss, backward, optimizer step, with evaluation, samples, logs and
/// checkpoints, on the device of the model. It prints nothing and reports to its callbacks. After a
/// step that was not skipped it updates expert biases by the loads of the step's micro-batches; see
/// update_expert_biases().
///
/// Where several ranks make the same calls they train together, each on its part of the
/// micro-batches (see DataParallel): weights, losses and checkpoints have the bits of one process.
/// Rank 0 alone writes logs and samples, and decides what is measured or read. An error on one ends
/// all: see dist::fail().
class OLM_API Trainer {
 public:
  /// Without ids in `validation` nothing is evaluated. `tokenizer` is used for samples only.
  /// `experts` has spread those of the model over ranks. Throws where ranks disagree on data,
  /// model, options or the version of this library, naming what differs, and for a folder that not
  /// all of them see.
  Trainer(Ref<Module> model, Optimizer& optimizer, Loader loader, TokenDataset validation,
          TrainerOptions options, TrainerCallbacks callbacks = {},
          std::shared_ptr<const Tokenizer> tokenizer = nullptr, dist::Comm comm = dist::world(),
          std::shared_ptr<ExpertParallel> experts = nullptr);

  /// Times some steps, and parts of an evaluation and a sample where the options ask for them,
  /// without changing parameters, position or random streams. If should_stop returns true it ends
  /// after the first step, and what it did not time is 0. All ranks get the numbers of rank 0.
  Timing measure(double seconds = 2);
  /// Seconds to write the weights as a checkpoint does, to a file that is removed; 0 without a
  /// folder.
  double time_weights();
  /// Replaces the total number of steps, and with it the schedule, on all ranks by that of rank 0.
  void set_total_steps(int64_t total);
  int64_t total_steps() const { return options_.total_steps; }
  int64_t step() const { return step_; }
  const DataParallel& parallel() const { return *parallel_; }
  /// Resumes from the newest checkpoint in the folder, bit for bit: cuts the logs back to it and
  /// takes its total number of steps. Throws where corpus, tokenizer or architecture differ.
  void resume();
  /// Trains to the last step or until should_stop; ends with a checkpoint. True if it reached the
  /// last step and everything due there is done.
  bool run();
  /// The newest validation loss.
  std::optional<double> validation_loss() const { return val_loss_; }

 private:
  StepReport train_step();
  std::vector<MicroBatchMetrics> run_micro_batches();
  bool wants_routing() const;
  void report_routing(StepReport& report, const Metrics& metrics) const;
  std::string count_skipped_step(const StepReport& report, int64_t first_batch, bool spike,
                                 const StepInfo& info);
  void after_step(const StepReport& report);
  void log_step(const StepReport& report);
  void evaluate_now();
  void sample_now();
  void checkpoint_now();
  bool train();
  void resume_newest();
  Timing time_all(double seconds);
  double time_micro_batches();
  void time_evaluation(Timing& timing);
  void time_sample(Timing& timing);
  std::optional<std::vector<int32_t>> draw_sample(const GenerateOptions& options);
  void check_options() const;
  void require_same_ranks() const;
  void hand_out_buffers() const;
  void check_same(const CheckpointState& state) const;
  void take_total_steps(int64_t total);
  bool is_due(int64_t every) const;
  bool spreads_experts() const;
  bool is_asked_to_stop() const;
  bool all_are_asked_to_stop() const;
  bool owes_evaluation() const;
  bool owes_sample() const;
  void catch_up();
  std::string key_of(const Tensor& parameter);
  /// For errors: what it does at its step.
  void set_place(const char* doing) const;

  Ref<Module> model_;
  Optimizer& optimizer_;
  Loader loader_;
  TokenDataset validation_;
  TrainerOptions options_;
  TrainerCallbacks callbacks_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  dist::Comm comm_;
  std::shared_ptr<ExpertParallel> experts_;
  std::unique_ptr<DataParallel> parallel_;
  uint64_t dropout_seed_ = 0;  // of the streams of micro-batches
  SpikeStatistics spikes_;
  std::unique_ptr<JsonLines> metrics_, samples_;  // of rank 0
  int64_t step_ = 0, saved_step_ = -1, evaluated_step_ = -1, sampled_step_ = -1;
  double train_seconds_ = 0;
  std::optional<double> val_loss_;
  bool evaluates_rest_ = true;
};

}  // namespace olm::nn
