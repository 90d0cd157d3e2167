#include <olm/kernels/linear_cross_entropy.h>

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using namespace olm;
using namespace olm::kernels;

namespace {

struct ChunkResult {
  std::vector<float> losses, logits;
  std::vector<bfloat16_t> dlogits;
};

/// A chunk whose rows of logits and gradients lie at the given strides, NaN between them.
ChunkResult run_chunk(int64_t rows, int64_t cols, int64_t logits_stride, int64_t dlogits_stride) {
  const int64_t x_step = logits_stride ? logits_stride : cols;
  const int64_t dx_step = dlogits_stride ? dlogits_stride : cols;
  ChunkResult y{std::vector<float>(size_t(rows)), std::vector<float>(size_t(rows * x_step), NAN),
                std::vector<bfloat16_t>(size_t(rows * dx_step), bfloat16_t(NAN))};
  std::vector<int64_t> targets;
  for (int64_t r = 0; r < rows; ++r) {
    targets.push_back(r == 1 ? -100 : (5 * r) % cols);
    for (int64_t c = 0; c < cols; ++c)
      y.logits[size_t(r * x_step + c)] = float((r * 31 + c * 17) % 13) - 6;
  }
  const float scale = 0.25f;
  run(Cpu{}, CrossEntropyChunk{.dtype = bf16,
                               .losses = y.losses.data(),
                               .dlogits = y.dlogits.data(),
                               .logits = y.logits.data(),
                               .targets = targets.data(),
                               .scale = &scale,
                               .rows = rows,
                               .cols = cols,
                               .logits_stride = logits_stride,
                               .dlogits_stride = dlogits_stride,
                               .softcap = 4});
  return y;
}

}  // namespace

TEST_SUITE("kernels/linear_cross_entropy") {
  TEST_CASE("rows of logits and of their gradients may lie apart, each at a stride of its own") {
    constexpr int64_t rows = 9, cols = 37, x_step = 64, dx_step = 48;
    const ChunkResult tight = run_chunk(rows, cols, 0, 0);
    const ChunkResult apart = run_chunk(rows, cols, x_step, dx_step);
    CHECK(apart.losses == tight.losses);
    int64_t differing = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < x_step; ++c) {
        const float x = apart.logits[size_t(r * x_step + c)];
        differing += c < cols ? x != tight.logits[size_t(r * cols + c)] : !std::isnan(x);
      }
      for (int64_t c = 0; c < dx_step; ++c) {
        const bfloat16_t dx = apart.dlogits[size_t(r * dx_step + c)];
        differing +=
            c < cols ? dx.bits != tight.dlogits[size_t(r * cols + c)].bits : !std::isnan(float(dx));
      }
    }
    CHECK(differing == 0);
  }
}
