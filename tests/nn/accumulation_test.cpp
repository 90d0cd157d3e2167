// Steps of several batches: what matters is how many targets each has.
#include <doctest/doctest.h>

#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/cross_entropy.h>
#include <olm/nn/models.h>
#include <olm/nn/training.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

Ref<Module> counting_model() {
  const Ref<Module> model = GPT2Model({.vocab_size = 7,
                                       .embed_dim = 8,
                                       .num_layers = 1,
                                       .num_heads = 2,
                                       .max_seq_len = 8,
                                       .dropout = 0});
  init_gpt2(*model, 1, {.seed = 1});
  return model;
}

}  // namespace

TEST_SUITE("nn/accumulation") {
  TEST_CASE("the gradient of accumulated batches of unequal size is that of one batch") {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 41; ++i) ids.push_back((i * i + i / 3) % 7);
    const TokenDataset data =
        TokenDataset::from_ids(ids, 7);  // five windows: batches of 2, 2 and 1
    const LoaderOptions large{.batch = 5, .context = 8, .shuffle = false};
    const LoaderOptions small{.batch = 2, .context = 8, .shuffle = false};
    const auto in_a_row = [](const Tensors& tensors) {
      const NoGrad guard;
      Tensors rows;
      for (const Tensor& t : tensors) rows.push_back(raw::view(raw::contiguous(t), {t.numel()}));
      return cat(rows, 0);
    };
    // A plain step moves by lr times the gradient; a large lr keeps rounding small.
    const auto moved = [&](const LoaderOptions& how, int64_t accumulation) {
      const Ref<Module> model = counting_model();
      SGD optimizer(model->parameters(), {});
      const Tensor before = in_a_row(model->parameters());
      const TrainerOptions options{.total_steps = 1,
                                   .accumulation = accumulation,
                                   .schedule = {.kind = "constant", .lr = 1024}};
      Trainer(model, optimizer, Loader(data, how), {}, options).run();
      raw::add_(before, in_a_row(model->parameters()), -1);
      raw::scale_(before, 1.0 / 1024);
      return before;
    };
    const Tensor one = moved(large, 1);
    check_close(moved(small, 3), one, f32, 512, "accumulated");
    // The same by hand: sums of losses, and one factor at the end.
    const Ref<Module> model = counting_model();
    int64_t targets = 0;
    for (Batch& b : Loader(data, small)) {
      Context ctx;
      backward(model->loss(b.inputs, b.targets, ctx, {.reduction = Reduction::sum}));
      targets += count_targets(b.targets);
    }
    CHECK(targets == 40);
    Tensors sums;
    for (const Tensor& p : model->parameters()) sums.push_back(grad(p));
    const Tensor mean = in_a_row(sums);
    raw::scale_(mean, 1 / double(targets));
    check_close(mean, one, f32, 512, "summed");
  }

  TEST_CASE("targets are counted in either integer dtype") {
    const Tensor targets = from_host<int64_t>({3, -100, 0, -1, -100, 5}, {2, 3});
    for (const DType t : {i64, i32}) {
      CHECK(count_targets(raw::cast(targets, t)) == 4);
      CHECK(count_targets(raw::cast(targets, t), -1) == 5);
    }
    CHECK(count_targets(empty({2, 3}, {.dtype = i64, .device = meta})) == 6);
    check_error([] { count_targets(ones({2})); }, {"count_targets", "f32"});
  }
}
