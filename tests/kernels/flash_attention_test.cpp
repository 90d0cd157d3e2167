#include <olm/kernels/flash_attention.h>

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <vector>

using namespace olm;
using namespace olm::kernels;

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

std::vector<float> normal(int64_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> value;
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = value(rng);
  return x;
}

/// Output, logsumexp and all gradients of one call with scratch full of `byte`.
std::vector<std::vector<float>> outcome(Attention a, int byte) {
  FilledScratch source(byte);
  const Stream stream{.source = &source};
  const int64_t h = a.heads, k = a.kv_heads, t = a.queries, s = a.keys;
  const auto q = normal(a.batch * t * h * a.dim, 1), keys = normal(a.batch * s * k * a.dim, 2);
  const auto v = normal(a.batch * s * k * a.value_dim, 3);
  const auto dy = normal(a.batch * t * h * a.value_dim, 4);
  std::vector<float> y(dy.size()), lse(size_t(a.batch * h * t)), dq(q.size()), dk(keys.size());
  const auto sink_size = static_cast<size_t>(h);
  std::vector<float> dv(v.size()), dmask(size_t(t * s)), dsink(sink_size);
  const auto rows = [](const std::vector<float>& x, int64_t n, int64_t heads, int64_t dim) {
    return HeadRows{x.data(), n * heads * dim, heads * dim, dim};
  };
  const auto rows_out = [](std::vector<float>& x, int64_t n, int64_t heads, int64_t dim) {
    return HeadRowsOut{x.data(), n * heads * dim, heads * dim, dim};
  };
  run(Cpu{}, FlashAttentionForward{.attention = a,
                                   .q = rows(q, t, h, a.dim),
                                   .k = rows(keys, s, k, a.dim),
                                   .v = rows(v, s, k, a.value_dim),
                                   .y = rows_out(y, t, h, a.value_dim),
                                   .logsumexp = lse.data(),
                                   .stream = stream});
  FlashAttentionBackward back{.attention = a,
                              .q = rows(q, t, h, a.dim),
                              .k = rows(keys, s, k, a.dim),
                              .v = rows(v, s, k, a.value_dim),
                              .y = rows(y, t, h, a.value_dim),
                              .dy = rows(dy, t, h, a.value_dim),
                              .logsumexp = lse.data(),
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
  run(Cpu{}, back);
  return {y, lse, dq, dk, dv, dmask, dsink};
}

}  // namespace

TEST_SUITE("kernels/flash_attention") {
  TEST_CASE("scratch memory is written before it is read") {
    const std::vector<float> mask = normal(70 * 150, 5), sink = normal(4, 6), slopes{1, 2, 3, 4};
    const std::vector<int32_t> ids_q(2 * 70, 1), ids_k(2 * 150, 1), lengths{0, 77};
    for (const int64_t batch : {2, 8})
      for (const int64_t queries : {1, 33, 70})
        for (int bits = 0; bits < 128; ++bits) {
          Attention a{.batch = batch,
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
            a.mask = mask.data();
            a.mask_dtype = f32;
            a.mask_strides[2] = 150;
            a.mask_strides[3] = 1;
          }
          if (bits & 64) a.sink = sink.data(), a.slopes = slopes.data();
          if (bits & 64 && batch == 2) {
            a.key_lengths = lengths.data();
            a.query_documents = ids_q.data();
            a.key_documents = ids_k.data();
          }
          CAPTURE(bits);
          CAPTURE(queries);
          const auto zero = outcome(a, 0), full = outcome(a, 0xff);  // 0xff: not a number
          for (size_t i = 0; i < zero.size(); ++i) {
            CAPTURE(i);
            REQUIRE(std::memcmp(zero[i].data(), full[i].data(), zero[i].size() * 4) == 0);
          }
        }
  }

  TEST_CASE("sizes that make no sense are refused") {
    const Attention a{.batch = 1, .heads = 3, .kv_heads = 2, .queries = 1, .keys = 1};
    CHECK_THROWS_AS(run(Cpu{}, FlashAttentionForward{.attention = a}), Error);
    CHECK_THROWS_AS(run(Cpu{}, FlashAttentionBackward{.attention = a}), Error);
  }
}
