#include <fmt/format.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/kernels/base/parallel.h>
#include <olm/nn/model_io.h>
#include <olm/nn/structure.h>
#include <olm/nn/training.h>

#include "tools/olm/assemble.h"
#include "tools/olm/chart.h"
#include "tools/olm/command_line.h"
#include "tools/olm/commands.h"
#include "tools/olm/corpus.h"
#include "tools/olm/model.h"
#include "tools/olm/presets.h"
#include "tools/olm/progress.h"
#include "tools/olm/report.h"
#include "tools/olm/run_folder.h"

namespace olm::tools {

namespace {

namespace fs = std::filesystem;

std::atomic<int> stop_signal{0};

extern "C" void ask_to_stop(int signal) { stop_signal.store(signal); }

/// The first SIGINT, SIGTERM or SIGHUP asks to stop; a second one ends the process. A hang-up that
/// is ignored, as under nohup, stays so.
void catch_signals() {
  struct sigaction action {};
  action.sa_handler = ask_to_stop;
  action.sa_flags = int(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction before {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);
}

/// Everything a run is made of.
struct Run {
  RunConfig config = {};
  std::string folder = {};
  bool resumed = false;
  bool steps_given = false;  // by a flag: they replace those of the checkpoint
  std::shared_ptr<const nn::Tokenizer> tokenizer = {};
  nn::TokenDataset tokens = {}, train = {}, validation = {};
  bool tokens_kept = false;  // in the folder
  std::string data_note = {};
  nn::Ref<nn::Module> model = {};
  std::unique_ptr<nn::Optimizer> optimizer = {};
  RunLock lock = {};
  Facts about = {};
};

/// Cuts the tokens into a part to train on and one to validate with.
void split_tokens(Run& run) {
  const RunConfig& c = run.config;
  std::tie(run.train, run.validation) = nn::split(run.tokens, c.data.train_fraction);
  const int64_t context = c.model.config.max_seq_len();
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

void load_data(Run& run) {
  const RunConfig& c = run.config;
  require(!c.data.path.empty(), "--data: a file or folder with text was wanted, none was named");
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

/// Encoding by BPE takes long, so that its tokens are kept in the folder, and used from there.
void keep_tokens(Run& run) {
  if (run.tokens_kept || !run.tokenizer->name().starts_with("bpe")) return;
  run.tokens.write_shard(shard_of(run));
  run.tokens = nn::TokenDataset::open_shard(shard_of(run));
  run.tokens_kept = true;
  split_tokens(run);
}

void load_model(Run& run) {
  RunConfig& c = run.config;
  c.model.config.vocab_size() = run.tokenizer->vocab_size();
  run.model = c.model.config.make();
  if (run.resumed) {
    nn::Ref<nn::Module> stored = nn::load_architecture(run.folder + "/model.json");
    require(nn::describe(*stored) == nn::describe(*run.model), run.folder,
            "/model.json: describes another architecture than run.toml");
    run.model = std::move(stored);  // tied as it was trained
  }
  nn::set_recompute(*run.model, c.train.recompute);
  c.model.config.init(*run.model, {.seed = uint64_t(c.train.seed)});
  if (!c.train.init_from.empty() && !run.resumed)
    nn::load_weights(*run.model, c.train.init_from + "/model.safetensors");
  run.optimizer = make_optimizer(c.optim, *run.model);
}

/// The configuration as it is stored: paths hold wherever the run goes on from.
RunConfig stored_config(const Run& run) {
  RunConfig stored = run.config;
  stored.data.path = fs::absolute(stored.data.path).lexically_normal().string();
  if (!stored.train.init_from.empty())
    stored.train.init_from = fs::absolute(stored.train.init_from).lexically_normal().string();
  return stored;
}

/// Makes the folder of a new run, for this process alone.
void take_folder(Run& run) {
  check_texts(stored_config(run));
  make_directories(run.folder);
  run.lock = RunLock(run.folder);
  require_no_run(run.folder);
  remove_leftovers(run.folder, true);
  // First, since it marks the folder as that of a run, which is no text.
  nn::save_architecture(*run.model, run.folder + "/model.json");
  keep_tokens(run);
}

/// Writes the files that say what the run is.
void write_folder(Run& run) {
  write_file(run.folder + "/run.toml", to_toml(stored_config(run)));
  if (run.resumed) return keep_tokens(run);
  run.tokenizer->save(run.folder + "/tokenizer.json");
}

/// The id that ends documents where tokens attend within theirs.
std::optional<int64_t> end_of_text(const Run& run) {
  if (!run.config.train.document_mask) return {};
  const std::optional<int32_t> id = run.tokenizer->eot_id();
  require(id.has_value(), "train.document_mask: the ", run.tokenizer->name(),
          " tokenizer has no <|endoftext|>, which ends a document");
  return *id;
}

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
          .sample = {.tokens = c.sample.tokens,
                     .temperature = c.sample.temperature,
                     .top_k = c.sample.top_k,
                     .top_p = c.sample.top_p,
                     .seed = uint64_t(c.sample.seed),
                     .context = c.model.config.max_seq_len(),
                     .dtype = c.train.dtype},
          .prompt = prompt_ids(*run.tokenizer, c.sample.prompt),
          .end_of_text = end_of_text(run)};
}

nn::TrainerCallbacks callbacks(const Run& run, Progress& progress) {
  double pace = 0;  // seconds per step, averaged
  double before = 0;
  return {.on_step =
              [&progress, pace, before](const nn::StepReport& r) mutable {
                const double seconds = before > 0 ? r.train_seconds - before : 0;
                before = r.train_seconds;
                if (seconds > 0) pace = pace == 0 ? seconds : 0.95 * pace + 0.05 * seconds;
                if (!r.skipped.empty()) progress.line(r.skipped);
                progress.update({r.step, r.total_steps, r.loss, r.tokens_per_second,
                                 pace * double(r.total_steps - r.step)});
              },
          .on_eval =
              [&](const nn::EvalReport& r) {
                progress.line(fmt::format("step {}/{}  validation loss {:.4f}", r.step,
                                          r.total_steps, r.loss));
              },
          .on_sample =
              [&](const nn::SampleReport& r) {
                progress.line(
                    fmt::format("step {}  sample: {}", r.step, Json(r.prompt + r.text).dump()));
              },
          .on_checkpoint = [&](int64_t, const std::string& path) { publish(run.folder, path); },
          .should_stop = [] { return stop_signal.load() != 0; }};
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

/// Says what is about to happen, and fixes the number of steps where minutes were given.
void plan(Run& run, nn::Trainer& trainer) {
  const RunConfig& c = run.config;
  const auto begin = std::chrono::steady_clock::now();
  // What the optimizer will hold beside each weight.
  const double moments = c.optim.optimizer == "adamw" ? 2 : 1;
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
  const int64_t tokens = c.train.batch_size * c.train.accumulation * c.model.config.max_seq_len();
  // Values, gradients, and the moments that the first step will make.
  const double memory = double(t.peak_bytes) + double(parameters) * 4 * moments;
  // Of forward and backward.
  const double flops = 3 * nn::forward_flops_per_token(*run.model, c.model.config.max_seq_len());
  const int64_t left = trainer.total_steps() - trainer.step();
  run.about = {
      {"parameters", grouped(parameters)},
      {"memory", bytes_text(memory)},
      {"FLOPs per token", short_number(flops)},
      {"tokens per step", grouped(tokens)},
      {"steps", grouped(trainer.total_steps())},
      {"training tokens", grouped(run.train.size())},
      {"validation tokens", grouped(run.validation.size())},
      {"vocabulary", fmt::format("{} ({})", run.tokenizer->vocab_size(), run.tokenizer->name())}};
  if (active != parameters) run.about.emplace_back("active parameters", grouped(active));
  fmt::print(
      "plan: {} parameters, {} memory, {} FLOPs per token, {} tokens per step, {} steps in "
      "about {}\n",
      grouped(parameters), bytes_text(memory), short_number(flops), grouped(tokens), left,
      duration_text(cost.once + double(left) * cost.step));
  std::fflush(stdout);
}

void finish(const Run& run) {
  const std::string metrics = run.folder + "/metrics.jsonl";
  if (file_exists(metrics))
    write_file(run.folder + "/metrics.csv", nn::metrics_csv(nn::JsonLines::read(metrics)));
  write_report(run.folder, run.about, machine_facts());
}

void introduce(const Run& run) {
  fmt::print("data: {}, {} training and {} validation tokens, {} tokenizer with {} ids\n",
             run.config.data.path, grouped(run.train.size()), grouped(run.validation.size()),
             run.tokenizer->name(), run.tokenizer->vocab_size());
  if (!run.data_note.empty()) fmt::print("data: {}\n", run.data_note);
  fmt::print("run folder: {}\n", run.folder);
  std::fflush(stdout);
}

int train_run(Run& run) {
  Progress progress;
  const TrainConfig& t = run.config.train;
  const nn::TrainerOptions options = trainer_options(run);
  if (!run.resumed) take_folder(run);
  nn::Loader loader(run.train, {.batch = t.batch_size,
                                .context = run.config.model.config.max_seq_len(),
                                .seed = uint64_t(t.seed)});
  nn::Trainer trainer(run.model, *run.optimizer, std::move(loader), run.validation, options,
                      callbacks(run, progress), run.tokenizer);
  if (run.resumed) {
    trainer.resume();
    require(!run.steps_given || t.steps >= trainer.step(), "--steps: ", t.steps,
            " is less than the ", trainer.step(), " steps that the run in ", run.folder,
            " has done");
    if (run.steps_given) trainer.set_total_steps(t.steps);
    const nn::Checkpoints checkpoints(run.folder);
    publish(run.folder, checkpoints.path(checkpoints.steps().back()));
    fmt::print("resuming at step {} of {}\n", trainer.step(), trainer.total_steps());
  }
  write_folder(run);
  introduce(run);
  catch_signals();
  plan(run, trainer);
  const bool done = trainer.run();
  progress.clear();
  finish(run);
  if (!done) {
    fmt::print("stopped at step {} of {}; go on with: olm train --resume {}\n", trainer.step(),
               trainer.total_steps(), shell_word(run.folder));
    return 128 + stop_signal.load();
  }
  if (trainer.validation_loss())
    fmt::print("done: validation loss {:.4f} after {} steps\n", *trainer.validation_loss(),
               trainer.step());
  else
    fmt::print("done: {} steps\n", trainer.step());
  fmt::print("report: {}/report.html\nsample: olm sample {} --prompt '...'\n", run.folder,
             shell_word(run.folder));
  return 0;
}

}  // namespace

int train(const TrainArgs& args) {
  if (args.print_presets) {
    fmt::print("{}", presets_table());
    return 0;
  }
  Run run{.config = assemble(args), .resumed = !args.resume.empty()};
  for (const auto& [key, value] : args.flags) run.steps_given |= key == "train.steps";
  if (args.print_config) {
    fmt::print("{}", to_toml(run.config));
    return 0;
  }
  if (run.config.train.threads > 0) set_threads(int(run.config.train.threads));
  run.folder = run.config.train.out;
  if (run.folder.empty()) run.folder = default_folder(args);
  run.config.train.out = run.folder;
  if (!run.resumed) require_no_run(run.folder);
  if (run.resumed) {
    run.lock = RunLock(run.folder);
    remove_leftovers(run.folder, false);
  }
  load_data(run);
  load_model(run);
  return train_run(run);
}

}  // namespace olm::tools
