#include <fmt/format.h>
#include <signal.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/kernels/base/parallel.h>
#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

#include "tools/olm/assemble.h"
#include "tools/olm/chart.h"
#include "tools/olm/commands.h"
#include "tools/olm/model.h"
#include "tools/olm/presets.h"
#include "tools/olm/progress.h"
#include "tools/olm/report.h"

namespace olm::tools {

namespace {

namespace fs = std::filesystem;

std::atomic<int> stop_signal{0};

extern "C" void ask_to_stop(int signal) { stop_signal.store(signal); }

/// The first SIGINT or SIGTERM asks to stop; a second one ends the process.
void catch_signals() {
  struct sigaction action {};
  action.sa_handler = ask_to_stop;
  action.sa_flags = int(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

/// Everything a run is made of.
struct Run {
  RunConfig config = {};
  std::string folder = {};
  bool resumed = false;
  bool steps_given = false;  // by a flag: they replace those of the checkpoint
  std::shared_ptr<const nn::Tokenizer> tokenizer = {};
  nn::TokenDataset train = {}, validation = {};
  std::string data_note = {};
  nn::Ref<nn::Module> model = {};
  std::unique_ptr<nn::Optimizer> optimizer = {};
  RunLock lock = {};
  Facts about = {};
};

void load_data(Run& run) {
  RunConfig& c = run.config;
  require(!c.data.path.empty(), "--data: a file or folder with text was wanted, none was named");
  const nn::Corpus corpus = nn::Corpus::open(c.data.path);
  run.tokenizer = run.resumed ? nn::load_tokenizer(run.folder + "/tokenizer.json")
                              : make_tokenizer(c.data.tokenizer, corpus);
  const nn::TokenDataset all(corpus, *run.tokenizer);
  std::tie(run.train, run.validation) = nn::split(all, c.data.train_fraction);
  const int64_t context = c.model.max_seq_len;
  if (run.train.size() < context + 1)
    throw FileError(c.data.path, ": has ", all.size(), " tokens, ", run.train.size(),
                    " of them for training; a context of ", context, " wants at least ",
                    context + 1);
  if (run.validation.size() < context + 1) {
    run.data_note = fmt::format("no validation: its {} tokens are less than a context of {}",
                                run.validation.size(), context);
    run.validation = {};
  }
}

void load_model(Run& run) {
  const RunConfig& c = run.config;
  run.model = make_model(c.model, run.tokenizer->vocab_size());
  if (run.resumed) {
    const nn::Ref<nn::Module> stored = nn::load_architecture(run.folder + "/model.json");
    require(nn::describe(*stored) == nn::describe(*run.model), run.folder,
            "/model.json: describes another architecture than run.toml");
  }
  nn::init_gpt2(*run.model, c.model.num_layers, {.seed = uint64_t(c.train.seed)});
  if (!c.train.init_from.empty() && !run.resumed)
    nn::load_weights(*run.model, c.train.init_from + "/model.safetensors");
  run.optimizer = make_optimizer(c.optim, *run.model);
}

/// Makes the folder and the files that say what the run is.
void write_folder(Run& run) {
  RunConfig stored = run.config;
  stored.data.path = fs::absolute(stored.data.path).lexically_normal().string();
  if (!stored.train.init_from.empty())
    stored.train.init_from = fs::absolute(stored.train.init_from).lexically_normal().string();
  check_texts(stored);
  if (!run.resumed) {
    make_directories(run.folder);
    run.lock = RunLock(run.folder);
    require_no_run(run.folder);
  }
  write_file(run.folder + "/run.toml", to_toml(stored));
  if (run.resumed) return;
  run.tokenizer->save(run.folder + "/tokenizer.json");
  nn::save_architecture(*run.model, run.folder + "/model.json");
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
                     .context = c.model.max_seq_len,
                     .dtype = c.train.dtype},
          .prompt = prompt_ids(*run.tokenizer, c.sample.prompt)};
}

/// The newest checkpoint's weights under the name by which a finished model is found.
void publish(const std::string& folder, const std::string& checkpoint) {
  const std::string from = checkpoint + "/model.safetensors", to = folder + "/model.safetensors";
  const std::string aside = to + ".tmp";
  std::error_code error;
  fs::remove(aside, error);
  fs::create_hard_link(from, aside, error);
  if (error) {  // a file system without links
    write_file(to, MappedFile::open(from)->text());
    return;
  }
  move_into_place(aside, to);
  fs::remove(aside, error);  // still there where both were links to one file already
}

nn::TrainerCallbacks callbacks(const Run& run, Progress& progress, nn::Trainer*& trainer) {
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
                                          trainer->total_steps(), r.loss));
              },
          .on_sample =
              [&](const nn::SampleReport& r) {
                progress.line(
                    fmt::format("step {}  sample: {}", r.step, Json(r.prompt + r.text).dump()));
              },
          .on_checkpoint = [&](int64_t, const std::string& path) { publish(run.folder, path); },
          .should_stop = [] { return stop_signal.load() != 0; }};
}

/// Says what is about to happen, and fixes the number of steps where minutes were given.
void plan(Run& run, nn::Trainer& trainer) {
  const RunConfig& c = run.config;
  const nn::Timing t = trainer.measure();
  const double eval_share =
      c.train.eval_every > 0 ? t.eval_seconds / double(c.train.eval_every) : 0;
  if (c.train.minutes > 0 && !run.resumed) {
    const double budget = c.train.minutes * 60 - 2 * t.eval_seconds;
    trainer.set_total_steps(std::max<int64_t>(1, int64_t(budget / (t.step_seconds + eval_share))));
  }
  const int64_t parameters = run.model->num_parameters();
  const int64_t tokens = c.train.batch_size * c.train.accumulation * c.model.max_seq_len;
  // Values, gradients, and the moments that the first step will make.
  const double moments = c.optim.optimizer == "adamw" ? 2 : 1;
  const double memory = double(t.peak_bytes) + double(parameters) * 4 * moments;
  const double flops = flops_per_token(c.model, *run.model);
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
  fmt::print(
      "plan: {} parameters, {} memory, {} FLOPs per token, {} tokens per step, {} steps in "
      "about {}\n",
      grouped(parameters), bytes_text(memory), short_number(flops), grouped(tokens), left,
      duration_text(double(left) * (t.step_seconds + eval_share)));
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
  nn::Trainer* handle = nullptr;
  const TrainConfig& t = run.config.train;
  nn::Loader loader(
      run.train,
      {.batch = t.batch_size, .context = run.config.model.max_seq_len, .seed = uint64_t(t.seed)});
  nn::Trainer trainer(run.model, *run.optimizer, std::move(loader), run.validation,
                      trainer_options(run), callbacks(run, progress, handle), run.tokenizer);
  handle = &trainer;
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
               trainer.total_steps(), run.folder);
    return 128 + stop_signal.load();
  }
  if (trainer.validation_loss())
    fmt::print("done: validation loss {:.4f} after {} steps\n", *trainer.validation_loss(),
               trainer.step());
  else
    fmt::print("done: {} steps\n", trainer.step());
  fmt::print("report: {0}/report.html\nsample: olm sample {0} --prompt '...'\n", run.folder);
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
  if (run.resumed) run.lock = RunLock(run.folder);
  load_data(run);
  load_model(run);
  return train_run(run);
}

}  // namespace olm::tools
