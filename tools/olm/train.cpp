#include <fmt/format.h>

#include <cstdio>

#include <olm/kernels/base/parallel.h>

#include "tools/olm/assemble.h"
#include "tools/olm/chart.h"
#include "tools/olm/command_line.h"
#include "tools/olm/commands.h"
#include "tools/olm/presets.h"
#include "tools/olm/progress.h"
#include "tools/olm/run.h"

namespace olm::tools {

namespace {

/// How the last step used experts, for readers; empty for models without.
std::string experts_text(const nn::StepReport& last) {
  if (last.loads.empty()) return "";
  size_t all = 0;
  int64_t idle = 0;
  for (const nn::ExpertLoad& load : last.loads) {
    all += load.tokens.size();
    idle += load.idle_experts();
  }
  return fmt::format(
      "experts: entropy of the load {:.2f} (1 is even), {} of {} idle at the last step{}\n",
      last.metrics.at("expert_entropy"), idle, all,
      idle > 0 ? "; load_balancing_coefficient of the routers evens them" : "");
}

/// `last` is kept at the newest step.
nn::TrainerCallbacks callbacks(const Run& run, Progress& progress, nn::StepReport& last) {
  double pace = 0;  // seconds per step, averaged
  double before = 0;
  return {.on_step =
              [&progress, &last, pace, before](const nn::StepReport& r) mutable {
                last = r;
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
          .should_stop = [] { return stop_signal() != 0; }};
}

/// Says what is about to happen.
void print(const Plan& p, Device device) {
  fmt::print(
      "plan: {} parameters, {} memory{}, {} FLOPs per token, {} tokens per step, {} steps in "
      "about {}\n",
      grouped(p.parameters), bytes_text(p.memory),
      device == cpu ? "" : detail::concat(" on ", device), short_number(p.flops_per_token),
      grouped(p.tokens_per_step), p.steps_left, duration_text(p.seconds));
  std::fflush(stdout);
}

void introduce(const Run& run) {
  fmt::print("data: {}, {} training and {} validation tokens, {} tokenizer with {} ids\n",
             run.config.data.path, grouped(run.train.size()), grouped(run.validation.size()),
             run.tokenizer->name(), run.tokenizer->vocab_size());
  if (run.tokens.dropped() > 0) fmt::print("data: {}\n", dropped_text(run.tokens.dropped()));
  if (!run.data_note.empty()) fmt::print("data: {}\n", run.data_note);
  fmt::print("device: {}\n", device_text(run.device));
  fmt::print("run folder: {}\n", run.folder);
  std::fflush(stdout);
}

int train_run(Run& run) {
  Progress progress;
  nn::StepReport last;
  const TrainConfig& t = run.config.train;
  const nn::TrainerOptions options = trainer_options(run);
  if (!run.resumed) take_folder(run);
  nn::Trainer trainer(run.model, *run.optimizer, loader_of(run), run.validation, options,
                      callbacks(run, progress, last), run.tokenizer);
  if (run.resumed) {
    resume(run, trainer);
    require(!run.steps_given || t.steps >= trainer.step(), "--steps: ", t.steps,
            " is less than the ", trainer.step(), " steps that the run in ", run.folder,
            " has done");
    if (run.steps_given) trainer.set_total_steps(t.steps);
    fmt::print("resuming at step {} of {}\n", trainer.step(), trainer.total_steps());
  }
  write_folder(run);
  introduce(run);
  catch_signals();
  print(plan(run, trainer), run.device);
  const bool done = trainer.run();
  progress.clear();
  write_results(run);
  if (!done) {
    fmt::print("stopped at step {} of {}; go on with: olm train --resume {}\n", trainer.step(),
               trainer.total_steps(), shell_word(run.folder));
    return 128 + stop_signal();
  }
  if (trainer.validation_loss())
    fmt::print("done: validation loss {:.4f} after {} steps\n", *trainer.validation_loss(),
               trainer.step());
  else
    fmt::print("done: {} steps\n", trainer.step());
  fmt::print("{}report: {}/report.html\nsample: olm sample {} --prompt '...'\n", experts_text(last),
             run.folder, shell_word(run.folder));
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
  run.device = compute_device(run.config.train.device, "train.device");
  run.folder = run.config.train.out;
  if (run.folder.empty()) run.folder = default_folder(args);
  run.config.train.out = run.folder;
  if (!run.resumed) require_no_run(run.folder);
  if (run.resumed) {
    run.lock = RunLock(run.folder);
    require_checkpoint(run.folder);
    remove_leftovers(run.folder, false);
  }
  load_data(run);
  load_model(run);
  return train_run(run);
}

}  // namespace olm::tools
