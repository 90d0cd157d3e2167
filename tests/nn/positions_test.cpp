// Rotary positions beyond those a model was trained for, and ALiBi.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/ops/view.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/attention.h>
#include <olm/nn/model_io.h>
#include <olm/nn/registry.h>
#include <tests/support/checks.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/layer_parity.h>
#include <tests/support/parity.h>
#include <tests/support/rope_scalings.h>
#include <tests/support/sequence.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

const char* const kFile = "positions.safetensors";
constexpr int64_t kHead = 12, kLimit = 96;

void check(const std::string& name, const RotaryOptions& o) {
  check_layer_parity(name, ScaledRotaryPositionalEmbedding(o), kFile);
}

/// The options of a fixture, of all dimensions.
RotaryOptions scaled(const RopeScalingOptions& scaling, const char* pairing = "interleaved") {
  return {.head_dim = kHead, .max_seq_len = kLimit, .scaling = scaling, .pairing = pairing};
}

std::vector<double> list(double first, double step) {
  std::vector<double> result;
  for (int j = 0; j < kHead / 2; ++j) result.push_back(first + step * j);
  return result;
}

RopeScalingOptions longrope() {
  return {.scaling_type = "longrope",
          .original_max_seq_len = 24,
          .short_factor = list(1, 0.1),
          .long_factor = list(1, 1.5)};
}

RopeScalingOptions llama3() {
  return {.scaling_type = "llama3", .scaling_factor = 8, .original_max_seq_len = 24};
}

RopeScalingOptions yarn() {
  return {.scaling_type = "yarn", .scaling_factor = 4, .original_max_seq_len = 24};
}

/// Rotates x as a key.
class KeySide final : public Module {
 public:
  explicit KeySide(RotaryOptions o) : rotary(ScaledRotaryPositionalEmbedding(o)) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    return rotary->rotate(x, x, ctx).second;
  }
  std::string type_name() const override { return "KeySide"; }
  Ref<RotaryModule> rotary;
};

}  // namespace

TEST_SUITE("nn/positions") {
  TEST_CASE("linear, ntk, llama3 and partial rotation are OLM's") {
    check("olm.linear", scaled({.scaling_type = "linear", .scaling_factor = 4}));
    RotaryOptions o = scaled({.scaling_factor = 3});  // linear is the layer's default
    o.base = 500;
    check("olm.linear.3", o);
    check("olm.ntk", scaled({.scaling_type = "ntk", .scaling_factor = 4}));
    o.scaling = {.scaling_type = "ntk", .scaling_factor = 2.5};
    check("olm.ntk.2", o);
    check_layer_parity(
        "olm.partial_linear",
        PartialScaledRotaryPositionalEmbedding(kHead, 0.75, kLimit, 10000, {"linear", 4.0}), kFile);
    check_layer_parity(
        "olm.partial_ntk",
        PartialScaledRotaryPositionalEmbedding(kHead, 0.5, kLimit, 10000, {"ntk", 4.0}), kFile);
    check_layer_parity(
        "olm.llama3",
        Llama3RotaryPositionalEmbedding(
            kHead,
            {.max_seq_len = kLimit,
             .base = 100,
             .scaling = {.scaling_factor = 4, .original_max_seq_len = 24, .high_freq_factor = 4}}),
        kFile);
    check_layer_parity("olm.llama3.defaults", Llama3RotaryPositionalEmbedding(kHead), kFile);
  }

  TEST_CASE("linear and dynamic_ntk are those of transformers") {
    check("hf.linear", scaled({.scaling_type = "linear", .scaling_factor = 3}));
    check("hf.linear.halves", scaled({.scaling_type = "linear", .scaling_factor = 3}, "halves"));
    RopeScalingOptions dynamic{
        .scaling_type = "dynamic_ntk", .scaling_factor = 2, .original_max_seq_len = 24};
    check("hf.dynamic", scaled(dynamic));
    check("hf.dynamic.short", scaled(dynamic));
    dynamic.scaling_factor = 3.5;
    check("hf.dynamic.halves", scaled(dynamic, "halves"));
  }

  TEST_CASE("yarn is that of transformers") {
    RotaryOptions o = scaled(yarn());
    check("hf.yarn", o);
    o.scaling.scaling_factor = {};  // max_seq_len / original_max_seq_len
    check("hf.yarn", o);
    o.scaling.scaling_factor = 16;
    o.scaling.mscale = 0.7, o.scaling.mscale_all_dim = 1.3;
    check("hf.yarn.mscale", o);
    o.scaling.attention_factor = 0.75;
    check("hf.yarn.attention_factor", o);
    o = scaled(yarn(), "halves");
    o.rotary_percentage = 0.5;
    check("hf.partial_yarn", o);
    o.rotary_percentage = 1;
    o.base = 50;
    o.scaling.yarn_alpha = 0.5, o.scaling.yarn_beta = 5, o.scaling.truncate = false;
    check("hf.yarn.halves", o);
  }

  TEST_CASE("llama3 and longrope are those of transformers") {
    RotaryOptions o = scaled(llama3());
    o.base = 100;
    check("hf.llama3", o);
    o.pairing = "halves";
    o.scaling.low_freq_factor = 0.5, o.scaling.high_freq_factor = 9;
    check("hf.llama3.halves", o);
    o = scaled(longrope());
    check("hf.longrope.long", o);
    check("hf.longrope.short", o);
    o.scaling.attention_factor = 1.5;
    check("hf.longrope.attention_factor", o);
    o = scaled(longrope(), "halves");
    o.scaling.scaling_factor = 2;
    check("hf.longrope.halves", o);
  }

  TEST_CASE("xpos scales queries and keys inversely") {
    RotaryOptions o = scaled({.scaling_type = "xpos", .xpos_scale_base = 32});
    check("xpos.query", o);
    check_layer_parity("xpos.key", make<KeySide>(o), kFile);
    o.scaling.xpos_scale_base = 11, o.pairing = "halves";
    check("xpos.query.halves", o);
    check_layer_parity("xpos.key.halves", make<KeySide>(o), kFile);
  }

  TEST_CASE("ALiBi's bias is OLM's, for any length") {
    const SafetensorsFile file = SafetensorsFile::open(fixture(kFile));
    const auto six = ALiBiPositionalBias(6);
    const auto check_bias = [&](const std::string& name, const Tensor& bias) {
      const Compared c = check_close(bias, file.tensor(name + "/y"), f32, 1, name);
      record_fixture({kFile, name}, FixturePart::output, c.error, c.tolerance);
    };
    check_bias("olm.alibi", six->bias(5, 7));
    check_bias("olm.alibi.8", ALiBiPositionalBias(8)->bias(3, 3));
    CHECK(six->bias(2, 3).dtype() == f32);
    CHECK(six->bias(2, 3).shape() == Shape{1, 6, 2, 3});
    CHECK(six->bias(2, 3, {.device = meta}).shape() == Shape{1, 6, 2, 3});
    const Tensor later = six->bias(2, 9, {}, 5);
    check_same_bits(raw::contiguous(raw::slice(six->bias(7, 9), 2, 5, 7)), later, "offset");
    KVCache cache(9);
    cache.advance(5);
    Context ctx{.cache = &cache};
    check_close(six(zeros({1, 6, 2, 9}), ctx), later, f32, 1, "behind a cache");
    CHECK(six(zeros({2, 6, 2, 9}, {.dtype = bf16})).dtype() == bf16);
    check_error([&] { six(ones({1, 5, 2, 2})); }, {"ALiBiPositionalBias", "6", "[1,5,2,2]"});
  }

  TEST_CASE("every type at factor 1 is plain RoPE") {
    Generator rng(2);
    const Tensor x = randn({2, 30, 3, 8}, rng);
    const Tensor plain = RotaryPositionalEmbedding(8, 32)(x);
    for (RopeScalingOptions scaling : one_of_each(1, 8)) {
      if (scaling.scaling_type == "dynamic_ntk") scaling.original_max_seq_len = 30;
      const auto layer = ScaledRotaryPositionalEmbedding(8, 32, 10000, scaling);
      check_close(layer(x), plain, f32, 30, *scaling.scaling_type);
    }
    const auto xpos = ScaledRotaryPositionalEmbedding(
        8, 32, 10000, {.scaling_type = "xpos", .xpos_scale_base = 1e9});
    check_close(xpos(x), plain, f32, 30, "xpos");
    check_same_bits(
        Rotary("ScaledRotaryPositionalEmbedding",
               {.head_dim = 8, .max_seq_len = 32, .scaling = {.scaling_type = "none"}})(x),
        plain, "none");
  }

  TEST_CASE("types differ where they scale") {
    Generator rng(2);
    const Tensor x = randn({1, 30, 1, 8}, rng);
    std::vector<Tensor> results{RotaryPositionalEmbedding(8, 32)(x)};
    for (const RopeScalingOptions& scaling : one_of_each(4, 8))
      results.push_back(ScaledRotaryPositionalEmbedding(8, 32, 10000, scaling)(x));
    for (size_t i = 0; i < results.size(); ++i)
      for (size_t j = 0; j < i; ++j) CHECK(difference(results[i], results[j]).relative_l2 > 1e-2);
  }

  TEST_CASE("scores of xpos depend on the distance alone and fall with it") {
    Generator rng(4);
    const Tensor q = randn({1, 1, 1, 8}, rng), k = randn({1, 1, 1, 8}, rng);
    const auto layer = ScaledRotaryPositionalEmbedding(
        8, 512, 10000, {.scaling_type = "xpos", .xpos_scale_base = 16});
    const auto score = [&](const Tensor& a, const Tensor& b, int64_t m, int64_t n) {
      Context at_m{.positions = full({1, 1}, double(m), {.dtype = i64})};
      Context at_n{.positions = full({1, 1}, double(n), {.dtype = i64})};
      const Tensor rotated_q = layer->rotate(a, a, at_m).first;
      const Tensor rotated_k = layer->rotate(b, b, at_n).second;
      return to_host<double>(matmul(view(rotated_q, {1, 8}), view(rotated_k, {8, 1})))[0];
    };
    for (const int64_t distance : {0, 1, 5, 20}) {
      const double wanted = score(q, k, distance, 0);
      for (const int64_t n : {int64_t(3), int64_t(100), 491 - distance})
        CHECK(score(q, k, n + distance, n) == doctest::Approx(wanted).epsilon(1e-4));
    }
    CHECK(score(q, q, 300, 300) > 1.5 * score(q, q, 300 + 16, 300));
    const double own = score(q, q, 0, 0);
    double sum = 0;
    for (const double v : to_host<double>(q)) sum += v * v;
    CHECK(own == doctest::Approx(sum).epsilon(1e-5));
  }

  TEST_CASE("dynamic types look at the last position of a call") {
    Generator rng(3);
    const Tensor x = randn({2, 4, 1, 8}, rng), whole = randn({1, 20, 1, 8}, rng);
    const auto layer = ScaledRotaryPositionalEmbedding(
        8, 32, 10000,
        {.scaling_type = "dynamic_ntk", .scaling_factor = 2, .original_max_seq_len = 8});
    const auto at = [&](std::vector<int64_t> positions) {
      Context ctx{.positions = from_host<int64_t>(positions, {2, 4})};
      return layer(x, ctx);
    };
    const Tensor far = at({0, 1, 2, 3, 0, 1, 2, 19}), near = at({0, 1, 2, 3, 0, 1, 2, 7});
    const Tensor plain = RotaryPositionalEmbedding(8, 32)(x);
    CHECK(difference(tokens(far, 0, 3), tokens(plain, 0, 3)).relative_l2 > 1e-3);
    check_same_bits(tokens(near, 0, 3), tokens(plain, 0, 3), "within the trained positions");
    const Tensor before = layer(whole);
    layer(x);  // another length in between
    check_same_bits(layer(whole), before, "again");
  }

  TEST_CASE("positions are given in any dtype and refused past max_seq_len, by name") {
    Generator rng(6);
    const auto absolute = AbsolutePositionalEmbedding(9, 8);
    init(absolute);
    const std::vector<std::pair<Ref<Module>, bool>> layers{
        {absolute, false},
        {SinusoidalPositionalEmbedding(8, {.max_seq_len = 9}), false},
        {RotaryPositionalEmbedding(8, 9), true},
        {ScaledRotaryPositionalEmbedding(8, 9, 10000, {"linear", 4.0}), true},
        {ScaledRotaryPositionalEmbedding(8, 9, 10000, {"dynamic_ntk", 4.0, 3}), true},
        {ScaledRotaryPositionalEmbedding(8, 9, 10000, {.scaling_type = "xpos"}), true}};
    for (const auto& [layer, heads] : layers) {
      INFO(describe(*layer).dump());
      const std::string name = layer->type_name();
      const Tensor all = heads ? randn({2, 9, 2, 8}, rng) : randn({2, 9, 8}, rng);
      const Tensor wanted = layer(all);
      for (const DType dtype : {i32, i64}) {
        Context ctx{
            .positions = raw::cast(
                from_host<int64_t>({0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8}, {2, 9}),
                dtype)};
        check_same_bits(layer(all, ctx), wanted, "given");
      }
      const Tensor x = tokens(all, 0, 3);
      Context ctx{.positions = from_host<int64_t>({0, 1, 2, 3, 9, 5}, {2, 3})};
      check_error([&] { layer(x, ctx); }, {name, "position 9 of token 1 in sequence 1", "9"});
      ctx.positions = from_host<int64_t>({0, 1, 2, 3, 4, -1}, {2, 3});
      check_error([&] { layer(x, ctx); }, {name, "position -1", "max_seq_len 9"});
      ctx.positions = from_host<int64_t>({0, 1, 2}, {1, 3});
      check_error([&] { layer(x, ctx); }, {name, "[2,3]", "[1,3]"});
      for (const DType dtype : {f64, bf16}) {
        ctx.positions = from_host<int64_t>({0, 1, 2, 8, 4, 5}, {2, 3});
        const Tensor exact = layer(x, ctx), y = layer(raw::cast(x, dtype), ctx);
        CHECK(y.dtype() == dtype);
        check_close(y, exact, dtype == bf16 ? bf16 : f32, 8, name_of(dtype));
      }
    }
    check_error([&] { RotaryPositionalEmbedding(8, 9)(ones({1, 10, 1, 8})); }, {"10", "9"});
  }

  TEST_CASE("few positions that lie far apart take a table of their own") {
    Generator rng(4);
    const int64_t limit = int64_t(1) << 40;
    for (const DType dtype : {f32, bf16})
      for (const auto& [layer, heads] : std::vector<std::pair<Ref<Module>, bool>>{
               {SinusoidalPositionalEmbedding(8, {.max_seq_len = limit}), false},
               {RotaryPositionalEmbedding(8, limit), true},
               {ScaledRotaryPositionalEmbedding(8, limit, 10000, {"dynamic_ntk", 4.0, 70000}),
                true},
               {ScaledRotaryPositionalEmbedding(8, limit, 10000, {.scaling_type = "xpos"}),
                true}}) {
        INFO(describe(*layer).dump());
        const Tensor x = raw::cast(heads ? randn({2, 3, 2, 8}, rng) : randn({2, 3, 8}, rng), dtype);
        Context far{.positions = from_host<int64_t>({5, 80000, 7, 7, 0, 66000}, {2, 3})};
        const Tensor y = layer(x, far);
        const int64_t many = 2 * 80001;  // these need the table of all positions
        const Tensor all = raw::view(arange(many, {.dtype = i64}), {2, many / 2});
        Tensor places = raw::clone(all);
        for (int64_t i = 0; i < many; ++i) places.mutable_data<int64_t>()[i] %= many / 2;
        raw::copy_(raw::slice(places, 1, 0, 3), far.positions);
        Tensor long_x =
            zeros(heads ? Shape{2, many / 2, 2, 8} : Shape{2, many / 2, 8}, {.dtype = dtype});
        raw::copy_(raw::slice(long_x, 1, 0, 3), x);
        Context dense{.positions = places};
        check_same_bits(y, raw::contiguous(raw::slice(layer(long_x, dense), 1, 0, 3)), "rows");
        far.positions = from_host<int64_t>({0, 1, limit - 1, 3, 4, 5}, {2, 3});
        CHECK(layer(x, far).shape() == x.shape());
      }
  }

  TEST_CASE("sinusoidal waves are as exact as x") {
    const auto waves = SinusoidalPositionalEmbedding(2, {.max_seq_len = 9});
    waves(zeros({1, 9, 2}));  // a table in f32
    Context ctx{.positions = from_host<int64_t>({8, 3}, {1, 2})};
    const std::vector<double> y = to_host<double>(waves(zeros({1, 2, 2}, {.dtype = f64}), ctx));
    for (size_t i = 0; i < 2; ++i) {
      const double p = i == 0 ? 8 : 3;
      CHECK(y[2 * i] == doctest::Approx(std::sin(p)).epsilon(1e-14));
      CHECK(y[2 * i + 1] == doctest::Approx(std::cos(p)).epsilon(1e-14));
    }
  }

  TEST_CASE("position embeddings are made by name") {
    Generator rng(1);
    for (const std::string& name : positions().names()) {
      INFO(name);
      const bool heads = name.find("rotary") != std::string::npos || name == "alibi";
      Json options = Json::object();
      options[name == "alibi" ? "num_heads" : heads ? "head_dim" : "embed_dim"] = 8;
      if (name != "alibi") options["max_seq_len"] = 16;
      const Ref<Module> layer = positions().get(name)(options);
      init(*layer);
      const Tensor x = name == "alibi" ? randn({1, 8, 5, 5}, rng)
                       : heads         ? randn({1, 16, 2, 8}, rng)
                                       : randn({1, 16, 8}, rng);
      CHECK(layer(x).shape() == x.shape());
      CHECK(knows_layer(layer->type_name()));
    }
    check_error([] { positions().get("alibis"); }, {"position embedding", "alibis", "sinusoidal"});
    check_error([] { Rotary("Rotary", {}); }, {"Rotary", "RotaryPositionalEmbedding"});
  }

  TEST_CASE("what does not fit is refused") {
    const auto refuse = [](const RopeScalingOptions& o, const std::vector<std::string>& parts) {
      check_error([&] { ScaledRotaryPositionalEmbedding(8, 64, 10000, o); }, parts);
      check_error([&] { RotaryAngles(8, 10000, 64, o); }, parts);
    };
    refuse({.scaling_type = "yarns"}, {"scaling_type", "yarn, xpos", "yarns"});
    refuse({.scaling_type = "linear", .scaling_factor = 0}, {"scaling_factor", "above 0", "0"});
    refuse({.scaling_type = "linear", .scaling_factor = NAN}, {"scaling_factor", "finite"});
    refuse({.scaling_type = "xpos", .scaling_factor = 2}, {"scaling_factor", "2", "xpos"});
    refuse({.scaling_type = "none", .scaling_factor = 2}, {"scaling_factor", "2", "none"});
    refuse({.scaling_type = "xpos", .xpos_scale_base = 0.1}, {"xpos_scale_base", "0.1", "64"});
    refuse({.scaling_type = "yarn", .original_max_seq_len = 0}, {"original_max_seq_len", "1"});
    refuse({.scaling_type = "llama3", .low_freq_factor = 4}, {"llama3", "high_freq_factor", "4"});
    refuse({.scaling_type = "longrope", .short_factor = {1, 1}},
           {"longrope", "short_factor", "4 numbers", "2"});
    RopeScalingOptions lists{
        .scaling_type = "longrope", .short_factor = {1, 1, 1, 1}, .long_factor = {1, 1, 1, 0}};
    refuse(lists, {"long_factor", "above 0"});
    const std::vector<RopeScalingOptions> infinite{
        {.scaling_type = "linear", .scaling_factor = 1e-308},
        {.scaling_type = "ntk", .scaling_factor = 1e-300},
        {.scaling_type = "yarn", .scaling_factor = 4, .attention_factor = 1e308}};
    for (const RopeScalingOptions& o : infinite)
      check_error(
          [&] {
            ScaledRotaryPositionalEmbedding(8, 64, 10000, o)(ones({1, 3, 1, 8}));
          },
          {"RoPE", *o.scaling_type, "finite"});
    check_error(
        [] {
          RotaryPositionalEmbedding(8, 64, 1e-300)(ones({1, 3, 1, 8}));
        },
        {"base 1e-300", "finite"});
    check_error([] { FlashAttentionwithRoPE(24, 4, 8, {.rope_pairing = "half"}); },
                {"FlashAttentionwithRoPE", "rope_pairing", "interleaved or halves", "half"});
    check_error(
        [] { FlashAttentionwithRoPE(24, 4, 8, {.rope_scaling = {.scaling_type = "yarns"}}); },
        {"FlashAttentionwithRoPE", "rope_scaling", "scaling_type", "yarns"});
    check_error([] { RotaryPositionalEmbedding({.head_dim = 8}); },
                {"RotaryPositionalEmbedding", "max_seq_len"});
  }
}
