#pragma once
// What a test says about an op, and the questions asked of it.
#include <functional>
#include <string>
#include <vector>

#include <olm/autograd/tape.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>

#include <tests/support/targets.h>

namespace olm::test {

/// An op with a way to make its inputs and, where there is one, a composition of simpler ops that
/// computes the same.
struct OpCase {
  /// Inputs for awkward size n, f32; float ones are differentiated unless `fixed` names them.
  std::function<Tensors(Generator&, int64_t n)> inputs;
  std::function<Tensor(const Tensors&)> op;
  std::function<Tensor(const Tensors&)> composition = nullptr;
  std::vector<size_t> fixed = {};  ///< inputs that get no gradient
  std::vector<int64_t> sizes = {0, 1, 31, 33, 4099};
  int64_t gradcheck_size = 5;
  /// Length of the longest sum inside the op for size n: tolerances grow with its square root.
  std::function<double(int64_t n)> reduction = [](int64_t n) { return double(n); };
  /// Typical size of terms that cancel inside the op (a norm's gradient over one column is such a
  /// difference): errors are measured against values of at least this size.
  double cancelling = 0;
  /// Inputs that stay in f32 where the others become bf16 (parameters).
  std::vector<size_t> parameters = {};
};

/// Backward against central differences in f64, under a random projection of the output.
void gradcheck(const OpCase& c, double tolerance = 1e-6);

/// Values and gradients of the op in f32 and bf16, on contiguous and strided inputs of awkward
/// sizes, against the composition in f64.
void compare_all(const OpCase& c);

/// Relative L2 distance, and largest difference over the largest reference value.
struct Difference {
  double relative_l2 = 0, max_error = 0;
};
Difference difference(const Tensor& got, const Tensor& wanted, double least_scale = 0);

/// Checks that `got` equals `wanted` (any dtype) within what `dtype` can do over sums of `length`;
/// values are taken to be at least of size `least_scale`.
void check_close(const Tensor& got, const Tensor& wanted, DType dtype, double length,
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
