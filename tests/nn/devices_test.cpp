#include <doctest/doctest.h>

#include <olm/nn/attention.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <olm/nn/optim.h>
#include <tests/support/checks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

class Table final : public Module {
 public:
  Tensor forward(const Tensor& x, Context&) override { return x; }
  std::string type_name() const override { return "Table"; }
  Buffer numbers{this, "numbers", from_host<double>({0.1, 0.2}, {2})};
};

Ref<Module> model_with_buffers() {
  return Block({Embedding(9, 12), FlashAttention(12, 3, {.causal = true, .use_alibi = true}),
                OutputHead(12, 9)});
}

}  // namespace

TEST_SUITE("nn/devices") {
  TEST_CASE("a buffer is converted once, until its values change") {
    const auto m = make<Table>();
    const Buffer& b = m->numbers;
    CHECK(b.as({f64, cpu}).is_same(b.tensor()));
    const Tensor narrow = b.as({f32, cpu});
    CHECK(to_host<float>(narrow) == std::vector<float>{0.1f, 0.2f});
    CHECK(b.as({f32, cpu}).is_same(narrow));
    CHECK(b.as({f32, meta}).device() == meta);
    m->numbers.assign(from_host<double>({3, 4}, {2}));
    CHECK(to_host<float>(b.as({f32, cpu})) == std::vector<float>{3, 4});
    raw::fill_(b.tensor(), 5);
    CHECK(to_host<float>(b.as({f32, cpu})) == std::vector<float>{5, 5});
  }

  TEST_CASE("a model is filled with the same values on every device") {
    const auto here = model_with_buffers(), there = model_with_buffers();
    init(here, {.seed = 3});
    init(there, {.seed = 3, .device = test_device()});
    const auto wanted = here->parameters(), got = there->parameters();
    REQUIRE(got.size() == wanted.size());
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].device() == test_device());
      check_same_bits(raw::to(got[i], cpu), wanted[i], "parameter");
    }
    there->for_each_buffer(
        [&](const std::string&, Buffer& b) { CHECK(b.tensor().device() == test_device()); });
  }

  TEST_CASE("a model moves with its buffers, and forgets gradients") {
    const auto model = model_with_buffers();
    init(model, {.seed = 3});
    const Tensor ids = zeros({1, 4}, {.dtype = i64});
    Context ctx;
    backward(model->loss(ids, ids, ctx));
    const Tensor weight = model->parameters()[0];
    CHECK(grad(weight).defined());
    model->to(meta);
    CHECK(weight.device() == meta);
    CHECK_FALSE(grad(weight).defined());
    model->for_each_buffer(
        [](const std::string&, Buffer& b) { CHECK(b.tensor().device() == meta); });
    CHECK((*model)(raw::to(ids, meta)).shape() == Shape{1, 4, 9});
  }

  TEST_CASE("a model is loaded where it is wanted, and saved from there") {
    const TempFolder folder, again;
    const auto model = model_with_buffers();
    init(model, {.seed = 3});
    save(model, folder.path());
    CHECK(load(folder.path(), meta)->parameters()[0].device() == meta);
    const auto loaded = load(folder.path(), test_device());
    for (const Tensor& t : loaded->parameters()) CHECK(t.device() == test_device());
    save(loaded, again.path());
    load_weights(*loaded, again.path() + "/model.safetensors");
    const auto wanted = model->parameters(), got = loaded->parameters();
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].device() == test_device());
      check_same_bits(raw::to(got[i], cpu), wanted[i], "parameter");
    }
    check_error([&] { load("/nowhere", {DeviceKind::cpu, 3}); }, {"cpu has no index 3"});
  }

  TEST_CASE("tied weights stay one tensor, and an optimizer follows them, wherever a model goes") {
    const auto model = model_with_buffers();
    model->parameter("blocks.2.blocks.1.weight") = model->parameter("blocks.0.embedding.weight");
    init(model, {.seed = 3});
    const TempFolder folder;
    save(model, folder.path());
    const auto moved = load(folder.path(), test_device());
    const auto tied = [&] {
      return moved->parameter("blocks.2.blocks.1.weight")
          .handle()
          .is_same(moved->parameter("blocks.0.embedding.weight").handle());
    };
    CHECK(tied());
    CHECK(moved->parameters().size() == model->parameters().size());
    // The gradient of k_proj.bias is rounding alone, which a small eps would blow up.
    const AdamWOptions options{.lr = 0.1, .eps = 0.01};
    AdamW here(model->parameters(), options), there(moved->parameters(), options);
    const auto step = [](Module& m, Optimizer& optimizer) {
      const Tensor ids = raw::to(from_host<int64_t>({1, 5, 2, 7}, {1, 4}), device_of(m));
      Context ctx;
      backward(m.loss(ids, ids, ctx));
      optimizer.step();
    };
    for (const Device device : {test_device(), cpu, test_device()}) {
      moved->to(device);
      CHECK(tied());
      step(*model, here);
      step(*moved, there);
    }
    const auto wanted = model->parameters(), got = moved->parameters();
    for (size_t i = 0; i < got.size(); ++i)
      check_close(raw::to(got[i], cpu), wanted[i], f32, 1000, "parameter");
    for (const auto& [key, tensor] : there.state_dict())
      if (key != "step" && key != "missed") CHECK(tensor.device() == test_device());
  }

  TEST_CASE("what travels beside x must be where x is") {
    const Tensor x = ones({1, 4, 12});
    const Tensor mask = ones({4, 4}, {.device = meta});
    const Tensor places = zeros({1, 4}, {.dtype = i64, .device = meta});
    const AttentionOptions options{.causal = true};
    const auto refuses = [&](const Ref<Module>& layer, Context ctx) {
      INFO(layer->type_name());
      init(layer, {.seed = 1});
      check_error([&] { (*layer)(x, ctx); }, {"different devices", "cpu", "meta"});
    };
    for (const Ref<Module>& layer : {Ref<Module>(FlashAttention(12, 3, options)),
                                     Ref<Module>(MultiHeadAttention(12, 3, options))}) {
      refuses(layer, {.mask = mask});
      refuses(layer, {.documents = places});
    }
    refuses(AbsolutePositionalEmbedding(8, 12), {.positions = places});
    refuses(FlashAttentionwithRoPE(12, 3, 8, options), {.positions = places});
  }

  TEST_CASE("a cache is on the device of its keys, and follows them once it is empty") {
    KVCache cache(8);
    const Tensor k = ones({1, 2, 1, 4});
    cache.begin();
    cache.append(k, k);
    cache.advance(2);
    const Tensor far = raw::to(k, meta);
    cache.begin();
    check_error([&] { cache.append(far, far); }, {"KVCache", "on cpu", "on meta"});
    cache.clear();
    CHECK(cache.append(far, far).first.device() == meta);
  }
}
