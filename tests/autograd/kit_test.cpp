#include <doctest/doctest.h>

#include <functional>

#include <olm/autograd/ops/kit_internal.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

Tensor parameter(DType dtype) {
  const Tensor w = full({2}, 3, {.dtype = dtype});
  set_requires_grad(w);
  return w;
}

/// An op on w whose kernel gives each element the gradient 1, in f32.
Tensor op(const Tensor& w, const std::function<void(const ParamGrad&)>& look, Tensor own = {}) {
  return record("probe", zeros({}), {w}, [=](const Tensor&, Sinks into) -> Grads {
    const ParamGrad dw(into[0], f32, own);
    look(dw);
    if (!dw.accumulates()) raw::fill_(dw.tensor(), 0);
    raw::add_(dw.tensor(), ones({2}));
    return {dw.result()};
  });
}

}  // namespace

TEST_SUITE("autograd/kit") {
  TEST_CASE("a parameter's gradient is added into the gradient so far") {
    const Tensor w = parameter(f32);
    bool accumulates = true;
    const auto look = [&](const ParamGrad& dw) { accumulates = dw.accumulates(); };
    backward(op(w, look));
    CHECK_FALSE(accumulates);
    const void* memory = grad(w).data();
    backward(op(w, look));
    CHECK(accumulates);
    CHECK(grad(w).data() == memory);
    CHECK(to_host<float>(grad(w)) == std::vector<float>{2, 2});
  }

  TEST_CASE("in another dtype than the kernel's it has new memory, and is cast at the end") {
    const Tensor w = parameter(bf16);
    for (int i = 0; i < 2; ++i)
      backward(op(w, [](const ParamGrad& dw) {
        CHECK_FALSE(dw.accumulates());
        CHECK(dw.tensor().dtype() == f32);
        CHECK(dw.result().dtype() == bf16);
      }));
    CHECK(grad(w).dtype() == bf16);
    CHECK(to_host<float>(grad(w)) == std::vector<float>{2, 2});
  }

  TEST_CASE("memory of the op becomes the gradient where backward will not run again") {
    const Tensor w = parameter(f32), kept = parameter(f32);
    const Tensor own = zeros({2}), other = zeros({3});
    bool taken = false;
    const auto look = [&](const ParamGrad& dw) { taken = dw.data() == own.data(); };
    backward(op(w, look, own));
    CHECK(taken);
    backward(op(w, look, own));  // the gradient so far goes before
    CHECK_FALSE(taken);
    backward(op(kept, look, own), {.retain_graph = true});
    CHECK_FALSE(taken);
    zero_grad(w);
    backward(op(
        w, [&](const ParamGrad& dw) { taken = dw.data() == other.data(); }, other));
    CHECK_FALSE(taken);
  }

  TEST_CASE("a gradient that is not needed is nowhere") {
    const ParamGrad dw(Sink{}, f32);
    CHECK(dw.data() == nullptr);
    CHECK_FALSE(dw.accumulates());
    CHECK_FALSE(dw.result().defined());
    CHECK_FALSE(empty_if_needed(Sink{}).defined());
  }

  TEST_CASE("a parameter that does not fit is refused by name") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g), w = randn({3}, g), bf = raw::cast(w, bf16);
    const auto check = [&](const Tensor& p) { checked_parameter("op", "weight", p, {3}, x); };
    check_error([&] { check(randn({4}, g)); }, {"op", "weight", "[3]", "[2,3]", "[4]"});
    check_error([&] { check({}); }, {"op", "weight", "undefined"});
    check_error([&] { check(bf); }, {"op", "bf16", "f32"});
    const Tensor wide = checked_parameter("op", "weight", bf, {3}, raw::cast(x, bf16));
    CHECK(wide.dtype() == f32);
    CHECK_FALSE(checked_if_defined("op", "weight", {}, {3}, x).defined());
    check_error([&] { check_linear("op", x, randn({4, 2}, g), {}); }, {"[out,3]", "[4,2]"});
    check_error([&] { check_linear("op", x, randn({4, 3}, g), w); }, {"bias", "[4]", "[3]"});
  }
}
