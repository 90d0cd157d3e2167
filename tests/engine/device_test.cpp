#include <doctest/doctest.h>

#include <cstring>
#include <sstream>

#include <olm/autograd/ops.h>
#include <olm/engine/backend.h>
#include <olm/engine/cuda/report.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

using Call = std::function<void()>;

Tensor there(const Tensor& x) { return raw::to(x, meta); }

using Calls = std::vector<std::pair<std::string, Call>>;

/// Attention and RoPE by name, called with tensors of which one is on meta.
Calls mixed_attention_calls() {
  Generator g(1);
  const Tensor q = randn({1, 4, 2, 8}, g), table = randn({8, 4}, g);
  const Tensor places = zeros({1, 4}, {.dtype = i64}), length = zeros({1}, {.dtype = i64});
  return {
      {"rope",
       [=] {
         rope(q, RopeTables{there(table), there(table)});
       }},
      {"rope",
       [=] {
         rope(q, RopeTables{table, table}, {.positions = there(places)});
       }},
      {"flash_attention", [=] { flash_attention(q, there(q), q); }},
      {"flash_attention", [=] { flash_attention(q, q, there(q)); }},
      {"flash_attention", [=] { flash_attention(q, q, q, {.slopes = there(ones({2}))}); }},
      {"flash_attention", [=] { flash_attention(q, q, q, {.sink = there(ones({2}))}); }},
      {"flash_attention",
       [=] {
         flash_attention(q, q, q, {.mask = there(ones({4, 4}))});
       }},
      {"flash_attention", [=] { flash_attention(q, q, q, {.documents = there(places)}); }},
      {"flash_attention", [=] { flash_attention(q, q, q, {.key_lengths = there(length)}); }},
  };
}

/// Other ops likewise.
Calls mixed_calls() {
  Generator g(1);
  const Tensor x = randn({4, 6}, g), w = randn({5, 6}, g), b = randn({5}, g);
  const Tensor ids = zeros({4}, {.dtype = i64}), mask = full({4, 6}, 1, {.dtype = boolean});
  const Tensor at = zeros({4, 6}, {.dtype = i64}), scale = randn({6}, g);
  const Tensor offsets = from_host<int32_t>({0, 4}, {2});
  const MoEPermutation order = moe_sort(zeros({4, 1}, {.dtype = i32}), 2);
  const MoEPermutation far{there(order.rows), there(order.positions), there(order.offsets)};
  const Tensor weights = ones({4, 1}), sums = zeros({4, 5});
  return {
      {"add", [=] { add(x, there(x)); }},
      {"lt", [=] { lt(there(x), x); }},
      {"where", [=] { where(there(mask), x, x); }},
      {"where", [=] { where(mask, x, there(x)); }},
      {"matmul", [=] { matmul(x, there(transpose(w, 0, 1))); }},
      {"linear", [=] { linear(x, there(w)); }},
      {"linear", [=] { linear(x, w, there(b)); }},
      {"linear", [=] { linear(x, w, b, {.residual = there(sums)}); }},
      {"cat",
       [=] {
         cat({x, there(x)}, 0);
       }},
      {"stack",
       [=] {
         stack({x, there(x)}, 0);
       }},
      {"embedding", [=] { embedding(there(ids), w); }},
      {"gather", [=] { gather(x, 0, there(at)); }},
      {"index_select", [=] { index_select(x, 0, there(ids)); }},
      {"scatter_add", [=] { scatter_add(x, 0, there(at), x); }},
      {"scatter_add", [=] { scatter_add(x, 0, at, there(x)); }},
      {"rms_norm", [=] { rms_norm(x, there(scale)); }},
      {"add_rms_norm", [=] { add_rms_norm(x, there(x), scale); }},
      {"layer_norm", [=] { layer_norm(x, scale, there(scale)); }},
      {"cross_entropy", [=] { cross_entropy(x, there(ids)); }},
      {"linear_cross_entropy", [=] { linear_cross_entropy(x, there(w), ids); }},
      {"linear_cross_entropy", [=] { linear_cross_entropy(x, w, there(ids)); }},
      {"linear_cross_entropy", [=] { linear_cross_entropy(x, w, ids, {.bias = there(b)}); }},
      {"moe_route", [=] { moe_route(x, {.top_k = 1}, there(scale)); }},
      {"moe_permute", [=] { moe_permute(x, far); }},
      {"grouped_linear", [=] { grouped_linear(x, {there(w)}, {}, offsets); }},
      {"grouped_linear", [=] { grouped_linear(x, {w}, {there(b)}, offsets); }},
      {"grouped_linear", [=] { grouped_linear(x, {w}, {}, there(offsets)); }},
      {"moe_combine", [=] { moe_combine(x, there(weights), order); }},
      {"moe_combine", [=] { moe_combine(x, weights, far); }},
      {"moe_combine", [=] { moe_combine(x, weights, order, there(x)); }},
      {"add_", [=] { add_(x, there(x)); }},
      {"copy_", [=] { copy_(x, there(x)); }},
  };
}

/// The values of x as bytes, in order.
std::vector<std::byte> bytes_of(const Tensor& x) {
  const Tensor host = raw::contiguous(raw::to(x, cpu));
  std::vector<std::byte> bytes(size_t(host.numel()) * size_of(host.dtype()));
  if (!bytes.empty()) std::memcpy(bytes.data(), host.data(), bytes.size());
  return bytes;
}

}  // namespace

TEST_SUITE("engine/device") {
  TEST_CASE("ops refuse tensors on different devices, and name both") {
    for (const Calls& calls : {mixed_attention_calls(), mixed_calls()})
      for (const auto& [op, call] : calls) {
        INFO(op);
        check_error(call, {op + ":", "different devices", "cpu", "meta"});
      }
  }

  TEST_CASE("a gradient on another device than its tensor is refused") {
    const Tensor x = ones({3});
    set_requires_grad(x);
    check_error([&] { backward(x * 2.0, {.gradient = there(ones({3}))}); },
                {"backward", "different devices", "cpu", "meta"});
    check_error([&] { set_grad(x, there(ones({3}))); }, {"set_grad", "cpu", "meta"});
    const Tensor y =
        record("far", x * 2.0, {x}, [](const Tensor& dy, Sinks) { return Grads{there(dy)}; });
    check_error([&] { backward(y, {.gradient = ones({3})}); }, {"far backward", "cpu", "meta"});
  }

  TEST_CASE("values go to a device and come back with every bit") {
    Generator g(2);
    for (const DType dtype : {f32, bf16, f16, f64, i32, i64, boolean})
      for (const Shape& shape : {Shape{}, Shape{0}, Shape{7}, Shape{3, 5}, Shape{2, 0, 4}}) {
        INFO(dtype, " ", shape);
        const Tensor x = raw::cast(randn(shape, g), dtype), y = raw::to(x, test_device());
        CHECK(y.device() == test_device());
        CHECK(y.dtype() == dtype);
        CHECK(y.shape() == shape);
        CHECK(bytes_of(y) == bytes_of(x));
        if (shape.rank() != 2) continue;
        const Tensor transposed = raw::transpose(x, 0, 1), part = raw::slice(x, 1, 1, 5, 2);
        CHECK(bytes_of(raw::to(transposed, test_device())) == bytes_of(transposed));
        CHECK(bytes_of(raw::to(part, test_device())) == bytes_of(part));
        if (dtype == f64) continue;
        CHECK(bytes_of(raw::transpose(y, 0, 1)) == bytes_of(transposed));
        CHECK(bytes_of(raw::slice(y, 1, 1, 5, 2)) == bytes_of(part));
      }
  }

  TEST_CASE("a tensor prints its values wherever it is") {
    const auto text = [](const Tensor& x) {
      std::ostringstream out;
      out << x;
      return out.str();
    };
    const Tensor x = from_host<int64_t>({3, 1, 2}, {3}, test_device());
    const std::string name = detail::concat(test_device());
    CHECK(text(x) == "[3, 1, 2] i64 [3] " + name);
    CHECK(text(raw::slice(x, 0, 1, 2)) == "[1] i64 [1] " + name);
  }

  TEST_CASE("a device counts its memory, keeps it for reuse, and gives it back") {
    const Device d = test_device();
    const size_t bytes = size_t(3) << 20;
    const MemoryStats before = memory_stats(d);
    reset_peak_memory(d);
    {
      const Tensor x = zeros({int64_t(bytes) / 4}, {.device = d});
      CHECK(memory_stats(d).in_use >= before.in_use + bytes);
      CHECK(memory_stats(d).reserved >= memory_stats(d).in_use);
    }
    CHECK(memory_stats(d).in_use == before.in_use);
    CHECK(memory_stats(d).peak >= before.in_use + bytes);
    const size_t system = memory_stats(d).system_allocations;
    const Tensor again = zeros({int64_t(bytes) / 4}, {.device = d});
    CHECK(memory_stats(d).system_allocations == system);
    { const Tensor large = zeros({int64_t(40) << 18}, {.device = d}); }  // a segment of its own
    const size_t reserved = memory_stats(d).reserved;
    empty_cache(d);
    CHECK(memory_stats(d).reserved + (size_t(40) << 20) <= reserved);
    CHECK(to_host<float>(raw::slice(again, 0, 0, 2)) == std::vector<float>{0, 0});
  }

  TEST_CASE("cards fit what kernels were compiled for") {
    using cuda_backend::has_kernels_for;
    for (const char* all : {"80-real, 90-real, 80-virtual", "80-real;90-real;80-virtual"}) {
      for (const int card : {80, 86, 89, 90, 100, 120})
        CHECK(has_kernels_for(all, card / 10, card % 10));
      CHECK_FALSE(has_kernels_for(all, 7, 5));
    }
    CHECK(has_kernels_for("90-real", 9, 0));
    CHECK_FALSE(has_kernels_for("90-real", 8, 0));
    CHECK_FALSE(has_kernels_for("90-real", 10, 0));
    CHECK(has_kernels_for("80-real", 8, 9));
    CHECK_FALSE(has_kernels_for("89-real", 8, 0));
    CHECK(has_kernels_for("86", 12, 0));
    CHECK(has_kernels_for("90a", 9, 0));
    CHECK_FALSE(has_kernels_for("90a", 10, 0));
    CHECK(has_kernels_for("native", 8, 0));
    CHECK_FALSE(has_kernels_for("", 9, 0));
  }

  TEST_CASE("typed data is for the host alone") {
    const Tensor x = ones({2}, {.device = test_device()});
    if (test_device() == cpu) {
      CHECK(x.data<float>()[1] == 1);
      return;
    }
    const auto version = x.version();
    check_error([&] { (void)x.data<float>(); }, {detail::concat(test_device()), "host"});
    check_error([&] { (void)x.mutable_data<float>(); }, {"host"});
    CHECK(x.version() == version);
    CHECK(x.data() != nullptr);
    CHECK(to_host<float>(x) == std::vector<float>{1, 1});
  }

  TEST_CASE("an index out of range is thrown at the next synchronisation, and once") {
    const Device d = test_device();
    const Tensor table = ones({4, 8}, {.device = d});
    const Tensor ids = from_host<int64_t>({1, 9, 2}, {3}, d);
    check_error(
        [&] {
          const Tensor y = embedding(ids, table);
          synchronize(d);
        },
        {"embedding: index 9 at position 1 is outside [0, 4)"});
    synchronize(d);
    const Tensor y = embedding(from_host<int64_t>({1, 3}, {2}, d), table);
    CHECK(to_host<float>(y) == std::vector<float>(16, 1));
  }
}
