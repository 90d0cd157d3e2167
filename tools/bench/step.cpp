// olm bench step: whole training steps of three language models.
#include <fmt/format.h>
#include <sys/resource.h>

#include <cmath>

#include <olm/engine/allocator.h>
#include <olm/engine/backend.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/instruction_set.h>
#include <olm/nn/models.h>
#include <olm/nn/parallel_plan.h>
#include <olm/nn/version.h>

#include "tools/bench/bench.h"
#include "tools/olm/commands.h"
#include "tools/olm/machine.h"

namespace olm::tools {

namespace {

struct Preset {
  std::string name;
  nn::ModelConfig model;
  int64_t batch = 0;
  int64_t tokens() const { return batch * model.max_seq_len(); }
};

/// S: the character model of nanoGPT. M: GPT-2 124M. L: a Llama. `tiny` is there to be quick.
const std::vector<Preset>& step_presets() {
  static const std::vector<Preset> table = {
      {"S",
       nn::DecoderConfig{.family = "gpt2",
                         .vocab_size = 65,
                         .embed_dim = 384,
                         .num_layers = 6,
                         .num_heads = 6,
                         .max_seq_len = 256,
                         .dropout = 0,
                         .bias = false},
       12},
      {"M",
       nn::DecoderConfig{.family = "gpt2",
                         .vocab_size = 50257,
                         .embed_dim = 768,
                         .num_layers = 12,
                         .num_heads = 12,
                         .max_seq_len = 64,
                         .dropout = 0,
                         .gelu_tanh = true},
       4},
      {"L",
       nn::DecoderConfig{.family = "llama",
                         .vocab_size = 8192,
                         .embed_dim = 512,
                         .intermediate_size = 1408,
                         .num_layers = 8,
                         .num_heads = 8,
                         .num_kv_heads = 4,
                         .max_seq_len = 512,
                         .tie_weights = false},
       8},
      {"tiny",
       nn::DecoderConfig{.family = "gpt2",
                         .vocab_size = 65,
                         .embed_dim = 32,
                         .num_layers = 2,
                         .num_heads = 2,
                         .max_seq_len = 16,
                         .dropout = 0,
                         .bias = false},
       2},
  };
  return table;
}

const Preset& find_step_preset(const std::string& name) {
  for (const Preset& p : step_presets())
    if (name == p.name) return p;
  fail("--preset: wants S, M, L or tiny, got \"", name, "\"");
}

/// Of forward and backward of a batch; scores of attention in full, not halved for what is causal.
double model_flop(const Preset& p, nn::Module& model) {
  const int64_t context = p.model.max_seq_len();
  return 3.0 * double(p.tokens()) * nn::forward_flops_per_token(model, 2 * context);
}

/// The pages this process had to be given, and the most memory it held.
rusage usage() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  return u;
}

double cpu_seconds(const rusage& u) {
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(u.ru_utime) + seconds(u.ru_stime);
}

struct Step {
  double forward = 0, backward = 0, optimizer = 0, loss = 0;
  int64_t faults = 0;
  double cpu = 0;  // seconds of all threads
  dist::Traffic traffic = {};
  double seconds() const { return forward + backward + optimizer; }
};

dist::Traffic operator-(dist::Traffic a, const dist::Traffic& b) {
  a.operations -= b.operations;
  a.bytes_sent -= b.bytes_sent;
  a.seconds -= b.seconds;
  a.waited_seconds -= b.waited_seconds;
  return a;
}

/// A model, its optimizer and one batch, in micro-batches where there are ranks or several.
class StepRun {
 public:
  StepRun(const Preset& p, DType dtype, Device device, bool recompute, int64_t micro_batches)
      : dtype_(dtype), device_(device), model_(p.model.make()) {
    nn::set_recompute(*model_, recompute);
    p.model.init(*model_, {.seed = 1});
    model_->to(device);
    optimizer_.emplace(model_->parameters(),
                       nn::AdamWOptions{.lr = 1e-3, .betas = {0.9, 0.95}, .weight_decay = 0.1});
    if (micro_batches > 1)
      parallel_.emplace(*optimizer_, nn::DataParallelOptions{.micro_batches = micro_batches});
    Generator data(2);
    const int64_t tokens = p.model.max_seq_len(), rows = p.batch / micro_batches;
    const Tensor ids = randint(0, p.model.vocab_size(), {p.batch, tokens + 1}, data);
    for (int64_t i = 0; i < micro_batches; ++i) {
      const Tensor part = raw::slice(ids, 0, i * rows, (i + 1) * rows);
      const auto to_device = [&](int64_t begin) {
        return raw::to(raw::contiguous(raw::slice(part, 1, begin, begin + tokens)), device);
      };
      inputs_.push_back(to_device(0));
      targets_.push_back(to_device(1));
    }
  }

  /// With `parts` the device's work of each part ends before the next one begins; else only the sum
  /// of the parts means something where calls queue work.
  Step step(bool parts) {
    Step s;
    Tensor last;
    const rusage used = usage();
    const dist::Traffic before = dist::world().traffic();
    auto at = Clock::now();
    const auto passed = [&] {
      if (parts) synchronize(device_);
      const auto begin = std::exchange(at, Clock::now());
      return std::chrono::duration<double>(at - begin).count();
    };
    const int64_t begin = parallel_ ? parallel_->begin() : 0,
                  end = parallel_ ? parallel_->end() : 1;
    for (int64_t i = begin; i < end; ++i) {
      nn::Context ctx{.dtype = dtype_, .rng = &rng_};
      const Tensor loss = model_->loss(inputs_[size_t(i)], targets_[size_t(i)], ctx);
      s.forward += passed();
      if (parallel_)
        parallel_->backward(loss, targets_[size_t(i)].numel());
      else
        backward(loss);
      if (!parallel_) last = loss;
      s.backward += passed();
    }
    if (parallel_)
      s.loss = parallel_->step().loss;
    else
      optimizer_->step();
    synchronize(device_);
    s.optimizer = passed();
    if (!parallel_) s.loss = last.item<double>();
    s.faults = usage().ru_minflt - used.ru_minflt;
    s.cpu = cpu_seconds(usage()) - cpu_seconds(used);
    s.traffic = dist::world().traffic() - before;
    return s;
  }

  nn::Module& model() const { return *model_; }
  const std::optional<nn::DataParallel>& parallel() const { return parallel_; }

 private:
  using Clock = std::chrono::steady_clock;
  DType dtype_;
  Device device_;
  nn::Ref<nn::BlockModule> model_;
  std::optional<nn::AdamW> optimizer_;
  std::optional<nn::DataParallel> parallel_;
  Tensors inputs_, targets_;
  Generator rng_{3};
};

Spread spread_over(const std::vector<Step>& steps, double (*value)(const Step&)) {
  std::vector<double> values;
  for (const Step& s : steps) values.push_back(value(s));
  return spread_of(std::move(values));
}

/// What ranks did, beside what was planned of them.
void add_ranks(Json& json, const StepRun& run, const Preset& p, const BenchStepArgs& args,
               const Kept<Step>& kept) {
  const nn::DataParallel& parallel = *run.parallel();
  const int ranks = parallel.comm().size();
  const int64_t micro_batches = parallel.options().micro_batches;
  const auto median = [&](double (*value)(const Step&)) {
    return rounded(spread_over(kept.values, value).median);
  };
  json["ranks"] = ranks;
  json["micro_batches"] = micro_batches;
  json["peak_memory"] = int64_t(memory_stats().peak);
  json["bytes_sent"] = kept.values.back().traffic.bytes_sent;
  json["communication_ms"] = median([](const Step& s) { return 1e3 * s.traffic.seconds; });
  json["waited_ms"] = median([](const Step& s) { return 1e3 * s.traffic.waited_seconds; });
  const nn::ParallelCost cost = parallel.cost();
  json["buckets"] = cost.buckets;
  json["buckets_in_backward"] = cost.buckets_in_backward;
  const nn::ParallelPlan plan =
      nn::parallel_plan(run.model(), {.ranks = ranks,
                                      .rank = parallel.comm().rank(),
                                      .batch = p.batch / micro_batches,
                                      .context = p.model.max_seq_len(),
                                      .dtype = bench_dtype(args.dtype),
                                      .parallel = {.micro_batches = micro_batches}});
  json["planned_bytes_sent"] = int64_t(plan.sent.total());
  json["planned_memory"] = int64_t(plan.memory.total());
}

/// What a run was, in the order to print.
Json describe(const BenchStepArgs& args, const Preset& p, Device device, int threads,
              int64_t parameters) {
  Json json = Json::object();
  json["what"] = "olm_train_step";
  json["version"] = version();
  json["config"] = p.name;
  json["dtype"] = args.dtype;
  json["device"] = detail::concat(device);
  json["threads"] = threads;
  json["isa"] = name_of(kernels::instruction_set());
  json["recompute"] = args.recompute;
  json["params"] = parameters;
  return json;
}

/// `parts`: steps whose parts were timed one by one.
void add_figures(Json& json, const Preset& p, nn::Module& model, const Kept<Step>& kept,
                 const std::vector<Step>& parts) {
  const auto part = [&](double (*value)(const Step&)) {
    return rounded(1e3 * spread_over(parts, value).median);
  };
  const Spread whole = spread_over(kept.values, [](const Step& s) { return s.seconds(); });
  const double tokens = double(p.tokens());
  json["step_ms"] = rounded(1e3 * whole.median);
  json["min_ms"] = rounded(1e3 * whole.min);
  json["max_ms"] = rounded(1e3 * whole.max);
  json["tokens_per_s"] = rounded(tokens / whole.median);
  json["best_tokens_per_s"] = rounded(tokens / whole.min);
  json["forward_ms"] = part([](const Step& s) { return s.forward; });
  json["backward_ms"] = part([](const Step& s) { return s.backward; });
  json["optimizer_ms"] = part([](const Step& s) { return s.optimizer; });
  json["model_gflop"] = rounded(model_flop(p, model) / 1e9);
  json["model_gflops"] = rounded(model_flop(p, model) / whole.median / 1e9);
  json["faults_per_step"] =
      int64_t(spread_over(kept.values, [](const Step& s) { return double(s.faults); }).median);
  json["cpu_ms"] = part([](const Step& s) { return s.cpu; });
  json["peak_rss_mib"] = int64_t(usage().ru_maxrss / 1024);
  json["kept"] = kept.kept;
  json["steps"] = kept.taken;
}

/// ", 2 ranks": "" where there is one that does all at once.
std::string ranks_of(const Json& j) {
  if (!j.find("ranks")) return "";
  return fmt::format(
      ", ranks: {}, micro-batches: {}, {:.1f} ms of communication, {:.1f} ms waited for",
      j.at("ranks").as_int(), j.at("micro_batches").as_int(), j.at("communication_ms").as_double(),
      j.at("waited_ms").as_double());
}

std::string line_of(const Json& j) {
  const auto number = [&](const char* key) { return j.at(key).as_double(); };
  return fmt::format(
      "{} {}, {}{}{}; {:.1f} ms a step ({:.1f} to {:.1f}), {:.0f} tokens/s; forward {:.1f}, "
      "backward {:.1f}, optimizer {:.1f} ms; {:.0f} GFLOP/s, {} page faults a step, {} MiB; "
      "loss {:.4f}, then {:.4f}; {} of {} steps passed the gate",
      j.at("config").as_string(), j.at("dtype").as_string(),
      j.at("device").as_string() == "cpu" ? fmt::format("threads: {}", j.at("threads").as_int())
                                          : j.at("device").as_string(),
      ranks_of(j), j.at("recompute").as_bool() ? ", recomputing" : "", number("step_ms"),
      number("min_ms"), number("max_ms"), number("tokens_per_s"), number("forward_ms"),
      number("backward_ms"), number("optimizer_ms"), number("model_gflops"),
      j.at("faults_per_step").as_int(), j.at("peak_rss_mib").as_int(), number("loss_first"),
      number("loss_last"), j.at("kept").as_int(), j.at("steps").as_int());
}

}  // namespace

int bench_step(const BenchStepArgs& args) {
  const Preset& preset = find_step_preset(args.preset);
  const DType dtype = bench_dtype(args.dtype);
  const Device device = compute_device(args.device);
  require(args.steps >= 1, "--steps: wants at least 1, got ", args.steps);
  require(args.budget >= 0, "--budget: wants 0 seconds or more, got ", args.budget);
  const int threads = bench_threads(args.threads);
  const bool on_cpu = device == cpu;
  const dist::Comm world = dist::world();
  const bool alone = world.size() == 1;
  if (world.rank() == 0) require_writable(args.json);
  const int64_t micro_batches = args.micro_batches > 0 ? args.micro_batches : world.size();
  require(micro_batches >= world.size() && preset.batch % micro_batches == 0,
          "--micro-batches: wants a divisor of the ", preset.batch, " sequences of ", preset.name,
          ", and at least one for each of ", world.size(), " ranks, got ", micro_batches);
  Gate gate(threads, on_cpu && alone ? args.gate : 0);
  StepRun run(preset, dtype, device, args.recompute, micro_batches);
  Json json = describe(args, preset, device, threads, run.model().num_parameters());
  const double first = run.step(true).loss;
  run.step(true);
  double last = first;
  const auto take = [&] {
    const Step s = run.step(false);
    last = s.loss;
    return s;
  };
  // Ranks take equally many.
  const Kept<Step> kept =
      sample_series(gate, {.least = args.steps, .budget = alone ? args.budget : 0}, take);
  std::vector<Step> parts = kept.values;
  if (!on_cpu) parts.clear();
  for (int64_t i = 0; i < args.steps && !on_cpu; ++i) parts.push_back(run.step(true));
  add_figures(json, preset, run.model(), kept, parts);
  if (run.parallel()) add_ranks(json, run, preset, args, kept);
  if (!on_cpu) json["peak_device_mib"] = int64_t(memory_stats(device).peak >> 20);
  json["loss_first"] = rounded(first);
  json["loss_last"] = rounded(last);
  if (world.rank() > 0) return 0;
  put_text(args.json, line_of(json));
  put_json(args.json, json);
  return 0;
}

}  // namespace olm::tools
