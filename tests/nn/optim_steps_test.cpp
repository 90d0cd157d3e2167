// What a step reports, skips, scales and leaves alone; groups of parameters; schedules.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/tape.h>
#include <olm/nn/optim.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

TEST_SUITE("nn/optim") {
  TEST_CASE("a step reports the mean loss, and a loss too large or not finite skips it") {
    const Tensor p = zeros({4}, {.dtype = f64});
    SGD optimizer({p}, {.lr = 1});
    const auto step = [&](double loss, StepOptions options = {}) {
      set_grad(p, full({4}, 1, {.dtype = f64}));
      optimizer.add_loss(full({}, loss), {full({}, 0.5)}, 2);
      optimizer.add_loss(full({}, 5), {}, 6);
      return optimizer.step(options);
    };
    const StepInfo good = step(1);
    CHECK(good.loss == (0.5 * 2 + 5.0 * 6) / 8);
    CHECK(good.aux_loss == 0.5 * 2 / 8);
    CHECK_FALSE(good.skipped);
    CHECK(to_host<double>(p)[0] == -1);
    const StepInfo large = step(9, {.skip_loss_above = 5.5});
    CHECK(large.loss == (8.5 * 2 + 5.0 * 6) / 8);
    CHECK(large.skipped);
    CHECK(large.first_bad == -1);
    CHECK(step(NAN).skipped);
    CHECK(to_host<double>(p)[0] == -1);
    CHECK(optimizer.steps() == 1);
    // What was added before a clearing belongs to no step.
    optimizer.add_loss(full({}, NAN), {}, 1);
    optimizer.zero_grad();
    set_grad(p, full({4}, 1, {.dtype = f64}));
    const StepInfo plain = optimizer.step();
    CHECK_FALSE(plain.skipped);
    CHECK(plain.loss == 0);
    // Without gradients there is nothing to do but to report, and targets may be none.
    optimizer.add_loss(full({}, 3), {}, 4);
    CHECK(optimizer.step().loss == 3);
    optimizer.add_loss(full({}, 3), {}, 0);
    CHECK(optimizer.step().loss == 0);
    CHECK(optimizer.step().loss == 0);
    CHECK(optimizer.steps() == 2);
    check_error([&] { optimizer.add_loss(full({}, 3), {}, -1); }, {"SGD", "targets", "-1"});
  }

  TEST_CASE("gradients are scaled, then measured, then clipped") {
    const auto stepped = [](double gradient, StepOptions step, double clip) {
      const Tensor p = zeros({4}, {.dtype = f64});
      SGD optimizer({p}, {.lr = 1, .clip_norm = clip});
      set_grad(p, full({4}, gradient, {.dtype = f64}));
      const StepInfo info = optimizer.step(step);
      return std::pair(info.grad_norm, -to_host<double>(p)[0]);
    };
    CHECK(stepped(3, {}, 0) == std::pair(6.0, 3.0));
    CHECK(stepped(3, {.gradient_scale = 0.5}, 0) == std::pair(3.0, 1.5));
    CHECK(stepped(3, {.gradient_scale = 0.5}, 5) == std::pair(3.0, 1.5));
    const auto [norm, moved] = stepped(3, {.gradient_scale = 0.5}, 1);
    CHECK(norm == 3);
    CHECK(moved == doctest::Approx(1.5 / (3 + 1e-6)).epsilon(1e-14));
  }

  TEST_CASE("groups have their own rate and decay; vectors do not decay by default") {
    const Tensor matrix = ones({2, 2}), vector = ones({2});
    const auto groups = decay_groups({vector, matrix}, 0.5);
    AdamW optimizer(groups, {.lr = 0.1});
    CHECK(optimizer.parameters()[0].is_same(matrix));
    for (const Tensor& p : {matrix, vector}) set_grad(p, zeros(p.shape()));
    optimizer.step();
    CHECK(to_host<float>(matrix)[0] == doctest::Approx(0.95));
    CHECK(to_host<float>(vector)[0] == 1);

    const Tensor fast = zeros({2}), slow = zeros({2});
    SGD sgd({{.parameters = {fast}, .lr_scale = 10.0}, {.parameters = {slow}}}, {.lr = 0.1});
    for (const Tensor& p : {fast, slow}) set_grad(p, ones({2}));
    sgd.step();
    CHECK(to_host<float>(fast)[0] == doctest::Approx(-1));
    CHECK(to_host<float>(slow)[0] == doctest::Approx(-0.1));
  }

  TEST_CASE("parameters without a gradient are left alone") {
    const Tensor a = ones({3}), b = ones({3});
    AdamW optimizer({a, b}, {.lr = 0.1, .weight_decay = 0.5});
    CHECK(optimizer.step().grad_norm == 0);
    CHECK(optimizer.steps() == 0);
    set_grad(a, ones({3}));
    optimizer.step();
    CHECK(to_host<float>(b) == std::vector<float>{1, 1, 1});
    CHECK(to_host<float>(a)[0] < 1);
    CHECK(optimizer.state_dict().count("exp_avg.1") == 0);
    optimizer.set_lr(0);
    set_grad(b, ones({3}));
    optimizer.step();
    CHECK(to_host<float>(b) == std::vector<float>{1, 1, 1});
  }

  TEST_CASE("schedules warm up and end where they should") {
    const Schedule cosine{.lr = 2, .min_lr = 0.5, .warmup_steps = 4, .total_steps = 24};
    CHECK(cosine.at(0) == 0.5);
    CHECK(cosine.at(3) == 2);
    CHECK(cosine.at(4) == 2);
    CHECK(cosine.at(14) == doctest::Approx(1.25));
    CHECK(cosine.at(9) == doctest::Approx(0.5 + 1.5 * 0.5 * (1 + std::cos(M_PI / 4))));
    CHECK(cosine.at(24) == doctest::Approx(0.5));
    CHECK(cosine.at(1000) == doctest::Approx(0.5));
    Schedule linear = cosine;
    linear.kind = "linear";
    CHECK(linear.at(1) == 1);
    CHECK(linear.at(9) == doctest::Approx(2 - 1.5 / 4));
    CHECK(linear.at(99) == 0.5);
    Schedule constant = cosine;
    constant.kind = "constant";
    CHECK(constant.at(2) == 1.5);
    CHECK(constant.at(1000) == 2);
    Schedule wsd = cosine;
    wsd.kind = "wsd";
    wsd.decay_steps = 10;
    CHECK(wsd.at(13) == 2);
    CHECK(wsd.at(14) == 2);
    CHECK(wsd.at(19) == doctest::Approx(1.25));
    CHECK(wsd.at(24) == doctest::Approx(0.5));
    CHECK(Schedule{.kind = "cosine", .lr = 3}.at(0) == 3);
    check_error([] { Schedule{.kind = "step"}.at(1); }, {"step", "constant, linear, cosine, wsd"});
    check_error([] { Schedule{}.at(-1); }, {"-1"});
  }
}
