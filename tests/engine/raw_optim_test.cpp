// The numbers of an optimizer step in the memory of a device, and the biases of experts.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/engine/raw_optim.h>

#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

Tensor scalar(double value, DType dtype = f32) {
  return on_test_device(full({}, value, {.dtype = dtype}));
}

/// Opens a step over one gradient of norm 5.
kernels::StepScalars begin(const raw::StepState& state, const raw::BeginStepOptions& options) {
  const Tensor g = on_test_device(from_host<float>({3, 4}, {2}));
  raw::begin_step(state, raw::squared_sums({g}), options);
  return state.read();
}

}  // namespace

TEST_SUITE("engine/raw_optim") {
  TEST_CASE("a step's numbers stay at one address, and what the host writes leaves losses alone") {
    raw::StepState state(test_device());
    const kernels::StepScalars* address = state.scalars();
    raw::accumulate_loss(state, scalar(2), {}, 3, true);
    for (int64_t step = 0; step < 3; ++step) {
      state.write({.lr = 0.5, .gradient_scale = 0.25, .step = step});
      CHECK(state.scalars() == address);
      const kernels::StepScalars s = state.read();
      CHECK(s.lr == 0.5);
      CHECK(s.gradient_scale == 0.25);
      CHECK(s.step == step);
      CHECK(s.loss == 6);
    }
  }

  TEST_CASE("losses of micro-batches add up without auxiliary losses, which add up beside them") {
    const raw::StepState state(test_device());
    raw::accumulate_loss(state, scalar(100), {scalar(7)}, 9, true);  // an earlier step's
    raw::accumulate_loss(state, scalar(2.5), {scalar(0.25), scalar(0.125)}, 3, true);
    raw::accumulate_loss(state, scalar(4), {}, 5, false);
    raw::accumulate_loss(state, scalar(1.5, bf16), {scalar(0.5, bf16)}, 2, false);
    CHECK(state.read().loss == 2.125 * 3 + 4.0 * 5 + 1.0 * 2);
    CHECK(state.read().aux == 0.375 * 3 + 0.5 * 2);
    state.write({});
    const kernels::StepScalars s = begin(state, {.targets = 10});
    CHECK(s.loss == (2.125 * 3 + 4.0 * 5 + 1.0 * 2) / 10);
    CHECK(s.aux == (0.375 * 3 + 0.5 * 2) / 10);
    CHECK(begin(state, {}).loss == 0);
  }

  TEST_CASE("many auxiliary losses are summed in order") {
    const raw::StepState state(test_device());
    Tensors aux;
    double sum = 0;
    for (int i = 0; i < 1000; ++i) {
      aux.push_back(scalar(1 / double(i + 3)));
      sum += double(float(1 / double(i + 3)));
    }
    raw::accumulate_loss(state, scalar(8), aux, 1, true);
    CHECK(state.read().aux == sum);
    CHECK(state.read().loss == 8 - sum);
  }

  TEST_CASE("a step is skipped for its norm or its loss, and else counted and clipped") {
    const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
    const auto open = [&](double loss, const raw::BeginStepOptions& options) {
      const raw::StepState state(test_device());
      state.write({.gradient_scale = 2, .step = 7});
      raw::accumulate_loss(state, scalar(loss), {}, 4, true);
      return begin(state, options);
    };
    const kernels::StepScalars good = open(3, {.targets = 4, .clip_norm = 1});
    CHECK(good.norm == 10);
    CHECK(good.skip == 0);
    CHECK(good.step == 8);
    CHECK(good.clip == doctest::Approx(2 / (10 + 1e-6)).epsilon(1e-14));
    CHECK(open(3, {.targets = 4, .skip_above = 10, .skip_loss_above = 3}).skip == 0);
    for (const kernels::StepScalars& s :
         {open(3, {.targets = 4, .clip_norm = 1, .skip_above = 9.9}),
          open(3, {.targets = 4, .clip_norm = 1, .skip_loss_above = 2.9}),
          open(nan, {.targets = 4, .clip_norm = 1}), open(inf, {.targets = 4, .clip_norm = 1})}) {
      CHECK(s.skip != 0);
      CHECK(s.step == 7);
      CHECK(s.clip == 2);
      CHECK(s.norm == 10);
    }
  }

  TEST_CASE("biases move against the load of several passes") {
    const Tensor bias = on_test_device(from_host<float>({0.5f, -1, 0, 2}, {4}));
    const auto offsets = [](std::initializer_list<int32_t> values) {
      return on_test_device(from_host<int32_t>(values, {5}));
    };
    // Loads 8, 4, 0 and 4 of 16.
    const Tensors passes{offsets({0, 5, 5, 5, 9}), offsets({0, 3, 7, 7, 7})};
    raw::update_expert_bias_(bias, passes, 0.1);
    CHECK(to_host<float>(bias) == std::vector<float>{float(0.5 - 0.1), -1, float(0.1), 2});
    raw::update_expert_bias_(bias, {offsets({0, 0, 0, 0, 0})}, 0.1);
    CHECK(to_host<float>(bias)[0] == float(0.5 - 0.1));
    const Tensor few = on_test_device(zeros({4}, {.dtype = i32}));
    check_error([&] { raw::update_expert_bias_(bias, {few}, 0.1); },
                {"expert bias", "[E+1]", "[4]"});
  }

  TEST_CASE("losses that are no scalars of one dtype are refused") {
    const raw::StepState state(test_device());
    check_error([&] { raw::accumulate_loss(state, on_test_device(zeros({2})), {}, 1, true); },
                {"accumulate loss", "scalar", "[2]"});
    check_error([&] { raw::accumulate_loss(state, scalar(1), {scalar(1, bf16)}, 1, true); },
                {"accumulate loss", "bf16"});
  }
}
