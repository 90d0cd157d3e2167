#include <tests/support/op_suite.h>

#include <algorithm>
#include <cmath>

#include <olm/autograd/tape.h>
#include <tests/support/op_errors.h>

namespace olm::test {
namespace {

/// Fresh leaves for activations in `dtype`, on the device under test but for f64.
Tensors leaves_of(const OpCase& c, const Tensors& inputs, DType dtype, bool strided = false) {
  Tensors leaves;
  for (const Tensor& host : in_dtype(c, inputs, dtype)) {
    const Tensor x = dtype == f64 ? host : on_test_device(host);
    leaves.push_back(strided ? strided_copy(x) : raw::clone(x));
    if (is_differentiated(c, leaves.size() - 1, x.dtype())) set_requires_grad(leaves.back());
  }
  return leaves;
}

/// A gradient for each result, of values that `dtype` holds; undefined for results without one.
Tensors projections(const Tensors& ys, DType dtype, Generator& rng) {
  Tensors dys;
  for (const Tensor& y : ys)
    dys.push_back(requires_grad(y) ? raw::cast(randn(y.shape(), rng, {.dtype = f64}), dtype)
                                   : Tensor());
  return dys;
}

/// Gradients of the leaves, undefined for those that have none.
Tensors gradients_of(const Tensors& ys, const Tensors& dys, const Tensors& leaves) {
  Tensors from, weights, wrt;
  for (size_t i = 0; i < ys.size(); ++i)
    if (dys[i].defined()) {
      from.push_back(ys[i]);
      weights.push_back(raw::to(raw::cast(dys[i], ys[i].dtype()), ys[i].device()));
    }
  for (const Tensor& x : leaves)
    if (requires_grad(x)) wrt.push_back(x);
  Tensors all(leaves.size());
  if (from.empty()) return all;
  const Tensors found = gradients(from, weights, wrt);
  for (size_t i = 0, next = 0; i < leaves.size(); ++i)
    if (requires_grad(leaves[i])) all[i] = found[next++];
  return all;
}

/// The op against its composition on inputs of one size, in each layout.
void compare(const OpCase& c, const Tensors& base, DType dtype, const std::vector<bool>& layouts,
             int64_t n) {
  // The reference sees what the op sees: values rounded to dtype, then widened to f64.
  const Tensors wide = leaves_of(c, in_dtype(c, base, dtype), f64);
  const Tensors wanted = (c.composition ? c.composition : c.op)(wide);
  Generator rng(17);
  const Tensors dys = projections(wanted, dtype, rng);
  const Tensors wanted_grads = gradients_of(wanted, dys, wide);
  for (const bool strided : layouts) {
    const std::string what =
        std::string(name_of(dtype)) + (strided ? " strided" : "") + " size " + std::to_string(n);
    const Tensors leaves = leaves_of(c, base, dtype, strided);
    const Tensors got = c.op(leaves);
    REQUIRE_MESSAGE(got.size() == wanted.size(), what);
    for (size_t i = 0; i < got.size(); ++i)
      record_op_error(c.name, dtype, OpPart::forward,
                      check_close(got[i], wanted[i], dtype, c.reduction(n),
                                  what + " result " + std::to_string(i), c.cancelling)
                          .error);
    const Tensors grads = gradients_of(got, dys, leaves);
    for (size_t i = 0; i < grads.size(); ++i) {
      const std::string which = what + " gradient " + std::to_string(i);
      Tensor wanted_grad = wanted_grads[i];
      // Where the host does not know which groups have rows, those without any get zeros.
      if (!wanted_grad.defined() && grads[i].defined() && grads[i].device().kind != DeviceKind::cpu)
        wanted_grad = zeros(grads[i].shape(), {.dtype = f64});
      REQUIRE_MESSAGE(grads[i].defined() == wanted_grad.defined(), which);
      if (!grads[i].defined()) continue;
      record_op_error(
          c.name, dtype, OpPart::backward,
          check_close(grads[i], wanted_grad, dtype, c.reduction(n), which, c.gradient_cancelling)
              .error);
    }
  }
}

Tensors inputs_of(const OpCase& c, int64_t n) {
  Generator rng{uint64_t(100 + n)};
  return c.inputs(rng, with_size(c.shape, n));
}

void gradcheck_size(const OpCase& c, int64_t n, double tolerance) {
  Generator rng(11);
  const Tensors leaves = leaves_of(c, c.inputs(rng, with_size(c.shape, n)), f64);
  const Tensors ys = c.op(leaves);
  const Tensors dys = projections(ys, f64, rng);
  const Tensors analytic_of = gradients_of(ys, dys, leaves);
  const auto value = [&] {
    NoGrad guard;
    const Tensors now = c.op(leaves);
    double sum = 0;
    for (size_t k = 0; k < now.size(); ++k) {
      if (!dys[k].defined()) continue;
      const std::vector<double> v = to_host<double>(now[k]), w = to_host<double>(dys[k]);
      for (size_t i = 0; i < v.size(); ++i) sum += v[i] * w[i];
    }
    return sum;
  };
  for (size_t k = 0; k < leaves.size(); ++k) {
    if (!requires_grad(leaves[k])) continue;
    REQUIRE_MESSAGE(analytic_of[k].defined(), "input ", k, " received no gradient");
    const std::vector<double> analytic = to_host<double>(analytic_of[k]);
    double* x = leaves[k].mutable_data<double>();
    double error = 0, scale = 1;
    for (size_t i = 0; i < analytic.size(); ++i) {
      const double kept = x[i], h = 1e-5 * std::max(1.0, std::abs(kept));
      x[i] = kept + h;
      const double up = value();
      x[i] = kept - h;
      const double down = value();
      x[i] = kept;
      const double numeric = (up - down) / (2 * h);
      error = std::max(error, std::abs(numeric - analytic[i]));
      scale = std::max(scale, std::abs(numeric));
    }
    CHECK_MESSAGE(error <= tolerance * scale, "input ", k, ": gradient off by ", error, " of ",
                  scale);
  }
}

/// Results on leaves, with gradients where there are some.
Tensors results_and_gradients(const OpCase& c, const Tensors& leaves) {
  Tensors results = c.op(leaves);
  Generator rng(23);
  const Tensors grads = gradients_of(results, projections(results, f32, rng), leaves);
  for (const Tensor& g : grads)
    if (g.defined()) results.push_back(g);
  return results;
}

void compare_instruction_sets(const OpCase& c) {
  const Tensors base = inputs_of(c, c.vector_size);
  for_each_target([&](const std::string& target) {
    INFO(target);
    for (const DType dtype : {f32, bf16, f16}) compare(c, base, dtype, {false}, c.vector_size);
  });
}

/// Inputs that are work for several threads.
Tensors large_inputs_of(const OpCase& c) {
  Generator rng(5);
  return c.inputs(rng, c.parallel.rank() ? c.parallel : with_size(c.shape, 20000));
}

void compare_threads(const OpCase& c) {
  const Tensors base = large_inputs_of(c);
  // On another device: twice the same call.
  check_same_for_any_threads([&] { return results_and_gradients(c, leaves_of(c, base, f32)); });
}

void compare_meta(const OpCase& c) {
  for (const DType dtype : {f32, bf16, f64}) {
    const Tensors leaves = leaves_of(c, inputs_of(c, c.gradient_sizes.front()), dtype);
    Tensors there;
    for (const Tensor& x : leaves) {
      there.push_back(empty(x.shape(), {.dtype = x.dtype(), .device = meta}));
      if (requires_grad(x)) set_requires_grad(there.back());
    }
    const Tensors wanted = c.op(leaves), got = c.op(there);
    REQUIRE(got.size() == wanted.size());
    for (size_t i = 0; i < got.size(); ++i) {
      INFO(name_of(dtype), " result ", i);
      CHECK(got[i].device() == meta);
      CHECK(got[i].shape() == wanted[i].shape());
      CHECK(got[i].dtype() == wanted[i].dtype());
      CHECK(requires_grad(got[i]) == requires_grad(wanted[i]));
    }
  }
}

void check_without_gradients(const OpCase& c) {
  for (const Tensor& y : c.op(leaves_of(c, inputs_of(c, c.gradient_sizes.front()), f32)))
    CHECK_FALSE(requires_grad(y));
}

std::vector<OpSuite>& known_suites() {
  static std::vector<OpSuite> suites;
  return suites;
}

}  // namespace

bool add_op_suite(const OpSuite& suite) {
  known_suites().push_back(suite);
  return true;
}

std::vector<OpSuite> op_suites() {
  std::vector<OpSuite> suites = known_suites();
  std::ranges::sort(suites, {}, &OpSuite::name);
  return suites;
}

void check_repeats(const OpCase& c, DType dtype, int times, bool large) {
  const Tensors base = large ? large_inputs_of(c) : inputs_of(c, c.gradient_sizes.front());
  const Tensors leaves = leaves_of(c, base, dtype);
  Tensors dys;  // drawn once, since the host takes longer over it than a card over the op
  const auto run = [&] {
    Tensors results = c.op(leaves);
    if (dys.empty()) {
      Generator rng(23);
      for (const Tensor& dy : projections(results, f32, rng)) dys.push_back(on_test_device(dy));
    }
    for (const Tensor& g : gradients_of(results, dys, leaves))
      if (g.defined()) results.push_back(g);
    for (Tensor& y : results) y = raw::to(y, cpu);
    return results;
  };
  const Tensors first = run();
  for (int i = 1; i < times; ++i) {
    const Tensors again = run();
    REQUIRE(again.size() == first.size());
    for (size_t k = 0; k < again.size(); ++k)
      check_same_bits(again[k], first[k],
                      "run " + std::to_string(i) + ", result " + std::to_string(k));
  }
}

void gradcheck(const OpCase& c, double tolerance) {
  for (const int64_t n : c.gradient_sizes) gradcheck_size(c, n, tolerance);
}

void compare_all(const OpCase& c) {
  for (const int64_t n : c.sizes) {
    const Tensors base = inputs_of(c, n);
    for (const DType dtype : {f32, bf16, f16}) compare(c, base, dtype, {false, true}, n);
    if (c.composition) compare(c, base, f64, {false}, n);
  }
}

void ask(Question question, const OpCases& cases) {
  REQUIRE_FALSE(cases.empty());
  const bool on_cpu = test_device() == cpu;
  // These are about the CPU, whose f64 answers them.
  if (!on_cpu && question != Question::values && question != Question::threads) return;
  for (const OpCase& c : cases) {
    INFO(c.name);
    if (const auto reason = c.unasked.find(question); reason != c.unasked.end()) {
      REQUIRE_FALSE(reason->second.empty());
      if (question == Question::gradients) check_without_gradients(c);
      continue;
    }
    switch (question) {
      case Question::gradients:
        gradcheck(c);
        break;
      case Question::values:
        compare_all(c);
        break;
      case Question::instruction_sets:
        compare_instruction_sets(c);
        break;
      case Question::threads:
        compare_threads(c);
        break;
      case Question::meta:
        compare_meta(c);
        break;
    }
  }
}

}  // namespace olm::test
