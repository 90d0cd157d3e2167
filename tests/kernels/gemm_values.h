#pragma once
// Matrices of any float dtype beside their values in f64, and what an epilogue makes of a number.
#include <cmath>
#include <random>
#include <vector>

#include <olm/kernels/base/visit.h>
#include <olm/kernels/gemm.h>

namespace olm::test {

using namespace kernels;

/// A matrix in some dtype and the values it holds as f64.
struct Values {
  DType dtype = f32;
  std::vector<char> bytes = {};
  std::vector<double> exact = {};
  void* data() { return bytes.data(); }
};

inline Values make(DType dtype, int64_t n, uint32_t seed) {
  Values v{.dtype = dtype, .bytes = std::vector<char>(size_t(n) * size_of(dtype))};
  std::mt19937 rng(seed);
  std::normal_distribution<double> normal;
  visit_float(dtype, [&]<class T>() {
    for (int64_t i = 0; i < n; ++i) {
      const T value = T(acc_t<T>(normal(rng)));
      out<T>(v.data())[i] = value;
      v.exact.push_back(double(acc_t<T>(value)));
    }
  });
  return v;
}

inline std::vector<double> read(const Values& v) {
  std::vector<double> result;
  visit_float(v.dtype, [&]<class T>() {
    for (size_t i = 0; i < v.bytes.size() / sizeof(T); ++i)
      result.push_back(double(acc_t<T>(in<T>(v.bytes.data())[i])));
  });
  return result;
}

inline double epsilon(DType t) {
  return t == f64 ? 1e-15 : t == f32 ? 1e-7 : t == bf16 ? 4e-3 : 5e-4;
}

inline double activated(Activation act, double z) {
  switch (act) {
    case Activation::none:
      return z;
    case Activation::relu:
      return z > 0 ? z : 0;
    case Activation::gelu:
      return 0.5 * z * std::erfc(-z / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * z * (1 + std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
    case Activation::silu:
      return z / (1 + std::exp(-z));
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-z));
    case Activation::tanh:
      return std::tanh(z);
  }
  return 0;
}

}  // namespace olm::test
