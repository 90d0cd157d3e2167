// Variants of a model trained by turns on the same batches.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/kernels/base/parallel.h>
#include <olm/nn/cost.h>

#include "tools/olm/assemble.h"
#include "tools/olm/command_line.h"
#include "tools/olm/commands.h"
#include "tools/olm/comparison.h"
#include "tools/olm/model.h"
#include "tools/olm/presets.h"
#include "tools/olm/progress.h"
#include "tools/olm/run.h"

namespace olm::tools {

namespace {

namespace fs = std::filesystem;

/// A variant with its turn: it trains until `left` steps are made, and what is due at the last one
/// (an evaluation, a sample) is made in the same turn.
struct Variant {
  std::string name = {};
  Run run = {};
  std::unique_ptr<nn::Trainer> trainer = {};
  int64_t left = 0;
  bool owes_eval = false, owes_sample = false, done = false;
};
using Variants = std::vector<std::unique_ptr<Variant>>;

/// "gated" of runs/gated.json and of the run folder runs/gated/; a name that no other has, nor the
/// folder of the comparison or one of its files.
std::string name_of(const std::string& variant, const Variants& others) {
  std::string base = fs::path(variant).lexically_normal().filename().string();
  if (base.empty()) base = fs::path(variant).lexically_normal().parent_path().filename().string();
  if (base.ends_with(".json")) base.resize(base.size() - 5);
  if (base.empty() || base == "." || base == "..") base = "variant";
  const auto taken = [&](const std::string& name) {
    return Comparison::is_file(name) ||
           std::any_of(others.begin(), others.end(), [&](auto& v) { return v->name == name; });
  };
  std::string name = base;
  for (int i = 2; taken(name); ++i) name = base + "-" + std::to_string(i);
  return name;
}

nn::TrainerCallbacks callbacks(Variant& v, Progress& progress) {
  const auto is_due = [](const nn::StepReport& r, int64_t every) {
    return every > 0 && (r.step % every == 0 || r.step == r.total_steps);
  };
  return {
      .on_step =
          [&v, &progress, is_due](const nn::StepReport& r) {
            const TrainConfig& t = v.run.config.train;
            --v.left;
            v.owes_eval = v.run.validation.size() > 0 && is_due(r, t.eval_every);
            v.owes_sample = is_due(r, t.sample_every);
            if (!r.skipped.empty()) progress.line(v.name + ": " + r.skipped);
            const double left = double(r.total_steps - r.step);
            progress.update({r.step, r.total_steps, r.loss, r.tokens_per_second,
                             left * r.train_seconds / double(r.step)});
          },
      .on_eval =
          [&v, &progress](const nn::EvalReport& r) {
            v.owes_eval = false;
            progress.line(fmt::format("{}: step {}/{}  validation loss {}", v.name, r.step,
                                      r.total_steps, loss_text(r.loss)));
          },
      .on_sample = [&v](const nn::SampleReport&) { v.owes_sample = false; },
      .on_checkpoint = [&v](int64_t, const std::string& path) { publish(v.run.folder, path); },
      .should_stop =
          [&v] { return stop_signal() != 0 || (v.left <= 0 && !v.owes_eval && !v.owes_sample); }};
}

/// Data, model and folder of a variant, and its trainer at the step where it goes on.
void prepare(Variant& v, const Variant* first, Progress& progress) {
  Run& run = v.run;
  run.device = compute_device(run.config.train.device, "train.device");
  if (!run.resumed) require_no_run(run.folder);
  if (run.resumed) run.lock = RunLock(run.folder);
  load_data(run, first ? &first->run : nullptr);
  require(!first || run.context == first->run.context, v.name, " has a context of ", run.context,
          " tokens, ", first ? first->name : "", " one of ", first ? first->run.context : 0,
          "; with --context they read the same batches");
  load_model(run);
  finish_model(run);
  if (!run.resumed) take_folder(run);
  v.trainer =
      std::make_unique<nn::Trainer>(run.model, *run.optimizer, loader_of(run), run.validation,
                                    trainer_options(run), callbacks(v, progress), run.tokenizer);
  if (run.resumed) resume(run, *v.trainer);
  write_folder(run);
}

/// Flags that --context is added to for a variant whose layers take any number of tokens: that of
/// the first variant whose layers do not.
FlagValues with_context(FlagValues flags, const std::string& variant,
                        const std::vector<std::string>& all) {
  const auto is_context = [](const auto& flag) { return flag.first == "model.max_seq_len"; };
  if (std::any_of(flags.begin(), flags.end(), is_context) || find_model(variant).longest() > 0)
    return flags;
  for (const std::string& other : all) {
    const int64_t longest = find_model(other).longest();
    if (longest == 0) continue;
    flags.emplace_back("model.max_seq_len", std::to_string(longest));
    break;
  }
  return flags;
}

/// Variants as they were named, each with all that they share.
Variants new_variants(const AblateArgs& args, const std::string& folder) {
  require(args.variants.size() >= 2, "at least two variants were wanted, got ",
          args.variants.size());
  Variants variants;
  for (const std::string& given : args.variants) {
    TrainArgs one = args.train;
    one.model = given;
    one.flags = with_context(std::move(one.flags), given, args.variants);
    const std::string name = name_of(given, variants);
    variants.push_back(std::make_unique<Variant>());
    variants.back()->name = name;
    Run& run = variants.back()->run;
    run.config = assemble(one);
    require(run.config.train.init_from.empty(),
            "every variant begins at random; --init-from has no use");
    run.folder = run.config.train.out = folder + "/" + name;
  }
  return variants;
}

Variants old_variants(const AblateArgs& args) {
  require(args.variants.empty() && args.train.config.empty() && args.train.preset.empty() &&
              args.train.flags.empty(),
          "--resume: a comparison that goes on keeps its variants and their configuration");
  Variants variants;
  for (const Comparison::Entry& entry : Comparison::read(args.resume).entries) {
    variants.push_back(std::make_unique<Variant>());
    Variant& v = *variants.back();
    v.name = entry.name;
    v.run.folder = args.resume + "/" + entry.name;
    v.run.resumed = true;
    v.run.config = assemble({.resume = v.run.folder});
  }
  return variants;
}

/// Facts of a variant that its log does not hold.
Comparison::Entry entry_of(const Variant& v) {
  const TrainConfig& t = v.run.config.train;
  const nn::Cost cost =
      nn::cost_of(*v.run.model, {.batch = t.batch_size,
                                 .context = v.run.context,
                                 .dtype = t.dtype,
                                 .moments = moments_per_weight(*v.run.optimizer)});
  return {.name = v.name,
          .parameters = cost.parameters,
          .flops_per_token = cost.training_flops_per_token,
          .memory = cost.training_bytes(),
          .total_steps = v.trainer->total_steps()};
}

/// A turn of `steps`; with 0 what is there is written as a checkpoint.
void take_turn(Variant& v, int64_t steps) {
  v.left = steps;
  v.owes_eval = v.owes_sample = false;
  v.done = v.trainer->run();
}

bool all_done(const Variants& variants) {
  return std::all_of(variants.begin(), variants.end(), [](auto& v) { return v->done; });
}

int compare(const AblateArgs& args, const std::string& folder, Variants& variants) {
  Progress progress;
  for (auto& v : variants) prepare(*v, v == variants[0] ? nullptr : variants[0].get(), progress);
  const Run& first = variants[0]->run;
  fmt::print("data: {}, {} training and {} validation tokens, {} tokenizer with {} ids\n",
             first.config.data.path, grouped(first.train.size()), grouped(first.validation.size()),
             first.tokenizer->name(), first.tokenizer->vocab_size());
  catch_signals();
  Comparison comparison{.folder = folder};
  int64_t slice = args.slice;
  variants[0]->trainer->measure(0.5);  // so that none of the plans is made by a cold machine
  for (auto& v : variants) {
    const Plan p = plan(v->run, *v->trainer);
    if (slice == 0)
      slice = std::max<int64_t>(1, int64_t(5 * double(p.steps_left) / std::max(p.seconds, 1e-6)));
    take_turn(*v, 0);
    comparison.entries.push_back(entry_of(*v));
    fmt::print("{}: {} parameters, {} steps in about {}\n", v->name, grouped(p.parameters),
               p.steps_left, duration_text(p.seconds));
    std::fflush(stdout);
  }
  comparison.write();  // from here on it can be resumed
  while (!all_done(variants) && stop_signal() == 0)
    for (auto& v : variants)
      if (!v->done && stop_signal() == 0) take_turn(*v, slice);
  progress.clear();
  for (auto& v : variants) write_results(v->run);
  comparison.write();
  fmt::print("{}", comparison.text());
  fmt::print("report: {}/report.html\n", folder);
  if (all_done(variants)) return 0;
  fmt::print("stopped; go on with: olm ablate --resume {}\n", shell_word(folder));
  return 128 + stop_signal();
}

}  // namespace

int ablate(const AblateArgs& args) {
  require(args.slice >= 0, "--slice: a number of steps was wanted, got ", args.slice);
  std::string folder = args.resume;
  if (folder.empty())
    for (const auto& [key, value] : args.train.flags)
      if (key == "train.out") folder = value;
  if (folder.empty()) folder = default_folder({.preset = "ablation"});
  Variants variants = args.resume.empty() ? new_variants(args, folder) : old_variants(args);
  const int64_t threads = variants[0]->run.config.train.threads;
  if (threads > 0) set_threads(int(threads));
  return compare(args, folder, variants);
}

}  // namespace olm::tools
