// Attention's kernels on the device under test, each against f64 on the CPU. Which one runs follows
// from sizes and strides: rows that begin anywhere keep tensor cores out.
#include <doctest/doctest.h>

#include <cmath>

#include <tests/support/cases/flash_attention.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

using Make = std::function<FlashAttentionOptions(Generator&)>;
struct Row {
  std::string name;
  Make options;
};

/// Options with their tensors on the device of x, in the dtypes that go with it.
FlashAttentionOptions placed(FlashAttentionOptions o, const Tensor& x) {
  for (const auto member : kOptionTensors) {
    Tensor& t = o.*member;
    if (!t.defined()) continue;
    if (is_float(t.dtype())) t = raw::cast(t, acc_dtype(x.dtype()));
    t = raw::to(t, x.device());
  }
  return o;
}

/// The output and every gradient, on the CPU.
Tensors attend(const Tensors& qkv, const Tensor& dy, const FlashAttentionOptions& options) {
  FlashAttentionOptions o = placed(options, qkv[0]);
  Generator rng(5, 8);
  if (o.dropout > 0) o.rng = &rng;
  Tensors leaves;
  for (const Tensor& t : qkv) leaves.push_back(detach(t));
  if (o.sink.defined()) leaves.push_back(o.sink);
  for (const Tensor& t : leaves) set_requires_grad(t);
  const Tensor y = flash_attention(leaves[0], leaves[1], leaves[2], o);
  Tensors all = gradients({y}, {raw::to(raw::cast(dy, y.dtype()), y.device())}, leaves);
  all.push_back(y);
  for (Tensor& t : all) t = raw::to(detach(t), cpu);
  return all;
}

/// The same on the device under test, with rows of an odd length where `odd`.
Tensor on_device(const Tensor& x, bool odd) {
  const Tensor there = raw::to(x, test_device());
  if (!odd) return there;
  Shape wide = x.shape();
  wide[x.rank() - 1] += 1;
  const Tensor y = raw::slice(zeros(wide, options_of(there)), -1, 0, x.size(-1));
  raw::copy_(y, there);
  return y;
}
Tensors on_device(const Tensors& all, bool odd) {
  Tensors there;
  for (const Tensor& t : all) there.push_back(on_device(t, odd));
  return there;
}

Tensors inputs_of(const Sizes& n, DType dtype, Generator& g) {
  Tensors all;
  for (const Shape& s : {Shape{n.b, n.t, n.h, n.dqk}, Shape{n.b, n.s, n.hkv, n.dqk},
                         Shape{n.b, n.s, n.hkv, n.dv}, Shape{n.b, n.t, n.h, n.dv}})
    all.push_back(raw::cast(randn(s, g, {.dtype = f64}), dtype));
  return all;
}
Tensors wide(const Tensors& all) {
  Tensors w;
  for (const Tensor& t : all) w.push_back(raw::cast(t, f64));
  return w;
}
Tensors first_three(const Tensors& all) { return {all[0], all[1], all[2]}; }

bool same_bits(const Tensor& a, const Tensor& b) {
  return to_host<double>(a) == to_host<double>(b);
}

std::vector<Row> rows(const Sizes& n) {
  using O = FlashAttentionOptions;
  using G = Generator;
  const TensorOptions wide{.dtype = f64};
  return {{"plain", [](G&) { return O{}; }},
          {"causal", [](G&) { return O{.causal = true, .offset = 3}; }},
          {"window", [](G&) { return O{.offset = -2, .window = 20, .scale = -0.2}; }},
          {"everything but masks", [=](G& g) {
             return O{.causal = true,
                      .offset = 2,
                      .window = 60,
                      .scale = 0.3,
                      .softcap = 3,
                      .slopes = uniform({n.h}, g, wide),
                      .sink = randn({n.h}, g, wide),
                      .documents = documents(n.b, n.t, 40),
                      .key_documents = documents(n.b, n.s, 40),
                      .key_lengths = from_host(std::vector<int64_t>(size_t(n.b), n.s - 5), {n.b}),
                      .dropout = 0.2};
           }}};
}

std::vector<bool> finite_in(const Tensor& x) {
  std::vector<bool> finite;
  for (const double value : to_host<double>(x)) finite.push_back(std::isfinite(value));
  return finite;
}

void spoil(const Tensor& x, int64_t begin, int64_t end, double value) {
  raw::fill_(raw::slice(x, 1, begin, end), value);
}

}  // namespace

TEST_SUITE("kernels/cuda/flash_attention") {
  TEST_CASE("tensor cores and the general kernel give what the CPU gives in f64") {
    if (test_device() == cpu) return;
    for (const int64_t dim : {64, 96, 128})
      for (const DType dtype : {bf16, f16}) {
        const Sizes n{.b = 1, .t = 70, .s = 75, .h = 2, .hkv = 1, .dqk = dim, .dv = dim};
        for (const Row& row : rows(n)) {
          INFO(row.name, " ", name_of(dtype), " ", dim);
          Generator g(9);
          const FlashAttentionOptions o = row.options(g);
          const Tensors in = inputs_of(n, dtype, g), exact = wide(in);
          const Tensors want = attend(first_three(exact), exact[3], o);
          const Tensors fast = attend(on_device(first_three(in), false), in[3], o);
          const Tensors general = attend(on_device(first_three(in), true), in[3], o);
          REQUIRE(fast.size() == want.size());
          for (size_t i = 0; i < want.size(); ++i) {
            // Weights and score gradients are rounded to the dtype on the way.
            CHECK(difference(fast[i], want[i]).relative_l2 < (dtype == bf16 ? 0x1p-8 : 0x1p-11));
            CHECK(difference(general[i], want[i]).relative_l2 < (dtype == bf16 ? 0x1p-8 : 0x1p-11));
          }
          CHECK_FALSE(same_bits(fast.back(), general.back()));  // they are two kernels
        }
      }
  }

  TEST_CASE("what tensor cores may not attend leaves no trace, and what they attend does") {
    if (test_device() == cpu) return;
    const Sizes n{.b = 1, .t = 80, .s = 80, .h = 2, .hkv = 1, .dqk = 64, .dv = 64};
    std::vector<int64_t> ids(80, 0);
    std::fill(ids.begin() + 50, ids.end(), 7);
    for (const FlashAttentionOptions& o :
         {FlashAttentionOptions{.key_lengths = from_host<int64_t>({50}, {1})},
          FlashAttentionOptions{.causal = true, .documents = from_host(ids, {1, 80})}}) {
      const bool by_document = o.documents.defined();  // those queries are of the padding
      const auto outcome = [&](double value) {
        Generator g(3);
        Tensors in = inputs_of(n, bf16, g);
        for (size_t i = by_document ? 0 : 1; i < (by_document ? 4 : 3); ++i)
          spoil(in[i], 50, 80, value);
        Tensors all = attend(on_device(first_three(in), false), in[3], o);
        for (const Tensor& t : all)
          if (by_document) spoil(t, 50, 80, 0);
        return all;
      };
      const Tensors want = outcome(0);
      for (const double bad : {double(NAN), double(INFINITY)}) {
        const Tensors got = outcome(bad);
        for (size_t i = 0; i < got.size(); ++i) check_same_bits(got[i], want[i], "result");
      }
    }
    for (const size_t spoilt : {1, 2, 3}) {
      Generator g(3);
      Tensors in = inputs_of(n, bf16, g);
      spoil(in[spoilt], 10, 11, NAN);
      const Tensors got = attend(on_device(first_three(in), false), in[3], {.causal = true});
      CHECK(raw::has_nonfinite(spoilt == 3 ? got[2] : got.back()));  // dv, y
    }
  }

  TEST_CASE("one value that is not finite spoils on tensor cores what it spoils on the CPU") {
    if (test_device() == cpu) return;
    for (const int64_t dim : {64, 96, 128})
      for (const size_t spoilt : {2, 3})  // v, dy
        for (const double bad : {double(NAN), double(INFINITY)})
          for (const bool causal : {true, false}) {
            INFO(dim, " ", spoilt, " ", bad, " ", causal);
            const Sizes n{.b = 1, .t = 64, .s = 64, .h = 2, .hkv = 1, .dqk = dim, .dv = dim};
            Generator g(3);
            Tensors in = inputs_of(n, bf16, g);
            raw::fill_(raw::slice(raw::slice(in[spoilt], 1, 10, 11), -1, 5, 6), bad);
            const Tensors exact = wide(in);
            const Tensors want = attend(first_three(exact), exact[3], {.causal = causal});
            const Tensors got =
                attend(on_device(first_three(in), false), in[3], {.causal = causal});
            for (size_t i = 0; i < got.size(); ++i) CHECK(finite_in(got[i]) == finite_in(want[i]));
          }
  }

  TEST_CASE("a few queries of many keys get what the CPU gives, in any batch") {
    if (test_device() == cpu) return;
    for (const int64_t t : {1, 3, 8})
      for (const DType dtype : {f32, bf16}) {
        const Sizes n{.b = 2, .t = t, .s = 600, .h = 6, .hkv = 2, .dqk = 24, .dv = 150};
        for (const bool ruled : {false, true}) {
          INFO(t, " ", name_of(dtype), " ", ruled);
          Generator g(11);
          FlashAttentionOptions o{.causal = true, .offset = 600 - t};
          if (ruled)
            o = {.offset = 590 - t,
                 .window = 400,
                 .softcap = 4,
                 .slopes = uniform({6}, g, {.dtype = f64}),
                 .sink = randn({6}, g, {.dtype = f64}),
                 .mask = boolean_mask({t, 600}, g, 0.5),
                 .key_lengths = from_host<int64_t>({520, 30}, {2})};
          const Tensors in = inputs_of(n, dtype, g), exact = wide(in);
          const Tensor want = flash_attention(exact[0], exact[1], exact[2], o);
          const auto attend_there = [&](const Tensors& x, const FlashAttentionOptions& of) {
            const Tensors there = on_device(first_three(x), false);
            const Tensor y = flash_attention(there[0], there[1], there[2], placed(of, there[0]));
            return raw::to(y, cpu);
          };
          const Tensor got = attend_there(in, o);
          check_close(got, want, dtype, 600, "y", 0.1);
          Tensors first;
          for (const Tensor& x : in) first.push_back(raw::contiguous(raw::slice(x, 0, 0, 1)));
          if (ruled) o.key_lengths = from_host<int64_t>({520}, {1});
          check_same_bits(attend_there(first, o), raw::contiguous(raw::slice(got, 0, 0, 1)),
                          "alone");
        }
      }
  }
}
