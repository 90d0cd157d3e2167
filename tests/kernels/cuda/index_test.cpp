// Additions by index that take more than one tile of the sort, and more than one chunk of a run.
#include <olm/kernels/base/run.h>
#include <olm/kernels/index.h>

#include <doctest/doctest.h>

#include <olm/engine/backend.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

/// `size` rows that start with ones, and those of src added to them, on src's device.
Tensor add_rows(const Tensor& index, const Tensor& src, int64_t size, bool accumulate) {
  const Tensor y = raw::to(ones({size, src.size(1)}), src.device());
  run(src.device().kind, kernels::IndexAdd{.dtype = src.dtype(),
                                           .index_dtype = index.dtype(),
                                           .y = y.mutable_data(),
                                           .src = src.data(),
                                           .index = index.data(),
                                           .outer = 1,
                                           .size = size,
                                           .count = src.size(0),
                                           .inner = src.size(1),
                                           .accumulate = accumulate,
                                           .stream = stream_of(src)});
  return y;
}

Tensor add_elements(const Tensor& index, const Tensor& src, int64_t size) {
  const Tensor y = raw::to(ones({size}), src.device());
  run(src.device().kind, kernels::ScatterAdd{.index_dtype = index.dtype(),
                                             .y = y.mutable_data(),
                                             .src = src.data(),
                                             .index = index.data(),
                                             .outer = 1,
                                             .size = size,
                                             .count = src.size(0),
                                             .inner = 1,
                                             .stream = stream_of(src)});
  return y;
}

/// Indices of which two in three are the same.
Tensor crowded(int64_t count, int64_t size, Generator& rng) {
  const Tensor index = randint(0, size, {count}, rng);
  for (int64_t j = 0; j < count; ++j)
    if (j % 3 != 0) index.mutable_data<int64_t>()[j] = size / 2;
  return index;
}

}  // namespace

TEST_SUITE("kernels/cuda/index") {
  TEST_CASE("Rows are added to their places, however often an index repeats") {
    if (test_device() == cpu) return;
    constexpr int64_t count = 2500, size = 70000;  // three tiles, three digits
    Generator rng(1);
    const Tensor index = crowded(count, size, rng);
    for (const DType dtype : {f32, bf16})
      for (const int64_t inner : {8, 3}) {
        const Tensor src = raw::cast(randn({count, inner}, rng), dtype);
        for (const bool accumulate : {false, true})
          check_close(add_rows(on_test_device(index), on_test_device(src), size, accumulate),
                      add_rows(index, src, size, accumulate), f32, count, "index_add");
      }
  }

  TEST_CASE("Elements are added to their places, however often an index repeats") {
    if (test_device() == cpu) return;
    constexpr int64_t count = 2500, size = 300;
    Generator rng(2);
    const Tensor index = crowded(count, size, rng), src = randn({count}, rng);
    check_close(add_elements(on_test_device(index), on_test_device(src), size),
                add_elements(index, src, size), f32, count, "scatter_add");
  }

  TEST_CASE("A bad index is told with its position, and its row left out") {
    if (test_device() == cpu) return;
    const Tensor src = on_test_device(ones({3, 8}));
    const Tensor index = on_test_device(from_host<int64_t>({4, -1, 2}, {3}));
    const Tensor y = add_rows(index, src, 5, true);
    check_error([&] { synchronize(test_device()); },
                {"index_add: index -1 at position 1 is outside [0, 5)"});
    const std::vector<float> rows = to_host<float>(y);
    for (int64_t r = 0; r < 5; ++r) CHECK(rows[size_t(r * 8)] == (r == 4 || r == 2 ? 2 : 1));
  }
}
