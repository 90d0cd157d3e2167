// olm plan: what a training would take of each rank, before anything starts.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include <olm/kernels/base/parallel.h>
#include <olm/nn/model_io.h>
#include <olm/nn/parallel_plan.h>

#include "tools/olm/assemble.h"
#include "tools/olm/chart.h"
#include "tools/olm/commands.h"
#include "tools/olm/corpus.h"
#include "tools/olm/machine.h"
#include "tools/olm/model.h"
#include "tools/olm/speed.h"

namespace olm::tools {

namespace {

/// What a step reaches of the rate of matrices where nothing else is known: GPUs wait for memory
/// between products, CPUs little.
constexpr double kCardShare = 0.5, kCpuShare = 0.8;
constexpr int64_t kMaxRanks = 1 << 20, kMaxIds = std::numeric_limits<int32_t>::max();
constexpr double kMinFlag = 1e-6, kMaxFlag = 1e9;  // of flags for speeds and sizes
constexpr double kCardOverhead = 1.5e9;            // bytes that CUDA and its libraries keep
constexpr double kMessageSeconds = 1.5e-6;  // before a network adapter takes the next message

struct Question {
  RunConfig config = {};
  int64_t vocab_size = 0, context = 0;
  nn::Ref<nn::Module> model = {};
  std::unique_ptr<nn::Optimizer> optimizer = {};
  nn::ParallelPlanOptions options = {};
};

struct Answer {
  nn::ParallelPlan plan = {};
  nn::RankSpeed speed = {};
  nn::StepTime time = {};
  double memory_limit = 0;
  int64_t largest_batch = 0;
  std::string rank = {};  // what each is
  std::vector<std::string> assumed = {};

  double tokens_per_second() const { return double(plan.tokens) / time.seconds(); }
  double mfu() const { return plan.model_flops / time.seconds() / speed.matrix_flops; }
};

/// "1 rank", "8 ranks".
std::string counted(int64_t n, const char* what) {
  return fmt::format("{} {}{}", grouped(n), what, n == 1 ? "" : "s");
}

/// How many ids there will be, as far as it can be known without training a tokenizer.
int64_t vocab_size_of(const PlanArgs& args, const RunConfig& config) {
  if (args.vocab_size) return *args.vocab_size;
  const std::string& spec = config.data.tokenizer;
  if (spec.starts_with("bpe:")) {
    nn::require_tokenizer_spec(spec);
    return std::stoll(spec.substr(4));
  }
  if (spec == "byte") return nn::ByteTokenizer().vocab_size();
  if (spec != "char") return make_tokenizer(spec, {})->vocab_size();
  if (!config.data.path.empty())
    return make_tokenizer(spec, open_corpus(config.data.path))->vocab_size();
  return config.model.is_described() ? 256 : config.model.config.vocab_size();
}

nn::Ref<nn::Module> model_of(const ModelSection& section, int64_t vocab_size) {
  if (section.is_described())
    return nn::load_architecture(section.description, {.vocab_size = vocab_size});
  nn::ModelConfig sized = section.config;
  sized.vocab_size() = section.padded_vocab_size.value_or(vocab_size);
  return sized.make();
}

Question question_of(const PlanArgs& args, const dist::Comm& world) {
  Question q{.config = assemble(args.train)};
  const RunConfig& c = q.config;
  q.vocab_size = vocab_size_of(args, c);
  q.context = c.train.context.value_or(c.model.context());
  q.model = model_of(c.model, q.vocab_size);
  nn::set_recompute(*q.model, c.train.recompute);
  q.optimizer = make_optimizer(c.optim, *q.model);
  q.options = {.ranks = args.ranks.value_or(world.size()),
               .batch = c.train.batch_size,
               .context = q.context,
               .dtype = c.train.dtype,
               .optimizer = q.optimizer.get(),
               .expert_ranks = c.dist.experts,
               .parallel = {.micro_batches = c.train.accumulation,
                            .zero = c.dist.zero,
                            .bucket_mb = c.dist.buckets,
                            .deterministic = c.dist.deterministic,
                            .wire = c.dist.wire}};
  require(q.options.parallel.micro_batches >= q.options.ranks, "--ranks: ", q.options.ranks,
          " ranks want at least as many micro-batches in a step, but train.accumulation is ",
          q.options.parallel.micro_batches);
  return q;
}

/// On paper: what a card's data sheet says.
void take_card(const Card& card, DType dtype, Answer& a) {
  const double rate = dtype == f32 ? card.f32 : card.bf16;
  a.rank = card.name;
  a.speed = {.matrix_flops = rate * 1e12,
             .share = kCardShare,
             .memory_bytes = card.memory_rate * 1e9,
             .local_bytes = card.neighbour_rate * 1e9,
             .ranks_per_machine = card.per_machine,
             .message_seconds = kMessageSeconds};
  a.memory_limit = card.memory * 1e9 - kCardOverhead;
  a.assumed.push_back(fmt::format(
      "a rank is one {}: by its data sheet {} TFLOP/s in {} without sparsity, {} GB at "
      "{} GB/s, {} GB/s to each side between cards of a machine",
      card.name, rate, name_of(dtype), card.memory, card.memory_rate, card.neighbour_rate));
  a.assumed.push_back(
      fmt::format("{} of its memory are CUDA's and its libraries'", bytes_text(kCardOverhead)));
}

/// What is measured of this machine, on all its ranks at the same time.
void measure_machine(const PlanArgs& args, const Question& q, const dist::Comm& world, Answer& a) {
  const TrainConfig& t = q.config.train;
  if (t.threads > 0) set_threads(int(t.threads));
  const Device device = compute_device(t.device, "train.device");
  const MatrixShape matrix = usual_matrix(*q.model);
  const int64_t near = world.size() > 1 ? dist::local_size() : args.ranks_per_machine.value_or(1);
  a.rank = device_text(device);
  a.speed = {.share = device == cpu ? kCpuShare : kCardShare, .ranks_per_machine = near};
  world.barrier();
  if (!args.rate) {
    a.speed.matrix_flops =
        measure_matrix_rate(device, q.options.dtype, q.options.batch * q.context, matrix);
    a.assumed.push_back(
        fmt::format("a rank is {}, measured now: {} TFLOP/s in {} with a matrix of "
                    "{} x {}",
                    a.rank, short_number(a.speed.matrix_flops / 1e12), name_of(q.options.dtype),
                    matrix.rows, matrix.columns));
  }
  a.speed.memory_bytes = measure_memory_rate(device);
  a.memory_limit = memory_of(device, a.speed.ranks_per_machine);
  if (world.size() == 1) {
    a.speed.local_bytes = a.speed.memory_bytes / 4;  // through memory: written and read twice
    return;
  }
  a.speed.link_bytes = a.speed.local_bytes = measure_link(world, device);
  a.assumed.push_back(fmt::format("each rank sends {} a second while all do, measured now",
                                  bytes_text(a.speed.link_bytes)));
}

/// What flags say in place of what is known or measured.
void take_flags(const PlanArgs& args, const Question& q, Answer& a) {
  if (args.rate) a.speed.matrix_flops = *args.rate * 1e12;
  if (args.share) a.speed.share = *args.share;
  if (args.memory) a.memory_limit = *args.memory * 1e9;
  if (args.link) a.speed.link_bytes = *args.link * 1e9 / 8;
  if (args.ranks_per_machine) a.speed.ranks_per_machine = *args.ranks_per_machine;
  a.speed.ranks_per_machine = std::min(a.speed.ranks_per_machine, q.options.ranks);
  const bool far = q.options.ranks > a.speed.ranks_per_machine;
  require(!far || a.speed.link_bytes > 0, "--link: ", q.options.ranks, " ranks with ",
          a.speed.ranks_per_machine,
          " on a machine want to know how many Gbit/s a rank sends to other machines");
  if (far)
    a.assumed.push_back(fmt::format("{} on a machine; each sends {} Gbit/s to other machines",
                                    counted(a.speed.ranks_per_machine, "rank"),
                                    short_number(a.speed.link_bytes * 8 / 1e9)));
}

void say_what_is_assumed(const Question& q, bool waits, Answer& a) {
  a.assumed.push_back(
      fmt::format("forward and backward reach {:.0f} % of that rate", 100 * a.speed.share));
  if (q.options.ranks > 1)
    a.assumed.push_back(
        "gradients travel during the backward pass of the last micro-batch, for all of its time, "
        "and weights during the update");
  if (waits)
    a.assumed.push_back(
        "gradients come faster than they travel, so that as many buckets are under way as may be");
  if (q.options.expert_ranks > 1)
    a.assumed.push_back(
        "tokens choose all experts equally often, and nothing is computed while "
        "they travel");
  a.assumed.push_back("memory is without the workspaces of kernels");
}

Answer answer_of(const PlanArgs& args, const Question& q, const dist::Comm& world) {
  Answer a{.plan = nn::parallel_plan(*q.model, q.options)};
  if (args.gpu.empty())
    measure_machine(args, q, world, a);
  else
    take_card(find_card(args.gpu), q.options.dtype, a);
  take_flags(args, q, a);
  a.time = nn::step_time(a.plan, a.speed);
  nn::ParallelPlanOptions options = q.options;
  options.under_way = nn::buckets_under_way(a.plan, a.speed);
  const bool waits = options.under_way > q.options.under_way;
  if (waits) a.plan = nn::parallel_plan(*q.model, options);
  a.largest_batch = nn::largest_batch(*q.model, options, a.memory_limit);
  say_what_is_assumed(q, waits, a);
  return a;
}

/// Names and bytes, in the order to print.
using Parts = std::vector<std::pair<const char*, double>>;
Parts parts_of(const nn::RankMemory& m) {
  return {{"weights", m.weights}, {"gradients", m.gradients}, {"gradients kept", m.kept_gradients},
          {"moments", m.moments}, {"buckets", m.buckets},     {"activations", m.activations}};
}
Parts parts_of(const nn::RankTraffic& t) {
  return {{"gradients", t.gradients}, {"weights", t.weights}, {"rows of experts", t.tokens}};
}

Json json_of(const Parts& parts, double total) {
  Json json = Json::object();
  for (const auto& [name, bytes] : parts) {
    std::string key = name;
    std::replace(key.begin(), key.end(), ' ', '_');
    json[key] = bytes;
  }
  json["total"] = total;
  return json;
}

Json json_of(const Question& q, const Answer& a) {
  const nn::ParallelPlan& p = a.plan;
  Json json = Json::object();
  json["parameters"] = p.parameters;
  json["ranks"] = p.ranks;
  json["ranks_per_machine"] = a.speed.ranks_per_machine;
  json["rank"] = a.rank;
  json["dtype"] = name_of(q.options.dtype);
  json["vocabulary"] = q.vocab_size;
  json["context"] = q.context;
  json["batch_size"] = q.options.batch;
  json["micro_batches"] = q.options.parallel.micro_batches;
  json["rank_micro_batches"] = p.micro_batches;
  json["tokens_per_step"] = p.tokens;
  json["memory"] = json_of(parts_of(p.memory), p.memory.total());
  json["memory_limit"] = a.memory_limit;
  json["fits"] = p.memory.total() <= a.memory_limit;
  json["largest_batch_size"] = a.largest_batch;
  json["sent"] = json_of(parts_of(p.sent), p.sent.total());
  Json& seconds = json["seconds"] = Json::object();
  seconds["compute"] = a.time.compute;
  seconds["update"] = a.time.update;
  seconds["communication"] = a.time.communication;
  seconds["exposed"] = a.time.exposed;
  seconds["step"] = a.time.seconds();
  json["tokens_per_second"] = a.tokens_per_second();
  json["mfu"] = a.mfu();
  Json assumed = Json::array();
  for (const std::string& line : a.assumed) assumed.push_back(line);
  json["assumed"] = assumed;
  return json;
}

void print(const char* title, const Parts& parts, double total, const std::string& more) {
  fmt::print("\n{}\n", title);
  for (const auto& [name, bytes] : parts)
    if (bytes > 0) fmt::print("  {:<18} {}\n", name, bytes_text(bytes));
  fmt::print("  {:<18} {}{}\n", "in all", bytes_text(total), more);
}

std::string largest_text(const Answer& a) {
  if (a.largest_batch == 0) return "none: a batch of one sequence does not fit";
  return grouped(a.largest_batch);
}

void print(const Question& q, const Answer& a) {
  const nn::ParallelPlan& p = a.plan;
  fmt::print("{} on {}, each {}; a step is {} of {} of {} in {}, {}\n",
             counted(p.parameters, "parameter"), counted(p.ranks, "rank"), a.rank,
             q.options.parallel.micro_batches == 1
                 ? "1 micro-batch"
                 : grouped(q.options.parallel.micro_batches) + " micro-batches",
             counted(q.options.batch, "sequence"), counted(q.context, "token"),
             name_of(q.options.dtype), counted(p.tokens, "token"));
  print("memory of a rank when it holds most", parts_of(p.memory), p.memory.total(),
        fmt::format(" of {}{}", bytes_text(a.memory_limit),
                    p.memory.total() > a.memory_limit ? ": does not fit" : ""));
  fmt::print("  {:<18} {}\n", "largest batch_size", largest_text(a));
  if (p.ranks > 1) print("sent by a rank in a step", parts_of(p.sent), p.sent.total(), "");
  fmt::print("\na step takes about {}\n", seconds_text(a.time.seconds()));
  const Facts facts = {{"computing", seconds_text(a.time.compute)},
                       {"update", seconds_text(a.time.update)},
                       {"communication", fmt::format("{}, of which {} are waited for",
                                                     seconds_text(a.time.communication),
                                                     seconds_text(a.time.exposed))},
                       {"tokens per second", short_number(a.tokens_per_second())},
                       {"MFU", fmt::format("{:.1f} %", 100 * a.mfu())}};
  for (const auto& [name, value] : facts) fmt::print("  {:<18} {}\n", name, value);
  fmt::print("\nassumed\n");
  for (const std::string& line : a.assumed) fmt::print("  - {}\n", line);
}

void check(const PlanArgs& args) {
  const std::tuple<const char*, std::optional<int64_t>, int64_t> counts[] = {
      {"--ranks", args.ranks, kMaxRanks},
      {"--ranks-per-machine", args.ranks_per_machine, kMaxRanks},
      {"--vocab-size", args.vocab_size, kMaxIds}};
  for (const auto& [name, value, most] : counts)
    require(!value || (*value >= 1 && *value <= most), name, ": wants 1 to ", most, ", got ",
            value.value_or(0));
  for (const auto& [name, value] : {std::pair("--link", args.link), std::pair("--rate", args.rate),
                                    std::pair("--memory", args.memory)})
    require(!value || (*value >= kMinFlag && *value <= kMaxFlag), name, ": wants ", kMinFlag,
            " to ", kMaxFlag, ", got ", value.value_or(0));
  require(!args.share || (*args.share >= kMinFlag && *args.share <= 1), "--share: wants ", kMinFlag,
          " to 1, got ", args.share.value_or(0));
  if (!args.gpu.empty()) find_card(args.gpu);
}

}  // namespace

int plan(const PlanArgs& args) {
  check(args);
  const dist::Comm world = dist::world();
  const Question q = question_of(args, world);
  const bool on_paper = !args.gpu.empty();
  require(on_paper || world.size() == 1 || world.size() == q.options.ranks,
          "--ranks: ", q.options.ranks, " were asked for, but ", world.size(), " were started");
  const Answer a = answer_of(args, q, world);
  if (world.rank() > 0) return 0;
  if (args.json)
    fmt::print("{}\n", json_of(q, a).dump(2));
  else
    print(q, a);
  return 0;
}

}  // namespace olm::tools
