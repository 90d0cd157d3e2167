#include <olm/autograd/ops/flash_attention.h>

#include <doctest/doctest.h>

#include <cmath>

#include <olm/kernels/base/philox.h>
#include <tests/support/cases/flash_attention.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

Tensors inputs_of(const Sizes& n, Generator& g, DType dtype) {
  const auto make = [&](const Shape& shape) {
    return raw::cast(randn(shape, g, {.dtype = f64}), dtype);
  };
  return {make({n.b, n.t, n.h, n.dqk}), make({n.b, n.s, n.hkv, n.dqk}),
          make({n.b, n.s, n.hkv, n.dv})};
}

/// Gradients of everything that has one, under a fixed projection.
Tensors gradients_of(const Tensors& qkv, const FlashAttentionOptions& o, const Tensor& dy) {
  Tensors leaves;
  for (const Tensor& t : qkv) leaves.push_back(detach(t));
  FlashAttentionOptions own = o;
  if (o.sink.defined()) leaves.push_back(own.sink = detach(o.sink));
  if (o.mask.defined() && is_float(o.mask.dtype())) leaves.push_back(own.mask = detach(o.mask));
  for (const Tensor& t : leaves) set_requires_grad(t);
  const Tensor y = flash_attention(leaves[0], leaves[1], leaves[2], own);
  return gradients({y}, {raw::cast(dy, y.dtype())}, leaves);
}

/// Writes `value` to rows [begin, end) of x [B,T,H,D], in batch row 0 alone.
void spoil(const Tensor& x, int64_t begin, int64_t end, double value) {
  raw::fill_(raw::slice(raw::slice(x, 0, 0, 1), 1, begin, end), value);
}

/// Options under which no query but 100 to 130 of the first batch row attends its keys 100 to 130.
std::vector<Setup> setups_with_padding() {
  const Sizes n{.t = 130, .s = 130};
  using G = Generator;
  using O = FlashAttentionOptions;
  const Tensor columns = full({2, 1, 1, 130}, 1, {.dtype = boolean});
  spoil(raw::view(columns, {2, 130, 1, 1}), 100, 130, 0);
  std::vector<int64_t> ids(260, 0);
  std::fill(ids.begin() + 100, ids.begin() + 130, 7);
  const Tensor documents = from_host(ids, {2, 130});
  const Tensor lengths = from_host<int64_t>({100, 130}, {2});
  return {{"key_lengths", n, [=](G&) { return O{.softcap = 20, .key_lengths = lengths}; }},
          {"causal", n, [=](G&) { return O{.causal = true, .key_lengths = lengths}; }},
          {"mask", n, [=](G&) { return O{.mask = columns}; }},
          {"documents", n, [=](G&) { return O{.causal = true, .documents = documents}; }}};
}

}  // namespace

OLM_OP_SUITE("ops/flash_attention", causal_attention_case(), attention_cases())

TEST_SUITE("ops/flash_attention") {
  TEST_CASE("strided inputs are read in place") {
    Generator g(4);
    const int64_t b = 2, t = 70, h = 3, d = 12;
    const Tensor packed = randn({b, t, 3, h, d}, g), heads_first = randn({b, h, t, d}, g);
    const auto part = [&](int64_t i) { return raw::select(packed, 2, i); };
    const FlashAttentionOptions o{.causal = true};
    const Tensor k = raw::transpose(heads_first, 1, 2), v = strided_copy(part(2));
    const Tensor got = flash_attention(part(0), k, v, o);
    const Tensor want =
        flash_attention(raw::contiguous(part(0)), raw::contiguous(k), raw::contiguous(v), o);
    check_same_bits(got, want, "strided");
    const Tensor dy = randn({b, h, t, d}, g);
    const Tensors a = gradients_of({part(0), k, v}, o, raw::transpose(dy, 1, 2));
    const Tensors w =
        gradients_of({raw::contiguous(part(0)), raw::contiguous(k), raw::contiguous(v)}, o,
                     raw::contiguous(raw::transpose(dy, 1, 2)));
    for (size_t i = 0; i < a.size(); ++i) check_same_bits(a[i], w[i], "gradient");
  }

  TEST_CASE("a query with nothing to attend gives zero and passes nothing on") {
    Generator g(4);
    const Tensors in = inputs_of({.t = 3, .s = 3}, g, f32);
    const FlashAttentionOptions o{.causal = true, .offset = -1};
    const Tensor y = flash_attention(in[0], in[1], in[2], o);
    const auto values = to_host<double>(raw::slice(y, 1, 0, 1));
    for (const double x : values) CHECK(x == 0);
    const Tensors d = gradients_of(in, o, randn(y.shape(), g));
    for (const double x : to_host<double>(raw::slice(d[0], 1, 0, 1))) CHECK(x == 0);
    CHECK_FALSE(raw::has_nonfinite(d[1]));
    CHECK_FALSE(raw::has_nonfinite(d[2]));
    const Tensors none = inputs_of({.t = 3, .s = 0}, g, f32);
    for (const double x : to_host<double>(flash_attention(none[0], none[1], none[2])))
      CHECK(x == 0);
  }

  TEST_CASE("what is not a number stays visible") {
    Generator g(4);
    const Tensors in = inputs_of({.t = 70, .s = 70}, g, f32);
    in[0].mutable_data<float>()[0] = NAN;
    CHECK(raw::has_nonfinite(flash_attention(in[0], in[1], in[2], {.causal = true})));
  }

  TEST_CASE("what may not be attended leaves no trace, even where it is not finite") {
    for_each_target([](const std::string& target) {
      for (const Setup& setup : setups_with_padding())
        for (const DType dtype : {f32, bf16, f64})
          for (const double bad : {double(NAN), double(INFINITY)}) {
            INFO(setup.name, " ", name_of(dtype), " ", target, " ", bad);
            Generator g(4);
            const FlashAttentionOptions o = setup.options(g);
            const bool by_document = o.documents.defined();  // those queries are of the padding
            const Tensors in = inputs_of(setup.n, g, dtype);
            const Tensor dy = randn({2, 130, 4, 6}, g);
            const auto outcome = [&](double value) {
              for (size_t i = by_document ? 0 : 1; i < 3; ++i) spoil(in[i], 100, 130, value);
              if (by_document) spoil(dy, 100, 130, value);
              Tensors all = gradients_of(in, o, dy);
              all.push_back(flash_attention(in[0], in[1], in[2], o));
              for (Tensor& t : all) t = raw::clone(t);
              for (const Tensor& t : all)
                if (by_document) spoil(t, 100, 130, 0);
              return all;
            };
            const Tensors want = outcome(0), got = outcome(bad);
            for (size_t i = 0; i < got.size(); ++i) check_same_bits(got[i], want[i], "result");
          }
    });
  }

  TEST_CASE("a later token that is not a number spoils no earlier one") {
    Generator g(4);
    const Tensors in = inputs_of({.b = 1, .t = 70, .s = 70}, g, f32);
    const auto early = [](const Tensor& t) { return raw::contiguous(raw::slice(t, 1, 0, 60)); };
    for (const FlashAttentionOptions& o :
         {FlashAttentionOptions{.causal = true}, FlashAttentionOptions{.window = 1}}) {
      const Tensor dy = randn({1, 70, 4, 6}, g);
      const Tensor y = early(flash_attention(in[0], in[1], in[2], o));
      const Tensor dq = early(gradients_of(in, o, dy)[0]);
      const Tensors bad{raw::clone(in[0]), raw::clone(in[1]), raw::clone(in[2])};
      for (const Tensor& t : bad) spoil(t, 60, 70, NAN);
      check_same_bits(early(flash_attention(bad[0], bad[1], bad[2], o)), y, "value");
      check_same_bits(early(gradients_of(bad, o, dy)[0]), dq, "dq");
    }
  }

  TEST_CASE("dropout keeps what the generator says, in both directions") {
    const Sizes n{.b = 1, .t = 70, .s = 66, .h = 2, .hkv = 2, .dqk = 4, .dv = 66};
    Generator g(4);
    Tensors in = inputs_of(n, g, f64);
    // With the identity for values the output is the matrix of weights.
    in[2] = zeros(in[2].shape(), {.dtype = f64});
    for (int64_t j = 0; j < n.s; ++j)
      for (int64_t h = 0; h < n.h; ++h) in[2].mutable_data<double>()[(j * n.h + h) * n.dv + j] = 1;
    const auto plain = to_host<double>(flash_attention(in[0], in[1], in[2]));
    Generator rng(77, 12);
    const auto dropped =
        to_host<double>(flash_attention(in[0], in[1], in[2], {.dropout = 0.3, .rng = &rng}));
    CHECK(rng.offset() == 12 + uint64_t(n.h * n.t * 68));
    int64_t kept = 0;
    for (int64_t i = 0; i < n.t; ++i)
      for (int64_t h = 0; h < n.h; ++h)
        for (int64_t j = 0; j < n.s; ++j) {
          const size_t at = size_t((i * n.h + h) * n.s + j);
          const uint32_t word = kernels::philox_word(77, 12 + uint64_t((h * n.t + i) * 68 + j));
          const bool keep = kernels::to_uniform(word) >= 0.3f;
          kept += keep;
          CHECK(dropped[at] == doctest::Approx(keep ? plain[at] / 0.7 : 0).epsilon(1e-12));
        }
    CHECK(double(kept) / double(n.t * n.h * n.s) == doctest::Approx(0.7).epsilon(0.03));
  }

  TEST_CASE("gradients through dropout match finite differences") {
    for (const int64_t s : {6, 70}) {
      gradcheck(
          {.name = "dropout",
           .inputs = [s](Generator& g,
                         const Shape&) { return inputs_of({.b = 1, .t = 3, .s = s}, g, f64); },
           .op =
               [](const Tensors& in) {
                 Generator rng(5, 8);
                 return flash_attention(
                     in[0], in[1], in[2],
                     {.causal = true, .offset = 66, .dropout = 0.4, .rng = &rng});
               }});
    }
  }

  TEST_CASE("many heads give what batch rows give alone, on any number of threads") {
    const Sizes n{.b = 5, .t = 70, .s = 90, .h = 8, .hkv = 4, .dqk = 12, .dv = 20};
    Generator g(6);
    const Tensors in = inputs_of(n, g, f32);
    const FlashAttentionOptions o{.causal = true, .offset = 20};
    const Tensor dy = randn({n.b, n.t, n.h, n.dv}, g);
    const Tensor y = flash_attention(in[0], in[1], in[2], o);
    const Tensors all = gradients_of(in, o, dy);
    for (int64_t b = 0; b < n.b; ++b) {
      const auto part = [&](const Tensor& t) { return raw::slice(t, 0, b, b + 1); };
      const Tensors one{part(in[0]), part(in[1]), part(in[2])};
      check_same_bits(part(y), flash_attention(one[0], one[1], one[2], o), "value");
      const Tensors alone = gradients_of(one, o, part(dy));
      for (size_t i = 0; i < 3; ++i) check_close(part(all[i]), alone[i], f32, 90, "gradient", 1);
    }
    check_same_for_any_threads([&] {
      Tensors results = gradients_of(in, o, dy);
      results.push_back(flash_attention(in[0], in[1], in[2], o));
      return results;
    });
  }

  TEST_CASE("a cache of keys gives the rows of the whole") {
    Generator g(6);
    const Tensors in = inputs_of({.b = 2, .t = 80, .s = 80}, g, f32);
    const Tensor whole = flash_attention(in[0], in[1], in[2], {.causal = true});
    const Tensor last =
        flash_attention(raw::slice(in[0], 1, 79, 80), in[1], in[2], {.causal = true, .offset = 79});
    check_close(last, raw::slice(whole, 1, 79, 80), f32, 80, "last row");
  }

  TEST_CASE("a window wider than the rows takes nothing away") {
    Generator g(8);
    const Tensors in = inputs_of({.b = 1, .t = 70, .s = 70}, g, f32);
    const Tensor all = flash_attention(in[0], in[1], in[2], {.causal = true});
    for (const int64_t window : {int64_t(70), int64_t(1) << 40, INT64_MAX})
      check_same_bits(flash_attention(in[0], in[1], in[2], {.causal = true, .window = window}), all,
                      "wide");
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensors in = inputs_of({}, g, f32);
    const auto call = [&](const FlashAttentionOptions& o) {
      return [&, o] { flash_attention(in[0], in[1], in[2], o); };
    };
    check_error(
        [&] {
          flash_attention(in[0], randn({2, 5, 3, 6}, g), randn({2, 5, 3, 6}, g));
        },
        {"flash_attention", "4", "3"});
    check_error(
        [&] {
          flash_attention(in[0], randn({2, 5, 2, 5}, g), in[2]);
        },
        {"flash_attention", "[2,5,2,5]", "[2,5,4,6]"});
    check_error(
        [&] {
          flash_attention(in[0], in[1], randn({2, 4, 2, 6}, g));
        },
        {"flash_attention", "[2,4,2,6]", "[2,5,2,6]"});
    check_error([&] { flash_attention(randn({2, 5}, g), in[1], in[2]); }, {"rank 4", "[2,5]"});
    check_error([&] { flash_attention(in[0], raw::cast(in[1], bf16), in[2]); }, {"f32", "bf16"});
    check_error(call({.sink = randn({3}, g)}), {"sink", "[4]", "[3]"});
    check_error(call({.mask = randn({3, 5}, g)}), {"mask", "[3,5]", "[2,4,5,5]"});
    check_error(call({.mask = arange(5)}), {"mask", "i64"});
    check_error(call({.documents = arange(5)}), {"documents", "[2,5]", "[5]"});
    check_error(call({.key_lengths = arange(3)}), {"key_lengths", "[2]", "[3]"});
    check_error(call({.dropout = 0.5}), {"dropout", "0.5", "generator"});
    check_error(call({.dropout = 1.5}), {"dropout", "1.5"});
    check_error(call({.window = -1}), {"window", "-1"});
    check_error(call({.offset = INT64_MAX}), {"offset", "range"});
    check_error(call({.documents = full({2, 5}, 0x1p32, {.dtype = i64})}),
                {"documents", "4294967296", "i32"});
    const Tensor slopes = randn({4}, g);
    set_requires_grad(slopes);
    check_error(call({.slopes = slopes}), {"slopes", "gradient"});
  }
}
