#include <tests/support/checks.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include <doctest/doctest.h>

#include <olm/kernels/base/parallel.h>

namespace olm::test {

Device test_device() {
  static const Device device = [] {
    const char* name = std::getenv("OLM_TEST_DEVICE");
    return name ? parse_device(name) : cpu;
  }();
  return device;
}

Tensor on_test_device(const Tensor& x) {
  return !x.defined() || x.dtype() == f64 ? x : raw::to(x, test_device());
}

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v * v;
  return std::sqrt(sum);
}

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

Compared check_close(const Tensor& got, const Tensor& wanted, DType dtype, double length,
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
  return {d.relative_l2, tolerance};
}

void check_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
  REQUIRE(a.shape() == b.shape());
  REQUIRE(a.dtype() == b.dtype());
  const Tensor x = raw::contiguous(raw::to(a, cpu)), y = raw::contiguous(raw::to(b, cpu));
  const size_t bytes = size_t(x.numel()) * size_of(x.dtype());
  CHECK_MESSAGE((bytes == 0 || std::memcmp(x.data(), y.data(), bytes) == 0), what, ": bits differ");
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
