// What the library says of machines that lack something or run out of it, and how it goes on.
#include <functional>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/engine/backend.h>
#include <olm/engine/cuda/report.h>
#include <olm/nn/blocks.h>
#include <olm/nn/generate.h>
#include <olm/nn/linear.h>
#include <olm/nn/models.h>
#include <olm/nn/optim.h>
#include <tests/cuda_emulator/support.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::cuda_emulator::test;

namespace {

/// The sentence with which f fails.
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing failed";
}

void check_sentence(const std::string& text, const std::vector<std::string>& parts) {
  INFO(text);
  for (const std::string& part : parts) CHECK(contains(text, part));
  CHECK_FALSE(contains(text, "\n"));
}

/// One step on `batch` rows of ids; returns the loss before it.
double train(Module& model, Optimizer& optimizer, int64_t batch) {
  const Tensor ids = zeros({batch, 16}, {.dtype = i64, .device = device_of(model)});
  Context ctx;
  const Tensor loss = model.loss(ids, ids, ctx);
  optimizer.add_loss(loss, {}, ids.numel());
  backward(loss);
  return optimizer.step().loss;
}

}  // namespace

TEST_SUITE("cuda_emulator/machine") {
  TEST_CASE("what a machine lacks is said in one sentence, and the CPU computes on") {
    const auto refusal = [](const char* words, int card) {
      const Mode in(words);
      return error_of([&] { zeros({2}, {.device = cuda(card)}); });
    };
    check_sentence(refusal("no_driver", 5), {"cuda:5", "no NVIDIA driver"});
    check_sentence(refusal("no_card", 5), {"cuda:5", "no NVIDIA card"});
    check_sentence(refusal("devices=2", 5), {"cuda:5", "2 cards, numbered from 0"});
    check_sentence(refusal("old_card,devices=8", 5), {"cuda:5", "emulated sm_75 card", "7.5",
                                                      cuda_backend::compiled_architectures()});
    {
      const Mode in("no_driver");
      CHECK(cuda_backend::cards().empty());
      CHECK(cuda_backend::driver_version().empty());
    }
    const Mode in("devices=2");
    CHECK(cuda_backend::cards().size() == 2);
    CHECK(to_host<float>(ones({2}) + ones({2})) == std::vector<float>{2, 2});
  }

  TEST_CASE("where memory runs out a step fails, and a smaller one goes on") {
    const Mode in("memory=40");
    empty_cache(cuda(0));
    const auto model = GPT2Model({.vocab_size = 16,
                                  .embed_dim = 32,
                                  .num_layers = 1,
                                  .num_heads = 2,
                                  .max_seq_len = 16,
                                  .dropout = 0});
    init(*model, {.seed = 1, .device = cuda(0)});
    AdamW optimizer(model->parameters(), {.lr = 0.01});
    const double first = train(*model, optimizer, 2);
    const std::vector<float> weight = to_host<float>(model->parameters()[0]);
    const size_t in_use = memory_stats(cuda(0)).in_use;
    check_sentence(error_of([&] { train(*model, optimizer, 8192); }),
                   {"cuda allocator: out of memory", "bytes asked for", "in use", "reserved",
                    "free on cuda:0"});
    optimizer.zero_grad();
    CHECK(memory_stats(cuda(0)).in_use == in_use);
    CHECK(to_host<float>(model->parameters()[0]) == weight);
    CHECK(train(*model, optimizer, 2) < first);
    CHECK(cuda_emulator::reports().empty());
  }

  TEST_CASE("what fits is had, however little memory there is") {
    const Mode in("memory=30");
    empty_cache(cuda(0));
    const Tensor small = zeros({4}, {.device = cuda(0)});
    const Tensor most = zeros({int64_t(25) << 18}, {.device = cuda(0)});
    CHECK(to_host<float>(small) == std::vector<float>(4, 0));
    check_sentence(error_of([] { zeros({int64_t(6) << 18}, {.device = cuda(0)}); }),
                   {"6291456 bytes asked for"});
  }

  TEST_CASE("a model for which a card has no room stays where it is, whole") {
    const Mode in("memory=40");
    empty_cache(cuda(0));
    const auto model = Block({Linear(2048, 2048), Linear(2048, 2048), Linear(2048, 2048)});
    init(model, {.seed = 1});
    check_sentence(error_of([&] { model->to(cuda(0)); }), {"out of memory"});
    for (const Tensor& p : model->parameters()) CHECK(p.device() == cpu);
    CHECK(memory_stats(cuda(0)).in_use == 0);
    model->get("blocks.0")->to(cuda(0));
    CHECK(model->parameters()[0].device() == cuda(0));
  }

  TEST_CASE("a launch that fails and a card that is lost are told, and the process lives on") {
    const Tensor x = ones({4}, {.device = cuda(0)});
    synchronize(cuda(0));
    const auto compute = [&] { to_host<float>(x + x); };
    {
      const Mode in("fail_launch=1");
      check_sentence(error_of(compute), {"cuda", "cudaErrorLaunchFailure"});
    }
    compute();
    {
      const Mode in("lost=2");
      for (int i = 0; i < 3; ++i) check_sentence(error_of(compute), {"cuda", "unavailable"});
      CHECK(to_host<float>(ones({2}) + ones({2})) == std::vector<float>{2, 2});
    }
    CHECK(to_host<float>(x + x) == std::vector<float>{2, 2, 2, 2});
  }
}
