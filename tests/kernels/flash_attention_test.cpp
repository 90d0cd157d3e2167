#include <olm/kernels/cpu/flash_attention/packs.h>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/gemm_emulated_amx.h"

using namespace olm;
using namespace olm::kernels;
using gemm::entered;
using gemm::kEmulated;

namespace {

/// Scratch memory that is full of one byte: what a kernel reads before it wrote shows.
class FilledScratch final : public ScratchSource {
 public:
  explicit FilledScratch(int byte) : byte_(byte) {}
  void* take(size_t bytes) override {
    void* memory = plain_scratch().take(bytes);
    if (bytes > 0) std::memset(memory, byte_, bytes);
    return memory;
  }
  void give_back(void* memory) noexcept override { plain_scratch().give_back(memory); }

 private:
  int byte_;
};

template <class T>
std::vector<T> normal(int64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> value;
  std::vector<T> x(static_cast<size_t>(n));
  for (T& v : x) v = T(value(rng));
  return x;
}

/// The tensors of one call, [batch, rows, heads, dim].
template <class T>
struct Inputs {
  explicit Inputs(const Attention& a)
      : q(normal<T>(a.batch * a.queries * a.heads * a.dim, 1)),
        k(normal<T>(a.batch * a.keys * a.kv_heads * a.dim, 2)),
        v(normal<T>(a.batch * a.keys * a.kv_heads * a.value_dim, 3)),
        dy(normal<T>(a.batch * a.queries * a.heads * a.value_dim, 4)) {}
  std::vector<T> q, k, v, dy;
};

using Outcome = std::vector<std::vector<float>>;

/// Output, logsumexp and all gradients of one call. `y_from`: the outcome whose output the backward
/// takes; its own where null.
template <class T>
Outcome outcome(const Attention& a, const Inputs<T>& x, const attention::MicroKernel* kernel,
                const Stream& stream = {}, const Outcome* y_from = nullptr) {
  const int64_t h = a.heads, k = a.kv_heads, t = a.queries, s = a.keys;
  const auto heads = static_cast<size_t>(h);
  std::vector<T> y(x.dy.size()), dq(x.q.size()), dk(x.k.size()), dv(x.v.size());
  std::vector<float> row_max(size_t(a.batch * h * t)), row_log_sum = row_max, lse = row_max;
  std::vector<float> dmask(size_t(t * s)), dsink(heads);
  const auto rows = [](const std::vector<T>& v, int64_t n, int64_t count, int64_t dim) {
    return HeadRows{v.data(), n * count * dim, count * dim, dim};
  };
  const auto rows_out = [](std::vector<T>& v, int64_t n, int64_t count, int64_t dim) {
    return HeadRowsOut{v.data(), n * count * dim, count * dim, dim};
  };
  attention::run_forward({.attention = a,
                          .q = rows(x.q, t, h, a.dim),
                          .k = rows(x.k, s, k, a.dim),
                          .v = rows(x.v, s, k, a.value_dim),
                          .y = rows_out(y, t, h, a.value_dim),
                          .row_max = row_max.data(),
                          .row_log_sum = row_log_sum.data(),
                          .stream = stream},
                         kernel);
  for (size_t i = 0; i < lse.size(); ++i)
    lse[i] =
        float(double(row_max[i]) * attention::softmax_scale(a, kernel) + double(row_log_sum[i]));
  const auto narrow = [](const std::vector<float>& v) {
    return std::vector<T>(v.begin(), v.end());
  };
  const std::vector<T> y_in = y_from ? narrow((*y_from)[0]) : y;
  FlashAttentionBackward back{.attention = a,
                              .q = rows(x.q, t, h, a.dim),
                              .k = rows(x.k, s, k, a.dim),
                              .v = rows(x.v, s, k, a.value_dim),
                              .y = rows(y_in, t, h, a.value_dim),
                              .dy = rows(x.dy, t, h, a.value_dim),
                              .row_max = row_max.data(),
                              .row_log_sum = row_log_sum.data(),
                              .dq = rows_out(dq, t, h, a.dim),
                              .dk = rows_out(dk, s, k, a.dim),
                              .dv = rows_out(dv, s, k, a.value_dim),
                              .stream = stream};
  if (a.mask) {
    back.dmask = dmask.data();
    back.dmask_strides[2] = s;
    back.dmask_strides[3] = 1;
  }
  if (a.sink) back.dsink = dsink.data();
  attention::run_backward(back, kernel);
  const auto wide = [](const std::vector<T>& v) {
    std::vector<float> w;
    for (const T e : v) w.push_back(float(e));
    return w;
  };
  return {wide(y), lse, wide(dq), wide(dk), wide(dv), dmask, dsink};
}

/// The kernel for pairs, where this CPU has one, and with it AMX's emulation, which packs as it
/// does.
std::vector<const attention::MicroKernel*> microkernels() {
  const auto* kernel = gemm::bf16_microkernel();
  return kernel ? std::vector{kernel, &kEmulated} : std::vector<const attention::MicroKernel*>{};
}

/// |got - want| / |want|, as vectors.
double distance(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (got[i] == want[i] && std::isinf(want[i])) continue;
    difference += std::pow(double(got[i]) - double(want[i]), 2);
    size += std::pow(double(want[i]), 2);
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

struct Extras {
  std::vector<float> mask = normal<float>(70 * 150, 5), sink = normal<float>(4, 6);
  std::vector<float> slopes{1, 2, 3, 4};
  std::vector<int32_t> ids_q = std::vector<int32_t>(2 * 70, 1), lengths{0, 77};
  std::vector<int32_t> ids_k = std::vector<int32_t>(2 * 150, 1);
};

/// Attention with what the bits of `bits` name.
Attention attention_of(DType dtype, int64_t batch, int64_t queries, int bits,
                       const Extras& extras) {
  Attention a{.dtype = dtype,
              .batch = batch,
              .heads = 4,
              .kv_heads = 2,
              .queries = queries,
              .keys = 150,
              .dim = 9,
              .value_dim = 21,
              .scale = 0.3,
              .causal = (bits & 1) != 0,
              .offset = bits & 2 ? -3 : 75,
              .window = bits & 4 ? 20 : 0,
              .softcap = bits & 8 ? 2.0 : 0.0,
              .dropout = bits & 16 ? 0.25 : 0.0};
  if (bits & 32) {
    a.mask = extras.mask.data();
    a.mask_dtype = f32;
    a.mask_strides[2] = 150;
    a.mask_strides[3] = 1;
  }
  if (bits & 64) a.sink = extras.sink.data(), a.slopes = extras.slopes.data();
  if (bits & 64 && batch == 2) {
    a.key_lengths = extras.lengths.data();
    a.query_documents = extras.ids_q.data();
    a.key_documents = extras.ids_k.data();
  }
  return a;
}

/// Zeros and NaN in scratch memory give the same bits.
template <class T>
void check_scratch(const Attention& a, const attention::MicroKernel* kernel) {
  FilledScratch zeros(0), ones(0xff);
  const Inputs<T> x(a);
  const Outcome zero = outcome(a, x, kernel, {.source = &zeros});
  const Outcome full = outcome(a, x, kernel, {.source = &ones});
  for (size_t i = 0; i < zero.size(); ++i) {
    CAPTURE(i);
    REQUIRE(std::memcmp(zero[i].data(), full[i].data(), zero[i].size() * 4) == 0);
  }
}

}  // namespace

TEST_SUITE("kernels/flash_attention") {
  TEST_CASE("scratch memory is written before it is read") {
    const Extras extras;
    for (const int64_t batch : {2, 8})
      for (const int64_t queries : {1, 33, 70})
        for (int bits = 0; bits < 128; ++bits) {
          CAPTURE(bits);
          CAPTURE(queries);
          check_scratch<float>(attention_of(f32, batch, queries, bits, extras), nullptr);
          if (bits % 5 != 0) continue;
          for (const auto* kernel : microkernels())
            check_scratch<bfloat16_t>(attention_of(bf16, batch, queries, bits, extras), kernel);
        }
  }

  TEST_CASE("pairs of bf16 agree with widened operands") {
    const Extras extras;
    for (const auto* kernel : microkernels())
      for (int bits = 0; bits < 128; bits += 5)
        for (const int64_t dim : {9, 64, 80}) {
          Attention a = attention_of(bf16, bits & 1 ? 2 : 8, bits & 2 ? 70 : 33, bits, extras);
          a.dim = dim, a.value_dim = bits & 4 ? 144 : dim;
          const std::string name = kernel->name;
          CAPTURE(name);
          CAPTURE(bits);
          CAPTURE(dim);
          const Inputs<bfloat16_t> x(a);
          const Outcome want = outcome(a, x, nullptr), got = outcome(a, x, kernel, {}, &want);
          CHECK(entered == 0);
          // Weights and score gradients are rounded to bf16, by up to 2^-9 of each, and so are both
          // results that are compared; logsumexp is that of rounded weights.
          for (size_t i = 0; i < want.size(); ++i) {
            CAPTURE(i);
            CHECK(distance(got[i], want[i]) < (i == 1 ? 0x1p-9 : 0x3p-9));
          }
        }
  }

  TEST_CASE("dropout counts its words from the base of the stream") {
    Attention a{.batch = 2, .heads = 4, .kv_heads = 2, .queries = 70, .keys = 67, .dim = 16};
    a.value_dim = 16;
    a.dropout = 0.4;
    a.seed = 11;
    a.dropout_offset = 4004;
    const Inputs<float> x(a);
    const Outcome want = outcome(a, x, nullptr);
    const uint64_t base = 4000;
    a.dropout_offset = 4;
    CHECK(outcome(a, x, nullptr, {.rng_base = &base}) == want);
    CHECK(outcome(a, x, nullptr) != want);
  }

  TEST_CASE("heads without elements give zeros, or the mean of what they attend") {
    for (const auto& [dim, value_dim] : {std::pair<int64_t, int64_t>{0, 4}, {4, 0}, {0, 0}}) {
      Attention a = attention_of(bf16, 2, 3, 0, {});
      a.dim = dim, a.value_dim = value_dim;
      const Inputs<bfloat16_t> x(a);
      for (const auto& result : outcome(a, x, attention::bf16_microkernel(a)))
        for (const float v : result) CHECK(std::isfinite(v));
    }
  }

  TEST_CASE("sizes that make no sense are refused") {
    const Attention a{.batch = 1, .heads = 3, .kv_heads = 2, .queries = 1, .keys = 1};
    CHECK_THROWS_AS(run(Cpu{}, FlashAttentionForward{.attention = a}), Error);
    CHECK_THROWS_AS(run(Cpu{}, FlashAttentionBackward{.attention = a}), Error);
  }
}
