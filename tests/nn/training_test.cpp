#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/engine/file.h>
#include <olm/engine/raw.h>
#include <olm/nn/models.h>
#include <olm/nn/training.h>

#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
namespace fs = std::filesystem;

namespace {

struct Folder {
  std::string path = (fs::temp_directory_path() / "olm-training-XXXXXX").string();
  Folder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~Folder() { fs::remove_all(path); }
};

TokenDataset tokens(int64_t count = 2000, int32_t vocab = 7) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t((i * i + i / 3) % vocab));
  return TokenDataset::from_ids(ids, vocab);
}

Ref<Module> small_model(double dropout = 0) {
  Ref<Module> model = GPT2Model({.vocab_size = 7,
                                 .embed_dim = 8,
                                 .num_layers = 1,
                                 .num_heads = 2,
                                 .max_seq_len = 8,
                                 .dropout = dropout});
  init_gpt2(*model, 1, {.seed = 1});
  return model;
}

/// A model whose loss is replaced by another number at some calls.
class Spoiled final : public BaseCombinator {
 public:
  Spoiled(Ref<Module> block, std::function<double(int64_t call)> factor)
      : block(this, "block", std::move(block)), factor_(std::move(factor)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return block(x, ctx); }
  Tensor loss(ResidualStream in, const Tensor& targets, Context& ctx,
              const CrossEntropyOptions& options = {}) override {
    return block->loss(in, targets, ctx, options) * factor_(call_++);
  }
  std::string type_name() const override { return "Spoiled"; }
  Child<> block;

 private:
  std::function<double(int64_t)> factor_;
  int64_t call_ = 0;
};

std::vector<std::vector<float>> values(Module& model) {
  std::vector<std::vector<float>> result;
  for (const Tensor& p : model.parameters()) result.push_back(to_host<float>(p));
  return result;
}

LoaderOptions batches(int64_t batch = 4) { return {.batch = batch, .context = 8, .seed = 5}; }

}  // namespace

TEST_SUITE("nn/training") {
  TEST_CASE("lines survive a cut-off end, and are cut back to a step") {
    const Folder f;
    const std::string path = f.path + "/log.jsonl";
    {
      JsonLines lines(path);
      for (int i = 1; i <= 5; ++i) {
        Json line;
        line["step"] = i;
        line["loss"] = 1.0 / i;
        if (i == 4) line["val_loss"] = 2.5;
        lines.append(line);
      }
    }
    std::ofstream(path, std::ios::app) << "{\"step\": 6, \"lo";
    CHECK(JsonLines::read(path).size() == 5);
    JsonLines::cut(path, 4);
    const std::vector<Json> lines = JsonLines::read(path);
    REQUIRE(lines.size() == 4);
    CHECK(lines.back().at("step").as_int() == 4);
    CHECK(metrics_csv(lines) ==
          "step,loss,val_loss\n1,1.0,\n2,0.5,\n3,0.3333333333333333,\n4,0.25,2.5\n");
    JsonLines::cut(f.path + "/none.jsonl", 4);
    CHECK_FALSE(file_exists(f.path + "/none.jsonl"));
    write_file(path, "{\"loss\":1}\n");
    test::check_error([&] { JsonLines::cut(path, 4); }, {"log.jsonl", "no step"});
    write_file(path, "{\"step\":9223372036854775808}\n");
    test::check_error([&] { JsonLines::cut(path, 4); }, {"log.jsonl", "no step"});
  }

  TEST_CASE("quotes in CSV are doubled") {
    Json line;
    line["step"] = 1;
    line["a \"b\", c"] = "said \"no\",\nand \\ went";
    line["list"] = Json::array();
    CHECK(metrics_csv({line}) ==
          "step,\"a \"\"b\"\", c\",list\n1,\"said \"\"no\"\",\nand \\ went\",\"[]\"\n");
  }

  TEST_CASE("a loss far above those before is a spike") {
    SpikeStatistics s;
    CHECK_FALSE(s.is_spike(100, 8));
    for (int i = 0; i < 100; ++i) s.take(2 + 0.1 * std::sin(i));
    CHECK(s.mean == doctest::Approx(2).epsilon(0.05));
    CHECK_FALSE(s.is_spike(2.3, 8));
    CHECK(s.is_spike(3.5, 8));
    CHECK_FALSE(s.is_spike(3.5, 0));
    CHECK_FALSE(s.is_spike(0.1, 8));
  }

  TEST_CASE("evaluation has every id but the first as a target once, whatever the batches") {
    const Ref<Module> model = small_model(0.5);
    NoGrad guard;
    for (const int64_t size : {81, 83, 88, 9, 10, 15}) {
      const TokenDataset data = tokens(size);
      const EvalReport report = evaluate(*model, data, 8);
      double sum = 0;
      for (int64_t at = 0; at + 1 < size; at += 8) {
        const TokenDataset window = data.slice(at, std::min(size, at + 9));
        Loader one(window, {.context = window.size() - 1, .shuffle = false});
        const Batch b = one.next();
        Context ctx;
        sum += model->loss(b.inputs, b.targets, ctx).item<double>() * double(b.targets.numel());
      }
      CHECK(report.tokens == size - 1);
      CHECK(report.loss == doctest::Approx(sum / double(size - 1)).epsilon(1e-5));
      CHECK(evaluate(*model, data, 8).loss == report.loss);
    }
  }

  TEST_CASE("accumulated batches are one large batch") {
    const Ref<Module> one = small_model(), four = small_model();
    AdamW first(one->parameters(), {.lr = 1e-2}), second(four->parameters(), {.lr = 1e-2});
    // Without shuffling, 4 windows of one batch are those of 4 batches.
    LoaderOptions large = batches(4), small = batches(1);
    large.shuffle = small.shuffle = false;
    std::vector<double> a, b;
    Schedule schedule{.kind = "constant", .lr = 1e-2};
    Trainer(one, first, Loader(tokens(), large), {}, {.total_steps = 10, .schedule = schedule},
            {.on_step = [&](const StepReport& r) { a.push_back(r.loss); }})
        .run();
    Trainer(four, second, Loader(tokens(), small), {},
            {.total_steps = 10, .accumulation = 4, .schedule = schedule},
            {.on_step = [&](const StepReport& r) { b.push_back(r.loss); }})
        .run();
    REQUIRE(a.size() == 10);
    for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-4));
  }

  TEST_CASE("a loss that is not finite leaves the parameters alone and is reported") {
    for (const double factor : {double(NAN), double(INFINITY), 1e30}) {
      const Ref<Module> inner = small_model();
      const auto model =
          make<Spoiled>(inner, [=](int64_t call) { return call == 60 ? factor : 1; });
      AdamW optimizer(model->parameters(), {.lr = 1e-2});
      std::vector<StepReport> reports;
      std::vector<std::vector<float>> before;
      bool kept = false;
      Trainer(model, optimizer, Loader(tokens(), batches()), {},
              {.total_steps = 62, .schedule = {.kind = "constant", .lr = 1e-2}, .spike_factor = 8},
              {.on_step =
                   [&](const StepReport& r) {
                     if (r.step == 60) before = values(*model);
                     if (r.step == 61) kept = values(*model) == before;
                     reports.push_back(r);
                   }})
          .run();
      REQUIRE(reports.size() == 62);
      CHECK(kept);
      CHECK(values(*model) != before);
      const std::string& why = reports[60].skipped;
      CHECK(why.find("step 61 was skipped: batch 60") != std::string::npos);
      if (factor != 1e30) CHECK(why.find("first bad gradient: block.") != std::string::npos);
      CHECK(reports[59].skipped.empty());
      CHECK(reports[61].skipped.empty());
    }
  }

  TEST_CASE("training that only gives NaN ends with an error") {
    const auto model = make<Spoiled>(small_model(), [](int64_t) { return -NAN; });
    AdamW optimizer(model->parameters(), {});
    Trainer trainer(model, optimizer, Loader(tokens(), batches()), {}, {.total_steps = 100});
    test::check_error([&] { trainer.run(); }, {"diverged", "step 20", "loss of nan, first bad"});
  }

  TEST_CASE("measuring changes nothing") {
    const Ref<Module> a = small_model(0.2), b = small_model(0.2);
    AdamW first(a->parameters(), {}), second(b->parameters(), {});
    Trainer measured(a, first, Loader(tokens(), batches()), tokens(100), {.total_steps = 3});
    Trainer plain(b, second, Loader(tokens(), batches()), tokens(100), {.total_steps = 3});
    const Timing timing = measured.measure(0.01);
    CHECK(timing.step_seconds > 0);
    CHECK(timing.peak_bytes > 0);
    CHECK(timing.sample_seconds == 0);
    measured.run();
    plain.run();
    CHECK(values(*a) == values(*b));
  }

  TEST_CASE("measuring covers what is asked for, and ends where it is asked to stop") {
    const Folder f;
    int64_t losses = 0, asked = 0, stop_at = INT64_MAX;
    const Ref<Module> model = make<Spoiled>(small_model(), [&](int64_t) { return ++losses, 1.0; });
    AdamW optimizer(model->parameters(), {});
    Trainer trainer(model, optimizer, Loader(tokens(), batches()), tokens(100),
                    {.folder = f.path,
                     .total_steps = 3,
                     .eval_every = 1,
                     .sample_every = 1,
                     .sample = {.tokens = 5, .context = 8},
                     .prompt = {1, 2}},
                    {.should_stop = [&] { return ++asked > stop_at; }},
                    std::make_shared<ByteTokenizer>());
    const Timing whole = trainer.measure(0.01);
    CHECK(whole.eval_seconds > 0);
    CHECK(whole.sample_seconds > 0);
    CHECK(trainer.time_weights() > 0);
    CHECK(list_files(f.path).empty());
    losses = asked = stop_at = 0;
    const Timing cut = trainer.measure(1e9);
    CHECK(losses == 1);
    CHECK(cut.step_seconds > 0);
    CHECK(cut.eval_seconds == 0);
    CHECK(cut.sample_seconds == 0);
    CHECK(trainer.step() == 0);
  }

  TEST_CASE("checkpoints: the newest and the best stay, damage is seen, nothing is half-loaded") {
    const Folder f;
    const Ref<Module> model = small_model();
    AdamW optimizer(model->parameters(), {});
    Checkpoints checkpoints(f.path, 2);
    const double losses[] = {3, 1, 2, 2.5, 2.6};
    for (int64_t step = 1; step <= 5; ++step) {
      CheckpointState state{.step = step, .total_steps = 9, .rng_offset = uint64_t(step)};
      state.val_loss = losses[step - 1];
      checkpoints.save(state, *model, optimizer);
    }
    CHECK(checkpoints.steps() == std::vector<int64_t>{2, 4, 5});
    CHECK(checkpoints.state(4).rng_offset == 4);
    CHECK(checkpoints.path(5).ends_with("checkpoints/000005"));

    raw::fill_(model->parameters()[0], 7);
    const auto changed = values(*model);
    const std::string weights = checkpoints.path(5) + "/model.safetensors";
    const std::string good = read_file(weights);
    std::string bad = good;
    bad.back() ^= 1;
    write_file(weights, bad);
    test::check_error([&] { checkpoints.load(5, *model, optimizer); },
                      {"000005/model.safetensors", "damaged"});
    CHECK(values(*model) == changed);
    write_file(weights, good);
    Lion lion(model->parameters(), {});
    CHECK_NOTHROW(checkpoints.load(5, *model, optimizer));
    CHECK(values(*model) != changed);
    test::check_error([&] { checkpoints.state(99); }, {"000099/state.json"});

    // A state that was edited, and one that came from another folder.
    const std::string file = checkpoints.path(5) + "/state.json";
    std::string state = read_file(file);
    state.replace(state.find("\"total_steps\": 9"), 16, "\"total_steps\": 8");
    write_file(file, state);
    test::check_error([&] { checkpoints.state(5); }, {"000005/state.json", "edited"});
    write_file(file, read_file(checkpoints.path(4) + "/state.json"));
    test::check_error([&] { checkpoints.state(5); }, {"000005/state.json", "step 4", "step 5"});
    // What was just saved stays, also below the steps of others.
    checkpoints.save({.step = 1, .total_steps = 9}, *model, optimizer);
    CHECK(file_exists(checkpoints.path(1) + "/state.json"));
  }

  TEST_CASE("an evaluation that was cut off is made when the run goes on") {
    const Folder whole, halves;
    auto run = [&](const std::string& folder, bool stop, bool resume) {
      const Ref<Module> model = small_model();
      AdamW optimizer(model->parameters(), {.lr = 1e-2});
      bool asked = false;
      Trainer trainer(model, optimizer, Loader(tokens(), batches()), tokens(200),
                      {.folder = folder,
                       .total_steps = 12,
                       .schedule = {.lr = 1e-2},
                       .eval_every = 6,
                       .checkpoint_every = 6},
                      {.on_step = [&](const StepReport& r) { asked = stop && r.step == 6; },
                       .should_stop = [&] { return asked; }});
      if (resume) trainer.resume();
      CHECK(trainer.run() == !stop);
      std::vector<Json> losses;
      for (const Json& line : JsonLines::read(folder + "/metrics.jsonl"))
        if (const Json* loss = line.find("val_loss")) losses.push_back(*loss);
      return losses;
    };
    const auto expected = run(whole.path, false, false);
    CHECK(expected.size() == 3);
    CHECK(run(halves.path, true, false).size() == 1);
    CHECK(run(halves.path, false, true) == expected);
    CHECK(Checkpoints(halves.path).state(6).val_loss == expected[1].as_double());
  }

  TEST_CASE("stopping and resuming gives the losses of a run in one go") {
    const Folder whole, halves;
    auto run = [&](const std::string& folder, int64_t stop_after, bool resume) {
      const Ref<Module> model = small_model(0.1);
      AdamW optimizer(decay_groups(model->parameters(), 0.1), {.lr = 1e-2, .clip_norm = 1});
      int64_t done = 0;
      Trainer trainer(model, optimizer, Loader(tokens(), batches()), tokens(200),
                      {.folder = folder,
                       .total_steps = 30,
                       .seed = 3,
                       .schedule = {.kind = "cosine", .lr = 1e-2, .warmup_steps = 5},
                       .eval_every = 10,
                       .checkpoint_every = 10},
                      {.on_step = [&](const StepReport&) { ++done; },
                       .should_stop = [&] { return done >= stop_after; }});
      if (resume) trainer.resume();
      const bool finished = trainer.run();
      CHECK(finished == (stop_after > 100));
      return values(*model);
    };
    const auto expected = run(whole.path, 1000, false);
    run(halves.path, 13, false);
    // A log that is ahead of the checkpoint is cut back to it.
    std::ofstream(halves.path + "/metrics.jsonl", std::ios::app) << "{\"step\":14,\"loss\":9}\n";
    CHECK(run(halves.path, 1000, true) == expected);
    const auto a = JsonLines::read(whole.path + "/metrics.jsonl");
    const auto b = JsonLines::read(halves.path + "/metrics.jsonl");
    REQUIRE(a.size() == b.size());
    for (size_t i = 1; i < a.size(); ++i) CHECK(a[i].at("loss") == b[i].at("loss"));
  }

  TEST_CASE("a run that began without the last window and place goes on without them") {
    const Folder f;
    const auto trainer_of = [&](const Ref<Module>& model, Optimizer& optimizer, int64_t steps) {
      return Trainer(model, optimizer, Loader(tokens(), batches()), tokens(206),
                     {.folder = f.path, .total_steps = steps, .eval_every = 2});
    };
    const auto last_loss = [&] {
      return JsonLines::read(f.path + "/metrics.jsonl").back().at("val_loss").as_double();
    };
    const Ref<Module> model = small_model();
    AdamW optimizer(model->parameters(), {.lr = 1e-2});
    trainer_of(model, optimizer, 2).run();
    CHECK(last_loss() == evaluate(*model, tokens(206), 8).loss);
    // What the state of such a run looks like.
    const std::string file = Checkpoints(f.path).path(2) + "/state.json";
    const Json state = read_json(file);
    Json old = Json::object(), loader = Json::object();
    for (const auto& [key, value] : state.members())
      if (key != "hash" && key != "evaluates_rest") old.append(key, value);
    for (const auto& [key, value] : state.at("loader").members())
      if (key != "starts") loader.append(key, value);
    old["loader"] = loader;
    old["rng"]["offset"] = 4096;  // one stream of random numbers went through all steps
    old["hash"] = hash_hex(old.dump());
    write_json(file, old);
    for (const int64_t steps : {4, 6}) {
      Trainer trainer = trainer_of(model, optimizer, steps);
      trainer.resume();
      trainer.set_total_steps(steps);
      trainer.run();
      CHECK(last_loss() == evaluate(*model, tokens(206), 8, f32, {}, false).loss);
      CHECK(last_loss() != evaluate(*model, tokens(206), 8).loss);
      CHECK(Checkpoints(f.path).state(steps).loader.at("starts") == Json(2000 - 8 - 1));
    }
  }

  TEST_CASE("a checkpoint of another model or text is refused") {
    const Folder f;
    const Ref<Module> model = small_model();
    AdamW optimizer(model->parameters(), {});
    Trainer(model, optimizer, Loader(tokens(), batches()), {}, {.folder = f.path, .total_steps = 2})
        .run();
    const Ref<Module> other = GPT2Model(
        {.vocab_size = 7, .embed_dim = 16, .num_layers = 1, .num_heads = 2, .max_seq_len = 8});
    init(*other);
    AdamW others(other->parameters(), {});
    Trainer wrong_model(other, others, Loader(tokens(), batches()), {}, {.folder = f.path});
    test::check_error([&] { wrong_model.resume(); }, {"another architecture"});
    // Moments that fit are given back where the weights beside them do not.
    AdamW fresh(model->parameters(), {});
    test::check_error([&] { Checkpoints(f.path).load(2, *other, fresh); }, {"model.safetensors"});
    CHECK(fresh.state_dict().at("step").item<int64_t>() == 0);
    Trainer wrong_loader(model, optimizer, Loader(tokens(), batches(9)), {}, {.folder = f.path});
    test::check_error([&] { wrong_loader.resume(); }, {"loader", "batch"});
    const Folder empty;
    Trainer nothing(model, optimizer, Loader(tokens(), batches()), {}, {.folder = empty.path});
    test::check_error([&] { nothing.resume(); }, {"no checkpoint"});
  }
}
