#include "tools/olm/run.h"

#include <fmt/format.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include <olm/engine/comm.h>
#include <olm/engine/file.h>
#include <olm/nn/model_io.h>
#include <olm/nn/structure.h>

#include "tools/olm/chart.h"
#include "tools/olm/corpus.h"
#include "tools/olm/model.h"
#include "tools/olm/open.h"
#include "tools/olm/ranks.h"
#include "tools/olm/report.h"

namespace olm::tools {

namespace {

namespace fs = std::filesystem;

std::atomic<int> last_signal{0};

extern "C" void ask_to_stop(int signal) { last_signal.store(signal); }

/// Cuts the tokens into a part to train on and one to validate with.
void split_tokens(Run& run) {
  const RunConfig& c = run.config;
  std::tie(run.train, run.validation) = nn::split(run.tokens, c.data.train_fraction);
  const int64_t context = run.context;
  if (run.train.size() < context + 1)
    throw FileError(c.data.path, ": has ", run.tokens.size(), " tokens, ", run.train.size(),
                    " of them for training; a context of ", context, " wants at least ",
                    context + 1);
  if (run.validation.size() >= context + 1) return;
  run.data_note = fmt::format("no validation: its {} tokens are less than a context of {}",
                              run.validation.size(), context);
  run.validation = {};
}

std::string shard_of(const Run& run) { return run.folder + "/tokens.safetensors"; }

/// Encoding by BPE takes long, so that its tokens are kept in the folder, and used from there.
bool are_kept(const nn::Tokenizer& tokenizer) { return tokenizer.name().starts_with("bpe"); }

/// The configuration as it is stored: paths hold wherever the run goes on from.
RunConfig stored_config(const Run& run) {
  RunConfig stored = run.config;
  if (stored.model.is_described()) stored.model.description = "model.json";  // in its own folder
  stored.data.path = fs::absolute(stored.data.path).lexically_normal().string();
  if (!stored.train.init_from.empty())
    stored.train.init_from = fs::absolute(stored.train.init_from).lexically_normal().string();
  return stored;
}

/// Seconds that training takes: `once`, and for each step on average.
struct Cost {
  double once = 0, step = 0;
};

Cost cost_of(const TrainConfig& c, const nn::Timing& t, double checkpoint_seconds) {
  Cost cost{.step = t.step_seconds};
  const auto add = [&](double seconds, int64_t every, int64_t extra) {
    cost.once += seconds * double(extra);
    if (every > 0) cost.step += seconds / double(every);
  };
  add(t.eval_seconds, c.eval_every, 2);  // before the first step and after the last one
  add(t.sample_seconds, c.sample_every, 1);
  add(checkpoint_seconds, c.checkpoint_every, 1);
  return cost;
}

/// What a rank but the first reads: the tokenizer from the folder, where the first one put it, and
/// the tokens too, or, where they are not kept, from this rank's copy of the text.
void join_data(Run& run) {
  run.tokenizer = nn::load_tokenizer(run.folder + "/tokenizer.json");
  if (are_kept(*run.tokenizer)) {
    run.tokens = nn::TokenDataset::open_shard(shard_of(run));
    run.tokens_kept = true;
  } else {
    run.tokens = nn::TokenDataset(open_corpus(run.config.data.path), *run.tokenizer);
  }
}

}  // namespace

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = ask_to_stop;
  action.sa_flags = SA_RESTART;
  // Schedulers send SIGTERM more than once, and SIGKILL when they mean it.
  sigaction(SIGTERM, &action, nullptr);
  // Slurm's --signal reaches a program of the batch script too.
  if (!launch().launcher.empty() || std::getenv("SLURM_JOB_ID"))
    for (const int passed_on : {SIGUSR1, SIGUSR2}) sigaction(passed_on, &action, nullptr);
  struct sigaction before {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);
  action.sa_flags |= int(SA_RESETHAND);  // a second Ctrl-C ends at once
  sigaction(SIGINT, &action, nullptr);
}

int stop_signal() { return last_signal.load(); }

void load_data(Run& run, const Run* same) {
  const RunConfig& c = run.config;
  require(!c.data.path.empty(), "--data: a file or folder with text was wanted, none was named");
  run.context = c.model.context();
  if (c.train.context) {
    const int64_t most = c.model.longest();
    require(most == 0 || *c.train.context <= most, "train.context: ", *c.train.context,
            " is more than the ", most, " tokens that the model takes");
    run.context = *c.train.context;
  }
  if (same) {
    run.tokenizer = same->tokenizer;
    run.tokens = same->tokens;
    return split_tokens(run);
  }
  if (!is_first_rank()) {
    join_data(run);
    return split_tokens(run);
  }
  const nn::Corpus corpus = open_corpus(c.data.path);
  if (!run.resumed) require_outside(corpus, run.folder);
  run.tokenizer = run.resumed ? nn::load_tokenizer(run.folder + "/tokenizer.json")
                              : make_tokenizer(c.data.tokenizer, corpus);
  if (run.resumed)
    if (auto kept = nn::TokenDataset::find_shard(shard_of(run), corpus, *run.tokenizer)) {
      run.tokens = *kept;
      run.tokens_kept = true;
    }
  if (!run.tokens_kept) run.tokens = nn::TokenDataset(corpus, *run.tokenizer);
  split_tokens(run);
}

namespace {
/// The weights of another program's model, in f32, and the files that belong to it.
void take_weights(Run& run) {
  nn::Pretrained from = nn::load_pretrained(run.config.train.init_from, {.dtype = f32});
  try {
    run.model->load_state_dict(from.model->state_dict());
  } catch (const Error& e) {
    throw FileError(run.config.train.init_from, ": ", e.what());
  }
  from.model = {};
  run.origin = std::move(from);
}
}  // namespace

void load_model(Run& run) {
  RunConfig& c = run.config;
  run.model = c.model.make(*run.tokenizer);
  if (run.resumed) {
    nn::Ref<nn::Module> stored = nn::load_architecture(run.folder + "/model.json");
    require(nn::describe(*stored) == nn::describe(*run.model), run.folder,
            "/model.json: describes another architecture than run.toml");
    run.model = std::move(stored);  // tied as it was trained
  }
  nn::set_recompute(*run.model, c.train.recompute);
  const bool begins_elsewhere = !c.train.init_from.empty() && !run.resumed;
  if (begins_elsewhere && is_foreign(c.train.init_from)) {
    take_weights(run);
  } else {
    c.model.init(*run.model, {.seed = uint64_t(c.train.seed)});
    if (begins_elsewhere) nn::load_weights(*run.model, c.train.init_from + "/model.safetensors");
  }
  run.model->to(run.device);
}

void finish_model(Run& run) {
  const RunConfig& c = run.config;
  if (c.dist.experts > 1) run.experts = nn::spread_experts(*run.model, c.dist.experts);
  run.optimizer = make_optimizer(c.optim, *run.model);
}

void keep_tokens(Run& run) {
  if (run.tokens_kept || !are_kept(*run.tokenizer)) return;
  run.tokens.write_shard(shard_of(run));
  run.tokens = nn::TokenDataset::open_shard(shard_of(run));
  run.tokens_kept = true;
  split_tokens(run);
}

void take_folder(Run& run) {
  check_texts(stored_config(run));
  make_directories(run.folder);
  run.lock = RunLock(run.folder);
  require_no_run(run.folder);
  remove_leftovers(run.folder, true);
  // First, since it marks the folder as that of a run, which is no text.
  nn::save_architecture(*run.model, run.folder + "/model.json");
  keep_tokens(run);
  if (run.origin.tokenizer) return nn::save_belongings(run.origin, run.folder);
  run.tokenizer->save(run.folder + "/tokenizer.json");
}

void write_folder(Run& run) {
  write_file(run.folder + "/run.toml", to_toml(stored_config(run)));
  keep_tokens(run);
}

nn::Loader loader_of(const Run& run) {
  const TrainConfig& t = run.config.train;
  return {run.train, {.batch = t.batch_size, .context = run.context, .seed = uint64_t(t.seed)}};
}

namespace {
/// The id that ends documents where tokens attend within theirs.
std::optional<int64_t> end_of_text(const Run& run) {
  if (!run.config.train.document_mask) return {};
  const std::optional<int32_t> id = run.tokenizer->eot_id();
  require(id.has_value(), "train.document_mask: the ", run.tokenizer->name(),
          " tokenizer has no <|endoftext|>, which ends a document");
  return *id;
}
}  // namespace

nn::TrainerOptions trainer_options(const Run& run) {
  const RunConfig& c = run.config;
  return {.folder = run.folder,
          .total_steps = c.train.steps,
          .accumulation = c.train.accumulation,
          .dtype = c.train.dtype,
          .seed = uint64_t(c.train.seed),
          .schedule = {.kind = c.optim.schedule,
                       .lr = c.optim.lr,
                       .min_lr = c.optim.min_lr,
                       .warmup_steps = c.optim.warmup_steps},
          .decay_fraction = c.optim.decay_fraction,
          .eval_every = c.train.eval_every,
          .sample_every = c.train.sample_every,
          .checkpoint_every = c.train.checkpoint_every,
          .spike_factor = c.train.spike_factor,
          .sample = c.sample.for_model(run.context, c.train.dtype),
          .prompt = prompt_ids(*run.tokenizer, c.sample.prompt),
          .end_of_text = end_of_text(run),
          .dist = c.dist};
}

void resume(Run& run, nn::Trainer& trainer) {
  trainer.resume();
  const nn::Checkpoints checkpoints(run.folder);
  if (is_first_rank()) publish(run.folder, checkpoints.path(checkpoints.steps().back()));
}

Plan plan(Run& run, nn::Trainer& trainer) {
  const RunConfig& c = run.config;
  const auto begin = std::chrono::steady_clock::now();
  // What the optimizer will hold, in all and, of all ranks together, beside each weight.
  const double held = double(trainer.parallel().cost().moment_bytes);
  const double moments = moments_per_weight(*run.optimizer);
  const bool timed = c.train.minutes > 0 && !run.resumed;
  // A short training is not measured for long.
  const nn::Timing t = trainer.measure(timed ? std::min(2.0, c.train.minutes * 60 / 20) : 2);
  const Cost cost = cost_of(c.train, t, timed ? trainer.time_weights() * (1 + moments) : 0);
  if (timed) {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    const double left = c.train.minutes * 60 - passed.count() - cost.once;
    trainer.set_total_steps(std::max<int64_t>(1, int64_t(left / cost.step)));
  }
  const int64_t parameters = run.model->num_parameters();
  const int64_t active = nn::active_parameters(*run.model);
  const int64_t tokens = c.train.batch_size * c.train.accumulation * run.context;
  // Values, gradients, and the moments that the first step will make of a new run.
  const double memory = double(t.peak_bytes) + (run.resumed ? 0 : held);
  // Of forward and backward.
  const double flops = 3 * nn::forward_flops_per_token(*run.model, run.context);
  const int64_t left = trainer.total_steps() - trainer.step();
  run.about = {
      {"parameters", grouped(parameters)},
      {"device", device_text(run.device)},
      {"memory", bytes_text(memory)},
      {"FLOPs per token", short_number(flops)},
      {"tokens per step", grouped(tokens)},
      {"steps", grouped(trainer.total_steps())},
      {"training tokens", grouped(run.train.size())},
      {"validation tokens", grouped(run.validation.size())},
      {"vocabulary", fmt::format("{} ({})", run.tokenizer->vocab_size(), run.tokenizer->name())}};
  if (dist::world().size() > 1) run.about.emplace_back("ranks", ranks_text(c));
  if (active != parameters) run.about.emplace_back("active parameters", grouped(active));
  return {.parameters = parameters,
          .tokens_per_step = tokens,
          .steps_left = left,
          .memory = memory,
          .flops_per_token = flops,
          .seconds = cost.once + double(left) * cost.step};
}

void write_results(const Run& run) {
  const std::string metrics = run.folder + "/metrics.jsonl";
  if (file_exists(metrics))
    write_file(run.folder + "/metrics.csv", nn::metrics_csv(nn::JsonLines::read(metrics)));
  write_report(run.folder, run.about, machine_facts());
}

}  // namespace olm::tools
