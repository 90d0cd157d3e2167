// Routing and sorting on the device under test choose as the CPU does: many experts, ties, NaN,
// infinities, groups.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/autograd/ops/moe_permute.h>
#include <olm/autograd/ops/moe_route.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

bool on_card() { return test_device().kind == DeviceKind::cuda; }

/// Logits in steps of a half, so that many are equal; rows of NaN, infinities and zeros of both
/// signs among them.
Tensor awkward_logits(int64_t tokens, int64_t experts) {
  Generator g(3);
  const Tensor x = randn({tokens, experts}, g);
  auto* v = x.mutable_data<float>();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < x.numel(); ++i) {
    v[i] = std::round(2 * v[i]) / 2;
    const int64_t row = i / experts % 7;
    if (row == 1 && i % 5 == 0) v[i] = std::nanf("");
    if (row == 2) v[i] = -kInfinity;
    if (row == 3 && i % 3 == 0) v[i] = -kInfinity;
    if (row == 4) v[i] = i % 2 ? 0.0f : -0.0f;
    if (row == 5 && i % 4 == 0) v[i] = kInfinity;
  }
  return x;
}

void compare_routes(int64_t tokens, int64_t experts, const MoERouteOptions& options) {
  INFO(tokens, " tokens, ", options.top_k, " of ", experts, ", ", options.top_groups, " of ",
       options.groups, " groups, ", kernels::name_of(options.scoring));
  const Tensor logits = awkward_logits(tokens, experts);
  const MoERouting wanted = moe_route(logits, options);
  const MoERouting got = moe_route(on_test_device(logits), options);
  check_same_bits(raw::to(got.experts, cpu), wanted.experts, "experts");
  const Tensor w = raw::to(got.weights, cpu);
  for (int64_t i = 0; i < w.numel(); ++i) {
    const float a = w.data<float>()[i], b = wanted.weights.data<float>()[i];
    REQUIRE((std::isnan(a) ? std::isnan(b) : std::fabs(a - b) <= 2e-6f * std::fabs(b)));
  }
}

}  // namespace

TEST_SUITE("kernels/cuda/moe_route") {
  TEST_CASE("the choice is the CPU's") {
    if (!on_card()) return;
    for (const MoEScoring scoring : {MoEScoring::softmax, MoEScoring::sigmoid}) {
      compare_routes(21, 8, {.top_k = 2, .scoring = scoring});
      compare_routes(9, 40, {.top_k = 40, .scoring = scoring});
      compare_routes(8, 512, {.top_k = 10, .scoring = scoring, .normalize = false});
      compare_routes(14, 256,
                     {.top_k = 8, .scoring = scoring, .scale = 2.5, .groups = 8, .top_groups = 4});
      compare_routes(7, 6, {.top_k = 2, .scoring = scoring, .groups = 6, .top_groups = 3});
    }
  }

  TEST_CASE("the order of sorted pairs is the CPU's") {
    if (!on_card()) return;
    for (const int64_t experts : {1, 7, 300})
      for (const int64_t pairs : {0, 1, 33, 512, 1500}) {
        INFO(pairs, " pairs of ", experts);
        std::vector<int64_t> ids;
        for (int64_t i = 0; i < pairs; ++i) ids.push_back((i * i + i / 3) % experts);
        const Tensor chosen = from_host(ids, {pairs, 1});
        const MoEPermutation wanted = moe_sort(chosen, experts),
                             got = moe_sort(on_test_device(chosen), experts);
        check_same_bits(raw::to(got.rows, cpu), wanted.rows, "rows");
        check_same_bits(raw::to(got.positions, cpu), wanted.positions, "positions");
        check_same_bits(raw::to(got.offsets, cpu), wanted.offsets, "offsets");
      }
  }

  TEST_CASE("an expert that does not exist is told, and its pair left out") {
    if (!on_card()) return;
    const Tensor chosen = on_test_device(from_host<int64_t>({0, 2, 5, 1}, {2, 2}));
    const MoEPermutation p = moe_sort(chosen, 3);
    check_error([&] { raw::to(p.rows, cpu); }, {"moe_sort", "index 5", "position 2", "[0, 3)"});
    CHECK(raw::to(p.offsets, cpu).data<int32_t>()[3] == 3);
    CHECK(raw::to(p.positions, cpu).data<int32_t>()[2] == -1);
  }
}
