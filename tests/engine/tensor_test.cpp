#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <sstream>
#include <thread>

#include <olm/engine/caching_allocator_internal.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {
std::string text(const Tensor& x) {
  std::ostringstream out;
  out << x;
  return out.str();
}
/// An allocator of a system with 40 MB.
class SmallSystem final : public CachingAllocator {
 public:
  SmallSystem() : CachingAllocator({.name = "small"}) {}

 private:
  void* system_memory(size_t bytes) override {
    if (bytes > left_) return nullptr;
    left_ -= bytes;
    return ::operator new(bytes);
  }
  void release_system_memory(void* p, size_t bytes) noexcept override {
    left_ += bytes;
    ::operator delete(p);
  }
  size_t left_ = size_t(40) << 20;
};

}  // namespace

TEST_SUITE("engine/tensor") {
  TEST_CASE("whatever is empty is contiguous and takes any empty shape") {
    const Tensor x = raw::transpose(zeros({0, 2, 3}), 1, 2);
    CHECK(x.is_contiguous());
    CHECK(raw::reshape(x, {3, 0}).shape() == Shape{3, 0});
    CHECK(raw::view(x, {0}).shape() == Shape{0});
  }

  TEST_CASE("sizes are neither negative nor beyond counting") {
    check_error([] { raw::expand(zeros({1}), {-2}); }, {"expand", "[1]", "[-2]"});
    const int64_t large = int64_t(1) << 32;
    check_error([&] { raw::view(zeros({0}), {large, large}); }, {"view", "too many"});
    check_error([&] { raw::view(zeros({0}), {large, large, -1}); }, {"view", "too many"});
    check_error([&] { Shape{large, large}.numel(); }, {"too many"});
  }

  TEST_CASE("a tensor copied onto a view of itself arrives whole") {
    const Tensor z = arange(9), square = raw::view(z, {3, 3});
    raw::copy_(square, raw::transpose(square, 0, 1));
    CHECK(to_host<int64_t>(z) == std::vector<int64_t>{0, 3, 6, 1, 4, 7, 2, 5, 8});
    const Tensor line = arange(5);
    raw::copy_(raw::slice(line, 0, 1, 5), raw::slice(line, 0, 0, 4));
    CHECK(to_host<int64_t>(line) == std::vector<int64_t>{0, 0, 1, 2, 3});
  }

  TEST_CASE("integers are filled with what they hold; bool with whether it is zero") {
    check_error([] { full({2}, 2.5, {.dtype = i64}); }, {"2.5", "i64"});
    check_error([] { full({2}, 0x1p31, {.dtype = i32}); }, {"i32"});
    check_error([] { full({2}, -INFINITY, {.dtype = i64}); }, {"inf", "i64"});
    check_error([] { full({2}, NAN, {.dtype = i32}); }, {"nan", "i32"});
    CHECK(full({1}, -0x1p31, {.dtype = i32}).item<int32_t>() == INT32_MIN);
    CHECK(full({1}, 0.5, {.dtype = boolean}).data<bool>()[0]);
    CHECK_FALSE(full({1}, 0, {.dtype = boolean}).data<bool>()[0]);
  }

  TEST_CASE("f64 becomes a narrow float in one rounding") {
    // Just above the middle between two neighbours: by way of f32 it would become the middle.
    const double above = 1 + 0x1p-8 + 0x1p-40, below = 1 + 3 * 0x1p-8 - 0x1p-40;
    const Tensor x = from_host<double>({above, below, -above, 1e300, -1e-300}, {5});
    const std::vector<double> bf = to_host<double>(raw::cast(x, bf16));
    CHECK(bf == std::vector<double>{1 + 0x1p-7, 1 + 0x1p-7, -1 - 0x1p-7, INFINITY, 0});
    const Tensor y = from_host<double>({1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-11, NAN}, {3});
    const std::vector<double> half = to_host<double>(raw::cast(y, f16));
    CHECK(half[0] == 1 + 0x1p-10);
    CHECK(half[1] == 1);
    CHECK(std::isnan(half[2]));
  }

  TEST_CASE("new tensors have what was asked for") {
    const Tensor x = full({2, 3}, 1.5, {.dtype = bf16});
    CHECK(x.shape() == Shape{2, 3});
    CHECK(x.dtype() == bf16);
    CHECK(to_host<float>(x) == std::vector<float>(6, 1.5f));
    CHECK(to_host<int64_t>(arange(3)) == std::vector<int64_t>{0, 1, 2});
    CHECK(zeros({0, 4}).numel() == 0);
    CHECK(ones({}).item<double>() == 1);
    CHECK(full({2}, 1, {.dtype = boolean}).data<bool>()[1]);
    CHECK(to_host<bool>(from_host<bool>({true, false}, {2})) == std::vector<bool>{true, false});
  }

  TEST_CASE("shapes and dtypes that do not fit are refused") {
    check_error([] { empty({-1}); }, {"empty", "[-1]"});
    check_error([] { empty({int64_t(1) << 40, int64_t(1) << 40}); }, {"too large"});
    check_error([] { from_host<float>({1, 2}, {3}); }, {"2", "[3]"});
    check_error([] { zeros({2}).data<double>(); }, {"f32", "f64"});
    check_error([] { zeros({2}).item<float>(); }, {"[2]"});
    check_error([] { zeros({2}).size(1); }, {"1", "rank 1"});
    check_error([] { Tensor().shape(); }, {"undefined"});
    check_error([] { zeros({2}, {.device = cuda(99)}); }, {"cuda:99"});
    check_error([] { (void)parse_device("gpu"); }, {"gpu", "cuda:N"});
    check_error([] { (void)Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }, {"8", "9"});
    const std::vector<int64_t> sizes{2, 3};
    CHECK(zeros(sizes).shape() == Shape{2, 3});
    CHECK(raw::view(zeros({6}), sizes).shape() == sizes);
    CHECK(Shape(std::vector<int64_t>{}).rank() == 0);
    check_error([] { (void)Shape(std::vector<int64_t>(9, 1)); }, {"8", "9"});
  }

  TEST_CASE("views share memory and copies do not") {
    const Tensor x = raw::view(raw::cast(arange(24), f32), {2, 3, 4});
    const Tensor t = raw::transpose(x, 0, 2);
    CHECK(t.shape() == Shape{4, 3, 2});
    CHECK(raw::select(raw::select(raw::select(t, 0, 3), 0, 1), 0, 1).item<float>() == 19);
    CHECK(raw::contiguous(x).is_same(x));
    CHECK(raw::contiguous(t).data() != x.data());
    CHECK(to_host<float>(raw::slice(x, 1, -2, 3, 1)) ==
          std::vector<float>{4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23});
    raw::fill_(raw::slice(x, 2, 0, 4, 2), -1);
    CHECK(x.data<float>()[2] == -1);
    CHECK(x.data<float>()[3] == 3);
    CHECK(x.version() > 0);
  }

  TEST_CASE("view works on strides that allow it and refuses others") {
    const Tensor x = raw::view(arange(24), {2, 3, 4});
    const Tensor part = raw::slice(x, 0, 0, 1);
    CHECK(raw::view(part, {12}).shape() == Shape{12});
    const Tensor t = raw::permute(x, {1, 0, 2});
    CHECK(raw::view(t, {3, 2, 2, 2}).strides() == Shape{4, 12, 2, 1});
    CHECK(to_host<int64_t>(raw::view(t, {3, 2, 4, 1})) == to_host<int64_t>(t));
    check_error([&] { raw::view(t, {6, 4}); }, {"view", "[6,4]", "reshape"});
    check_error([&] { raw::view(x, {5, -1}); }, {"24", "[5,-1]"});
    check_error([&] { raw::view(x, {-1, -1}); }, {"-1"});
    CHECK(raw::view(zeros({0, 3}), {3, 0}).numel() == 0);
  }

  TEST_CASE("permute, expand, select and as_strided check what they are given") {
    const Tensor x = zeros({2, 3});
    check_error([&] { raw::permute(x, {0, 0}); }, {"twice"});
    check_error([&] { raw::expand(x, {2, 2, 4}); }, {"[2,3]", "[2,2,4]"});
    check_error([&] { raw::select(x, 0, 2); }, {"2", "[2,3]"});
    check_error([&] { raw::as_strided(x, {4}, {2}, 0); }, {"leaves"});
    CHECK(raw::expand(zeros({3, 1}), {2, -1, 4}).strides() == Shape{0, 1, 0});
  }

  TEST_CASE("every dtype converts to every other") {
    const std::vector<double> values{0, 1, -2, 7, 100};
    for (const DType from : {f32, bf16, f16, f64, i32, i64})
      for (const DType to : {f32, bf16, f16, f64, i32, i64}) {
        INFO(name_of(from), " to ", name_of(to));
        CHECK(to_host<double>(raw::cast(raw::cast(from_host(values, {5}), from), to)) == values);
      }
    CHECK(to_host<bool>(raw::cast(from_host(values, {5}), boolean)) ==
          std::vector<bool>{false, true, true, true, true});
  }

  TEST_CASE("bf16 and f16 round to nearest even and keep NaN and infinity") {
    for_each_target([](const std::string& name) {
      INFO(name);
      std::vector<float> x{1.00390625f, 1.01171875f, 3.4e38f, INFINITY, -INFINITY, NAN, 1e-40f};
      for (int i = 0; i < 40; ++i) x.push_back(float(std::sin(i) * std::pow(10.0, i % 9 - 4)));
      const auto n = int64_t(x.size());
      const std::vector<float> got = to_host<float>(raw::cast(from_host(x, {n}), bf16));
      for (size_t i = 0; i < x.size(); ++i) {
        const float wanted = float(bfloat16_t(x[i]));
        CHECK((got[i] == wanted || (std::isnan(got[i]) && std::isnan(wanted))));
      }
      CHECK(got[0] == 1.0f);
      CHECK(got[1] == 1.015625f);
      CHECK(std::isinf(got[2]));
    });
    for_each_target([](const std::string& name) {
      INFO(name);
      const std::vector<float> x{1,         1.0009765625f / 2, 60000,    NAN, INFINITY,
                                 -INFINITY, 0x1p-24f,          3.14159f, -7};
      const Tensor half = raw::cast(from_host(x, {9}), f16);
      raw::scale_(half, 2);
      const std::vector<float> got = to_host<float>(half);
      for (size_t i = 0; i < x.size(); ++i) {
        const float wanted = float(float16_t(2 * float(float16_t(x[i]))));
        CHECK((got[i] == wanted || (std::isnan(got[i]) && std::isnan(wanted))));
      }
    });
    CHECK(float(float16_t(65504.0f)) == 65504.0f);
    CHECK(std::isinf(float(float16_t(65520.0f))));
    CHECK(float(float16_t(0x1p-24f)) == 0x1p-24f);
    CHECK(float(float16_t(1.5 * 0x1p-24f)) == 0x1p-23f);
    CHECK(std::isnan(float(float16_t(NAN))));
  }

  TEST_CASE("strided copies of any layout") {
    Generator rng(1);
    for (const Shape& shape : {Shape{33, 65}, Shape{3, 40, 5}, Shape{1, 7, 1, 9}}) {
      const Tensor x = randn(shape, rng);
      const Tensor back = raw::transpose(raw::contiguous(raw::transpose(x, 0, -1)), 0, -1);
      CHECK(to_host<float>(back) == to_host<float>(x));
      const Tensor y = zeros(raw::transpose(x, 0, 1).shape());
      raw::copy_(y, raw::transpose(x, 0, 1));
      CHECK(to_host<float>(y) == to_host<float>(raw::transpose(x, 0, 1)));
    }
  }

  TEST_CASE("sum_to undoes broadcasting") {
    const Tensor x = ones({2, 3, 4});
    CHECK(to_host<float>(raw::sum_to(x, {3, 1})) == std::vector<float>(3, 8));
    CHECK(raw::sum_to(x, {}).item<float>() == 24);
    check_error([&] { raw::sum_to(x, {5}); }, {"[2,3,4]", "[5]"});
  }

  TEST_CASE("add_, scale_ and has_nonfinite") {
    const Tensor x = ones({5}), y = full({5}, 2);
    raw::add_(x, y, 0.5);
    raw::scale_(x, 3);
    CHECK(to_host<float>(x) == std::vector<float>(5, 6));
    CHECK_FALSE(raw::has_nonfinite(x));
    x.mutable_data<float>()[4] = INFINITY;
    CHECK(raw::has_nonfinite(x));
    check_error([&] { raw::add_(x, zeros({4})); }, {"[5]", "[4]"});
  }

  TEST_CASE("printing shows values, shape, dtype and device") {
    CHECK(text(from_host<int64_t>({1, 2, 3}, {3})) == "[1, 2, 3] i64 [3] cpu");
    CHECK(text(arange(100)) == "[0, 1, 2, ..., 97, 98, 99] i64 [100] cpu");
    CHECK(text(zeros({2, 2}, {.device = meta})) == "f32 [2,2] meta");
    CHECK(text(Tensor()) == "tensor(undefined)");
    CHECK(text(full({1}, -NAN)) == "[      nan] f32 [1] cpu");
    CHECK(text(full({2, 1}, 0.5)).find("0.5") != std::string::npos);
  }

  TEST_CASE("meta has shapes and no memory") {
    const Tensor x = zeros({int64_t(1) << 30, 1000}, {.device = meta});
    CHECK(raw::cast(raw::transpose(x, 0, 1), bf16).shape() == Shape{1000, int64_t(1) << 30});
    check_error([&] { to_host<float>(x); }, {"meta"});
  }
}

TEST_SUITE("engine/allocator") {
  TEST_CASE("memory is reused, counted and given back") {
    empty_cache();
    const MemoryStats before = memory_stats();
    void* first = nullptr;
    {
      const Tensor x = empty({1000, 1000});
      first = x.mutable_data();
      CHECK(memory_stats().in_use >= before.in_use + 4000000);
    }
    CHECK(memory_stats().in_use == before.in_use);
    const size_t system = memory_stats().system_allocations;
    const Tensor y = empty({1000, 1000});
    CHECK(y.mutable_data() == first);
    CHECK(memory_stats().system_allocations == system);
  }

  TEST_CASE("neighbours merge, and an emptied cache returns whole segments") {
    {
      std::vector<Tensor> blocks;
      for (int i = 0; i < 6; ++i) blocks.push_back(empty({1 << 20}));
      std::swap(blocks[1], blocks[4]);
    }
    const size_t system = memory_stats().system_allocations;
    const Tensor large = empty({6 << 20});
    CHECK(memory_stats().system_allocations == system);
    const size_t reserved = memory_stats().reserved;
    empty_cache();
    CHECK(memory_stats().reserved <= reserved);
    raw::fill_(large, 1);
  }

  TEST_CASE("threads share it, and no block is handed out twice") {
    const size_t in_use = memory_stats().in_use;
    std::atomic<int> wrong{0};
    const auto work = [&](int me) {
      std::vector<Tensor> kept;
      for (int i = 0; i < 2000; ++i) {
        const int64_t n = 1 + (i * 7919 + me * 104729) % 40000;
        const Tensor x = full({n}, me, {.dtype = i32});
        kept.push_back(x);
        if (i % 500 == 499) empty_cache();
        if (kept.size() < 8) continue;
        const Tensor& old = kept[size_t(i) % kept.size()];
        const int32_t* values = old.data<int32_t>();
        wrong += std::count(values, values + old.numel(), me) != old.numel();
        kept.erase(kept.begin() + i % int(kept.size()));
      }
    };
    std::vector<std::thread> threads;
    for (int me = 0; me < 4; ++me) threads.emplace_back(work, me);
    for (std::thread& t : threads) t.join();
    CHECK(wrong == 0);
    CHECK(memory_stats().in_use == in_use);
  }

  TEST_CASE("asking for more than there is throws and leaves all as it was") {
    const size_t in_use = memory_stats().in_use;
    check_error([] { empty({int64_t(1) << 50}); }, {"out of memory", "in use"});
    CHECK(memory_stats().in_use == in_use);
  }

  TEST_CASE("the last memory of a system is used, though a segment would not fit") {
    SmallSystem memory;
    std::vector<void*> taken;
    check_error(
        [&] {
          while (true) taken.push_back(memory.take(1 << 20));
        },
        {"out of memory", "1048576 bytes asked for", "41943040 in use"});
    CHECK(taken.size() == 40);  // a segment of 32 MB, and what is left
    for (void* p : taken) memory.give_back(p);
    memory.empty_cache();
    CHECK(memory.stats().reserved == 0);
  }
}

TEST_SUITE("engine/random") {
  TEST_CASE("a state names its numbers") {
    Generator a(5), b(5);
    for (int i = 0; i < 10; ++i) CHECK(a.uniform() == b.uniform());
    const uint64_t at = a.offset();
    const double next = a.normal();
    Generator c(5, at);
    CHECK(c.normal() == next);
    CHECK(Generator(6).uniform() != Generator(5).uniform());
    CHECK(derive_seed(1, "a") != derive_seed(1, "b"));
    CHECK(derive_seed(1, "a") != derive_seed(2, "a"));
  }

  TEST_CASE("a tensor takes the numbers that single calls would") {
    constexpr int64_t kCount = 5000;  // more than one thread fills at a time
    for (const uint64_t offset : {0, 12, 14}) {
      Generator many(3, offset), one(3, offset);
      const Tensor normal = randn({kCount}, many, {.dtype = f64});
      const Tensor below = uniform({2, kCount / 2}, many, {.dtype = f64});
      const Tensor whole = randint(-3, 9, {kCount}, many);
      bool equal = true;
      for (int64_t i = 0; i < kCount; ++i) equal &= normal.data<double>()[i] == one.normal();
      for (int64_t i = 0; i < kCount; ++i) equal &= below.data<double>()[i] == one.uniform();
      for (int64_t i = 0; i < kCount; ++i) equal &= whole.data<int64_t>()[i] == one.below(12) - 3;
      CHECK(equal);
      CHECK(many.offset() == one.offset());
      randn({0, 3}, many);
      randn({4}, many, {.device = meta});
      CHECK(many.offset() == one.offset());
    }
    for (const DType dtype : {f32, bf16, f16}) {
      Generator wide(4), narrow(4);
      const Tensor rounded = raw::cast(randn({kCount}, wide, {.dtype = f64}), dtype);
      const Tensor made = randn({kCount}, narrow, {.dtype = dtype});
      CHECK(std::memcmp(made.data(), rounded.data(), size_t(kCount) * size_of(dtype)) == 0);
    }
    const Tensor counted = arange(kCount, {.dtype = f64});
    for (const int64_t i : {int64_t(0), int64_t(2048), kCount - 1})
      CHECK(counted.data<double>()[i] == double(i));
  }

  TEST_CASE("moments of the distributions") {
    Generator rng(9);
    double sum = 0, squares = 0, fourth = 0;
    constexpr int kCount = 200000;
    for (int i = 0; i < kCount; ++i) {
      const double x = rng.normal();
      sum += x;
      squares += x * x;
      fourth += x * x * x * x;
    }
    CHECK(std::abs(sum / kCount) < 0.01);
    CHECK(std::abs(squares / kCount - 1) < 0.02);
    CHECK(std::abs(fourth / kCount - 3) < 0.15);
    std::vector<int> counts(7);
    for (int i = 0; i < 70000; ++i) ++counts[size_t(rng.below(7))];
    for (const int count : counts) CHECK(std::abs(count - 10000) < 500);
  }
}
