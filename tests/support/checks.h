#pragma once
// Checks of tensors and errors, within what a dtype can do.
#include <functional>
#include <string>
#include <vector>

#include <olm/autograd/tape.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>

#include <tests/support/targets.h>

namespace olm::test {

/// Where ops under test run: the environment's OLM_TEST_DEVICE, else the CPU. References in f64 are
/// always computed on the CPU.
Device test_device();
/// x there; x itself where it is undefined or of f64, which the CPU alone has.
Tensor on_test_device(const Tensor& x);

/// Relative L2 distance, and largest difference over the largest reference value.
struct Difference {
  double relative_l2 = 0, max_error = 0;
};
Difference difference(const Tensor& got, const Tensor& wanted, double least_scale = 0);

/// The L2 norm.
double norm(const std::vector<double>& values);

/// A relative L2 distance, and what it was allowed to be.
struct Compared {
  double error = 0, tolerance = 0;
};

/// Checks that `got` equals `wanted` (any dtype) within what `dtype` can do over sums of `length`;
/// values are taken to be at least of size `least_scale`.
Compared check_close(const Tensor& got, const Tensor& wanted, DType dtype, double length,
                     const std::string& what, double least_scale = 0);
/// Checks equality of every bit.
void check_same_bits(const Tensor& a, const Tensor& b, const std::string& what);

/// Checks that `call` throws olm::Error with a message that contains all of `parts`.
void check_error(const std::function<void()>& call, const std::vector<std::string>& parts);

/// Runs `body` with 1 and with 2 threads; checks that both give the same bits.
void check_same_for_any_threads(const std::function<Tensors()>& body);

/// A tensor like x whose last dimension is strided, same values.
Tensor strided_copy(const Tensor& x);

}  // namespace olm::test
