#pragma once
// Matrices in the memory of the device under test.
#include <algorithm>
#include <cmath>
#include <cstring>

#include <olm/engine/raw.h>
#include <tests/kernels/gemm_values.h>
#include <tests/support/checks.h>

namespace olm::test {

/// Keeps the largest error; NaN counts as infinite.
inline void keep_worst(double& worst, double error) {
  worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error);
}

/// Values there, as long as this lives.
class Placed {
 public:
  Placed(DType dtype, int64_t n, uint32_t seed) : values_(make(dtype, n, seed)) {
    const Tensor host = empty({n}, {.dtype = dtype});
    std::memcpy(host.mutable_data(), values_.data(), values_.bytes.size());
    tensor_ = on_test_device(host);
  }
  void* data() const { return tensor_.mutable_data(); }
  /// Element i and those after it.
  void* at(int64_t i) const {
    return static_cast<char*>(data()) + i * int64_t(size_of(values_.dtype));
  }
  double exact(int64_t i) const { return values_.exact[size_t(i)]; }
  Stream stream() const { return stream_of(tensor_); }
  /// What is there now.
  std::vector<double> read() const {
    const Tensor host = raw::to(tensor_, cpu);
    Values v{.dtype = values_.dtype, .bytes = std::vector<char>(values_.bytes.size())};
    std::memcpy(v.data(), host.data(), v.bytes.size());
    return test::read(v);
  }

 private:
  Values values_;
  Tensor tensor_;
};

}  // namespace olm::test
