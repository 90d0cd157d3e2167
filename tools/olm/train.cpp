#include <fmt/format.h>

#include <cstdio>

#include <olm/engine/comm.h>

#include "tools/olm/assemble.h"
#include "tools/olm/chart.h"
#include "tools/olm/command_line.h"
#include "tools/olm/commands.h"
#include "tools/olm/presets.h"
#include "tools/olm/progress.h"
#include "tools/olm/ranks.h"
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

/// True once a signal came to this rank or another.
std::function<bool()> asks_to_stop() {
  return [told = false]() mutable {
    if (stop_signal() == 0) return dist::asked_to_stop();
    if (!told) dist::ask_all_to_stop();
    return told = true;
  };
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
                progress.line(fmt::format("step {}/{}  validation loss {}", r.step, r.total_steps,
                                          loss_text(r.loss)));
              },
          .on_sample =
              [&](const nn::SampleReport& r) {
                progress.line(
                    fmt::format("step {}  sample: {}", r.step, Json(r.prompt + r.text).dump()));
              },
          .on_checkpoint = [&](int64_t, const std::string& path) { publish(run.folder, path); },
          .should_stop = asks_to_stop()};
}

/// Says what is about to happen.
void print(const Plan& p, Device device) {
  const std::string place = dist::world().size() > 1 ? " per rank"
                            : device == cpu          ? ""
                                                     : detail::concat(" on ", device);
  fmt::print(
      "plan: {} parameters, {} memory{}, {} FLOPs per token, {} tokens per step, {} steps in "
      "about {}\n",
      grouped(p.parameters), bytes_text(p.memory), place, short_number(p.flops_per_token),
      grouped(p.tokens_per_step), p.steps_left, duration_text(p.seconds));
  std::fflush(stdout);
}

void introduce(const Run& run) {
  if (dist::world().size() > 1) fmt::print("ranks: {}\n", ranks_text(run.config));
  fmt::print("data: {}, {} training and {} validation tokens, {} tokenizer with {} ids\n",
             run.config.data.path, grouped(run.train.size()), grouped(run.validation.size()),
             run.tokenizer->name(), run.tokenizer->vocab_size());
  if (run.tokens.dropped() > 0) fmt::print("data: {}\n", dropped_text(run.tokens.dropped()));
  if (!run.data_note.empty()) fmt::print("data: {}\n", run.data_note);
  fmt::print("device: {}\n", device_text(run.device));
  fmt::print("run folder: {}\n", run.folder);
  std::fflush(stdout);
}

/// The signal that stopped a run, whichever rank it came to.
int signal_of_any_rank() {
  for (const std::string& signal : dist::world().all_gather(std::to_string(stop_signal())))
    if (signal != "0") return std::stoi(signal);
  return 0;
}

/// What there is to say at the end.
void conclude(const Run& run, const nn::Trainer& trainer, const nn::StepReport& last) {
  if (trainer.validation_loss())
    fmt::print("done: validation loss {} after {} steps\n", loss_text(*trainer.validation_loss()),
               trainer.step());
  else
    fmt::print("done: {} steps\n", trainer.step());
  fmt::print("{}report: {}/report.html\nsample: olm sample {} --prompt '...'\n", experts_text(last),
             run.folder, shell_word(run.folder));
}

void go_on(Run& run, nn::Trainer& trainer) {
  const int64_t steps = run.config.train.steps;
  resume(run, trainer);
  require(!run.steps_given || steps >= trainer.step(), "--steps: ", steps, " is less than the ",
          trainer.step(), " steps that the run in ", run.folder, " has done");
  if (run.steps_given) trainer.set_total_steps(steps);
  if (is_first_rank())
    fmt::print("resuming at step {} of {}\n", trainer.step(), trainer.total_steps());
}

int train_run(Run& run) {
  Progress progress;
  nn::StepReport last;
  const bool first = is_first_rank();
  nn::Trainer trainer(run.model, *run.optimizer, loader_of(run), run.validation,
                      trainer_options(run), callbacks(run, progress, last), run.tokenizer,
                      dist::world(), run.experts);
  if (run.resumed) go_on(run, trainer);
  if (first) write_folder(run);
  if (first) introduce(run);
  catch_signals();
  const Plan expected = plan(run, trainer);
  if (first) print(expected, run.device);
  const bool done = trainer.run();
  progress.clear();
  if (first) write_results(run);
  const int signal = signal_of_any_rank();
  if (first && done) conclude(run, trainer, last);
  if (first && !done)
    fmt::print("stopped at step {} of {}; go on with: {}\n", trainer.step(), trainer.total_steps(),
               launched("olm train --resume " + shell_word(run.folder)));
  return done ? 0 : 128 + signal;
}

/// Checks that the run can be what the ranks are asked for, and holds its folder on the first one.
void open_folder(Run& run) {
  const int64_t ranks = dist::world().size(), micro_batches = run.config.train.accumulation;
  require(micro_batches >= ranks, "train.accumulation: ", ranks, " ranks want as many batches per ",
          "step, one for each at least, got ", micro_batches);
  require(ranks % run.config.dist.experts == 0, "dist.experts: wants a divisor of the number of ",
          "ranks, ", ranks, ", got ", run.config.dist.experts);
  if (!is_first_rank()) return;
  if (!run.resumed) return require_no_run(run.folder);
  run.lock = RunLock(run.folder);
  require_checkpoint(run.folder);
  remove_leftovers(run.folder, false);
}

/// Throws, before there is a folder, for experts that cannot be spread as the run wants it.
void check_experts(const Run& run) {
  const nn::DistributedOptions& d = run.config.dist;
  if (d.experts == 1) return;
  nn::require_spreadable_experts(*run.model, d.experts);
  nn::require_even_groups(dist::world().size() / d.experts, d.experts,
                          run.config.train.accumulation, d.deterministic);
}

/// Data and model: the first rank encodes the text and fills the folder, then come the others.
void load(Run& run) {
  const dist::Comm world = dist::world();
  dist::together(world, [&] {
    if (!is_first_rank()) return;
    load_data(run);
    load_model(run);
    trainer_options(run);  // what these refuse leaves no folder behind
    check_experts(run);
    if (!run.resumed) take_folder(run);
    if (world.size() > 1) keep_tokens(run);
  });
  const std::string hash = from_first_rank(run.tokens.source_hash());
  dist::together(world, [&] {
    if (is_first_rank()) return;
    load_data(run);
    require(run.tokens.source_hash() == hash, run.config.data.path,
            ": holds another text than on rank 0");
    load_model(run);
  });
  finish_model(run);
}

}  // namespace

int train(const TrainArgs& args) {
  const bool first = is_first_rank();
  if (args.print_presets) {
    if (first) fmt::print("{}", presets_table());
    return 0;
  }
  Run run{.resumed = !args.resume.empty()};
  const dist::Comm world = dist::world();
  dist::together(world, [&] { run.config = assemble(args); });
  for (const auto& [key, value] : args.flags) run.steps_given |= key == "train.steps";
  if (args.print_config) {
    if (first) fmt::print("{}", to_toml(run.config));
    return 0;
  }
  require_same_config(run.config, run.resumed);
  share_cores(run.config.train);
  run.folder = run.config.train.out;
  if (run.folder.empty()) run.folder = from_first_rank(default_folder(args));
  run.config.train.out = run.folder;
  dist::together(world, [&] {
    run.device = device_of_rank(run.config.train.device);
    open_folder(run);
  });
  load(run);
  limit_waiting(run.config);
  return train_run(run);
}

}  // namespace olm::tools
