#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include <olm/kernels/cpu/non_temporal.h>
#include <olm/kernels/cross_entropy.h>
#include <olm/kernels/gated.h>
#include <olm/kernels/norm.h>
#include <olm/kernels/pointwise.h>
#include <olm/kernels/softmax.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::kernels;
using namespace olm::test;

namespace {

/// A kernel on `rows` rows that begin at a, b and c, with one result at y.
struct Rows {
  const char* name;
  int64_t wide_a, wide_y;  ///< elements in a row of a (b and c have those of the narrower) and y
  std::function<void(DType, const void* a, const void* b, const void* c, void* y, int64_t rows)>
      run;
};

constexpr int64_t kCols = 333;  // rows begin at all alignments, and end in part of a vector

/// What rows have that is no row: weights, statistics, losses.
const std::vector<float>& ones() {
  static const std::vector<float> values(65536, 1.0f);
  return values;
}
float* spare() {
  static std::vector<float> values(65536);
  return values.data();
}

std::vector<Rows> norm_kernels() {
  const auto forward = [](DType t, const void* a, const void* b, void* s, void* y, int64_t rows) {
    run(Cpu{}, NormForward{.kind = s ? NormKind::rms : NormKind::layer,
                           .dtype = t,
                           .y = y,
                           .s = s,
                           .mean = spare(),
                           .rstd = spare(),
                           .x = a,
                           .delta = b,
                           .weight = ones().data(),
                           .rows = rows,
                           .cols = kCols});
  };
  const auto norm = [=](DType t, const void* a, const void*, const void*, void* y, int64_t rows) {
    forward(t, a, nullptr, nullptr, y, rows);
  };
  const auto add_norm = [=](DType t, const void* a, const void* b, const void*, void* y,
                            int64_t rows) {
    std::vector<float> sum(size_t(rows * kCols));
    forward(t, a, b, sum.data(), y, rows);
  };
  const auto add = [=](DType t, const void* a, const void* b, const void*, void* y, int64_t rows) {
    std::vector<float> normed(size_t(rows * kCols));
    forward(t, a, b, y, normed.data(), rows);
  };
  const auto backward = [](DType t, const void* a, const void* b, const void* c, void* y,
                           int64_t rows) {
    run(Cpu{}, NormBackward{.dtype = t,
                            .dx = y,
                            .dweight = spare(),
                            .dy = a,
                            .ds = c,
                            .s = b,
                            .rstd = ones().data(),
                            .rows = rows,
                            .cols = kCols});
  };
  return {{"norm", kCols, kCols, norm},
          {"norm of a sum", kCols, kCols, add_norm},
          {"sum", kCols, kCols, add},
          {"norm backward", kCols, kCols, backward}};
}

std::vector<Rows> row_kernels() {
  const auto gate = [](DType t, const void* a, const void*, const void*, void* y, int64_t rows) {
    run(Cpu{}, GatedForward{.dtype = t, .y = y, .x = a, .rows = rows, .hidden = kCols});
  };
  const auto ungate = [](DType t, const void* a, const void* b, const void*, void* y,
                         int64_t rows) {
    run(Cpu{}, GatedBackward{.dtype = t, .dx = y, .dy = b, .x = a, .rows = rows, .hidden = kCols});
  };
  const auto softmax = [](bool log) {
    return [log](DType t, const void* a, const void*, const void*, void* y, int64_t rows) {
      run(Cpu{},
          SoftmaxForward{.dtype = t, .y = y, .x = a, .rows = rows, .cols = kCols, .log = log});
    };
  };
  const auto softmax_backward = [](bool log) {
    return [log](DType t, const void* a, const void* b, const void*, void* y, int64_t rows) {
      run(Cpu{},
          SoftmaxBackward{
              .dtype = t, .dx = y, .dy = a, .y = b, .rows = rows, .cols = kCols, .log = log});
    };
  };
  const auto loss = [](DType t, const void* a, const void*, const void*, void* y, int64_t rows) {
    const std::vector<int64_t> targets(size_t(rows), 7);
    run(Cpu{}, CrossEntropyBackward{.dtype = t,
                                    .dlogits = y,
                                    .dy = ones().data(),
                                    .scale = ones().data(),
                                    .logits = a,
                                    .row_max = ones().data(),
                                    .row_log_sum = ones().data(),
                                    .targets = targets.data(),
                                    .rows = rows,
                                    .cols = kCols,
                                    .one_dy = true});
  };
  return {{"gated unit", 2 * kCols, kCols, gate},
          {"gated unit backward", 2 * kCols, 2 * kCols, ungate},
          {"softmax", kCols, kCols, softmax(false)},
          {"log_softmax", kCols, kCols, softmax(true)},
          {"softmax backward", kCols, kCols, softmax_backward(false)},
          {"log_softmax backward", kCols, kCols, softmax_backward(true)},
          {"cross_entropy backward", kCols, kCols, loss}};
}

std::vector<Rows> pointwise_kernels() {
  const auto gelu = [](DType t, const void* a, const void*, const void*, void* y, int64_t rows) {
    run(Cpu{}, Unary{.op = UnaryOp::gelu, .dtype = t, .x = a, .y = y, .n = rows * kCols});
  };
  const auto ungelu = [](DType t, const void* a, const void* b, const void*, void* y,
                         int64_t rows) {
    run(Cpu{}, UnaryBackward{
                   .op = UnaryOp::gelu, .dtype = t, .dy = a, .x = b, .dx = y, .n = rows * kCols});
  };
  const auto mul = [](DType t, const void* a, const void* b, const void*, void* y, int64_t rows) {
    run(Cpu{}, Binary{.op = BinaryOp::mul,
                      .dtype = t,
                      .a = {a, {1}},
                      .b = {b, {1}},
                      .y = y,
                      .rank = 1,
                      .shape = {rows * kCols}});
  };
  return {{"gelu", kCols, kCols, gelu},
          {"gelu backward", kCols, kCols, ungelu},
          {"product", kCols, kCols, mul}};
}

/// Bytes of normal numbers of a dtype.
std::vector<char> numbers(DType dtype, int64_t n, uint64_t seed) {
  Generator g(seed);
  const Tensor few = randn({4099}, g, {.dtype = dtype});
  const size_t period = 4099 * size_of(dtype), bytes = size_t(n) * size_of(dtype);
  std::vector<char> values(bytes);
  for (size_t at = 0; at < bytes; at += period)
    std::memcpy(values.data() + at, few.data(), std::min(period, bytes - at));
  return values;
}

/// Holds a result that is written by non-temporal stores against the same rows, made a few at a
/// time; and looks at the bytes around it.
void check_rows(const Rows& k, DType dtype) {
  INFO(k.name << " " << name_of(dtype));
  const int64_t element = int64_t(size_of(dtype)), wide_b = kCols;
  const int64_t rows = kMinNonTemporalBytes / (64 * k.wide_y * element) * 64 + 64;
  REQUIRE(uses_non_temporal_stores(dtype, rows * k.wide_y));
  REQUIRE_FALSE(uses_non_temporal_stores(dtype, 64 * k.wide_y));
  const std::vector<char> a = numbers(dtype, rows * k.wide_a, 1),
                          b = numbers(dtype, rows * wide_b, 2),
                          c = numbers(dtype, rows * wide_b, 3);
  std::vector<char> wanted(size_t(rows * k.wide_y * element));
  for (int64_t r = 0; r < rows; r += 64)
    k.run(dtype, a.data() + r * k.wide_a * element, b.data() + r * wide_b * element,
          c.data() + r * wide_b * element, wanted.data() + r * k.wide_y * element, 64);
  for (const int64_t offset : {int64_t(0), 3 * element}) {
    std::vector<char> memory(wanted.size() + 256, '#');
    char* y = memory.data() + 128 - reinterpret_cast<uintptr_t>(memory.data()) % 64 + offset;
    k.run(dtype, a.data(), b.data(), c.data(), y, rows);
    CHECK(std::memcmp(y, wanted.data(), wanted.size()) == 0);
    const auto untouched = [](char byte) { return byte == '#'; };
    CHECK(std::all_of(memory.data(), y, untouched));
    CHECK(std::all_of(y + wanted.size(), memory.data() + memory.size(), untouched));
  }
}

void check_kernels(const std::vector<Rows>& kernels) {
  for_each_target([&](const std::string& name) {
    INFO(name);
    for (const DType dtype : {f32, bf16})
      for (const Rows& k : kernels) check_rows(k, dtype);
  });
}

}  // namespace

TEST_SUITE("kernels/non_temporal") {
  TEST_CASE("norms with non-temporal stores have the same bits") { check_kernels(norm_kernels()); }
  TEST_CASE("rows with non-temporal stores have the same bits") { check_kernels(row_kernels()); }
  TEST_CASE("pointwise results with non-temporal stores have the same bits") {
    check_kernels(pointwise_kernels());
  }
}
