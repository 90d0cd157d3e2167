#include <bit>
#include <cmath>

#include <tests/cuda_emulator/kernels.h>
#include <tests/cuda_emulator/support.h>

using namespace olm;
using namespace olm::cuda_emulator;
using namespace olm::cuda_emulator::test;

namespace {

/// What d + a · b is in f64, a [16, depth], b [depth, 8].
template <class T, class Value>
std::vector<double> multiply(const std::vector<float>& d, const std::vector<T>& a,
                             const std::vector<T>& b, int depth, Value value) {
  std::vector<double> want(d.begin(), d.end());
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n)
      for (int k = 0; k < depth; ++k)
        want[size_t(m * 8 + n)] +=
            double(value(a[size_t(m * depth + k)])) * double(value(b[size_t(k * 8 + n)]));
  return want;
}

template <class T, class Value>
void check_mma(int depth, Value value) {
  const Mode in;
  const std::vector<float> d = random_values(128, 1);
  const auto a = random_values<T>(size_t(16 * depth), 2),
             b = random_values<T>(size_t(depth * 8), 3);
  const DeviceArray<float> device_d(d);
  const DeviceArray<T> device_a(a), device_b(b);
  REQUIRE(mma<T>(device_d, device_a, device_b) == cudaSuccess);
  const std::vector<float> got = device_d.values();
  REQUIRE_MESSAGE(got.size() == d.size(), report_text());
  const std::vector<double> want = multiply(d, a, b, depth, value);
  for (size_t i = 0; i < want.size(); ++i) CHECK(std::abs(got[i] - want[i]) < 1e-5);
}

}  // namespace

TEST_SUITE("cuda_emulator/matrix") {
  TEST_CASE("mma multiplies matrices of bf16, of f16, and of f32 cut to tf32") {
    check_mma<bfloat16_t>(16, [](bfloat16_t v) { return float(v); });
    check_mma<float16_t>(16, [](float16_t v) { return float(v); });
    check_mma<float>(
        8, [](float v) { return std::bit_cast<float>(std::bit_cast<uint32_t>(v) & 0xffffe000u); });
  }

  TEST_CASE("ldmatrix gives each lane two neighbours of a row, transposed of a column") {
    const Mode in;
    std::vector<uint16_t> matrix(256);
    for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = uint16_t(i * 257);
    const DeviceArray<uint16_t> device(matrix);
    for (const bool transpose : {false, true}) {
      const DeviceArray<uint32_t> out(128);
      REQUIRE(ldmatrix(out, device, transpose) == cudaSuccess);
      const std::vector<uint32_t> got = out.values();
      REQUIRE_MESSAGE(got.size() == 128, report_text());
      for (size_t lane = 0; lane < 32; ++lane)
        for (size_t part = 0; part < 4; ++part) {
          const auto element = [&](size_t r, size_t c) {
            if (transpose) std::swap(r, c);
            return uint32_t(matrix[(part / 2 * 8 + r) * 16 + part % 2 * 8 + c]);
          };
          const uint32_t low = element(lane / 4, lane % 4 * 2);
          const uint32_t high = element(lane / 4, lane % 4 * 2 + 1);
          CHECK(got[lane * 4 + part] == (low | high << 16));
        }
    }
  }
}
