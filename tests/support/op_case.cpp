#include <tests/support/op_case.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include <doctest/doctest.h>

#include <olm/kernels/base/parallel.h>

namespace olm::test {
namespace {

bool contains(const std::vector<size_t>& list, size_t i) {
  return std::find(list.begin(), list.end(), i) != list.end();
}

Tensors converted(const OpCase& c, const Tensors& inputs, DType dtype) {
  Tensors result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& x = inputs[i];
    const bool parameter = contains(c.parameters, i);
    const DType to = !is_float(x.dtype()) ? x.dtype() : parameter ? acc_dtype(dtype) : dtype;
    result.push_back(raw::clone(raw::cast(x, to)));
    if (is_float(to) && !contains(c.fixed, i)) set_requires_grad(result.back());
  }
  return result;
}

/// Value and gradients of fn for dy = projection.
struct Outcome {
  Tensor y;
  Tensors grads;
};
Outcome outcome(const std::function<Tensor(const Tensors&)>& fn, const Tensors& inputs,
                const Tensor& projection, bool strided) {
  Tensors given;
  for (const Tensor& x : inputs) {
    Tensor t = strided ? strided_copy(x) : x;
    if (strided && requires_grad(x)) set_requires_grad(t);
    given.push_back(t);
  }
  Outcome o{.y = fn(given), .grads = {}};
  if (!requires_grad(o.y)) return o;
  backward(o.y, {.gradient = raw::cast(projection, o.y.dtype())});
  for (const Tensor& x : given) o.grads.push_back(requires_grad(x) ? grad(x) : Tensor());
  return o;
}

void compare(const OpCase& c, const Tensors& base, DType dtype, bool strided, int64_t n) {
  const std::string what =
      std::string(name_of(dtype)) + (strided ? " strided" : "") + " size " + std::to_string(n);
  const Tensors inputs = converted(c, base, dtype);
  // The reference sees what the op sees: values rounded to dtype, then widened to f64.
  Tensors rounded;
  for (const Tensor& x : inputs) rounded.push_back(x);
  const Tensors wide = converted(c, rounded, f64);
  Generator rng(17);
  const auto& reference = c.composition ? c.composition : c.op;
  Shape shape;
  {
    NoGrad guard;
    shape = reference(wide).shape();
  }
  const Tensor projection = raw::cast(randn(shape, rng), dtype);
  const Outcome wanted = outcome(reference, wide, projection, false);
  const Outcome got = outcome(c.op, inputs, projection, strided);
  check_close(got.y, wanted.y, dtype, c.reduction(n), what + " value", c.cancelling);
  for (size_t i = 0; i < got.grads.size(); ++i) {
    if (!got.grads[i].defined() && !(i < wanted.grads.size() && wanted.grads[i].defined()))
      continue;
    REQUIRE_MESSAGE(got.grads[i].defined(), what, " gradient ", i, " is missing");
    check_close(got.grads[i], wanted.grads[i], dtype, c.reduction(n),
                what + " gradient " + std::to_string(i), c.cancelling);
  }
}

}  // namespace

Tensor strided_copy(const Tensor& x) {
  if (x.rank() == 0) return raw::clone(x);
  Shape wide = x.shape();
  wide[x.rank() - 1] *= 2;
  const Tensor memory = zeros(wide, options_of(x));
  const Tensor y = raw::slice(memory, -1, 0, wide.back(), 2);
  raw::copy_(y, x);
  return y;
}

Difference difference(const Tensor& got, const Tensor& wanted, double least_scale) {
  REQUIRE(got.shape() == wanted.shape());
  const std::vector<double> a = to_host<double>(got), b = to_host<double>(wanted);
  double squares = 0, reference = 0, largest = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) {
      if (std::isfinite(b[i])) reference += b[i] * b[i], scale = std::max(scale, std::abs(b[i]));
      continue;
    }
    const double d = std::abs(a[i] - b[i]);
    if (!std::isfinite(d)) return {INFINITY, INFINITY};
    squares += d * d;
    reference += b[i] * b[i];
    largest = std::max(largest, d);
    scale = std::max(scale, std::abs(b[i]));
  }
  if (squares == 0) return {};
  scale = std::max(scale, std::max(least_scale, 1e-300));
  reference = std::max(reference, double(a.size()) * least_scale * least_scale);
  return {std::sqrt(squares / std::max(reference, 1e-300)), largest / scale};
}

void check_close(const Tensor& got, const Tensor& wanted, DType dtype, double length,
                 const std::string& what, double least_scale) {
  const double epsilon = dtype == f64    ? 0x1p-52
                         : dtype == f32  ? 0x1p-23
                         : dtype == bf16 ? 0x1p-8
                                         : 0x1p-11;
  // Storage rounds once or twice; sums run in the accumulator's precision.
  const double sums = (dtype == f64 ? 0x1p-52 : 0x1p-23) * std::sqrt(std::max(length, 1.0));
  const double tolerance = 4 * (epsilon + sums);
  const Difference d = difference(got, wanted, least_scale);
  CHECK_MESSAGE(d.relative_l2 <= tolerance, what, ": relative L2 ", d.relative_l2, " > ",
                tolerance);
  CHECK_MESSAGE(d.max_error <= 4 * tolerance, what, ": max error ", d.max_error, " > ",
                4 * tolerance);
}

void check_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
  REQUIRE(a.shape() == b.shape());
  REQUIRE(a.dtype() == b.dtype());
  const Tensor x = raw::contiguous(a), y = raw::contiguous(b);
  const size_t bytes = size_t(x.numel()) * size_of(x.dtype());
  CHECK_MESSAGE((bytes == 0 || std::memcmp(x.data(), y.data(), bytes) == 0), what, ": bits differ");
}

void gradcheck(const OpCase& c, double tolerance) {
  Generator rng(11);
  const Tensors base = c.inputs(rng, c.gradcheck_size);
  const Tensors inputs = converted(c, base, f64);
  Tensor y = c.op(inputs);
  const Tensor projection = randn(y.shape(), rng, {.dtype = f64});
  const std::vector<double> weights = to_host<double>(projection);
  backward(y, {.gradient = projection});
  const auto value = [&] {
    NoGrad guard;
    const std::vector<double> v = to_host<double>(c.op(inputs));
    double sum = 0;
    for (size_t i = 0; i < v.size(); ++i) sum += v[i] * weights[i];
    return sum;
  };
  for (size_t k = 0; k < inputs.size(); ++k) {
    if (!requires_grad(inputs[k])) continue;
    const Tensor g = grad(inputs[k]);
    REQUIRE_MESSAGE(g.defined(), "input ", k, " received no gradient");
    const std::vector<double> analytic = to_host<double>(g);
    double* x = inputs[k].mutable_data<double>();
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

void compare_all(const OpCase& c) {
  for (const int64_t n : c.sizes) {
    Generator rng{uint64_t(100 + n)};
    const Tensors base = c.inputs(rng, n);
    for (const DType dtype : {f32, bf16, f16})
      for (const bool strided : {false, true}) compare(c, base, dtype, strided, n);
  }
}

void check_error(const std::function<void()>& call, const std::vector<std::string>& parts) {
  try {
    call();
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const std::string& part : parts)
      CHECK_MESSAGE(text.find(part) != std::string::npos, "\"", text, "\" lacks \"", part, "\"");
    return;
  }
  FAIL_CHECK("no error was thrown");
}

void check_same_for_any_threads(const std::function<Tensors()>& body) {
  const int before = num_threads();
  set_threads(1);
  const Tensors one = body();
  set_threads(2);
  const Tensors two = body();
  set_threads(before);
  REQUIRE(one.size() == two.size());
  for (size_t i = 0; i < one.size(); ++i)
    check_same_bits(one[i], two[i], "1 and 2 threads, result " + std::to_string(i));
}

}  // namespace olm::test
