#include <doctest/doctest.h>

#include <olm/nn/context.h>
#include <tests/support/checks.h>
#include <tests/support/sequence.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

TEST_SUITE("nn/cache") {
  TEST_CASE("tokens come back in order") {
    Generator rng(3);
    const Tensor k = randn({2, 8, 3, 4}, rng), v = randn({2, 8, 3, 6}, rng);
    KVCache cache(8);
    for (int64_t begin = 0; begin < 8; begin += 2) {
      cache.begin();
      for (int slot = 0; slot < 2; ++slot) {
        const auto [keys, values] =
            cache.append(tokens(k, begin, begin + 2), tokens(v, begin, begin + 2));
        check_same_bits(raw::contiguous(keys), tokens(k, 0, begin + 2), "keys");
        check_same_bits(raw::contiguous(values), tokens(v, 0, begin + 2), "values");
      }
      cache.advance(2);
    }
    CHECK(cache.bytes() == size_t(2 * 2 * 8 * 3 * (4 + 6) * 4));
    cache.begin();
    check_error([&] { cache.append(tokens(k, 0, 1), tokens(v, 0, 1)); }, {"KVCache", "9", "8"});
    cache.clear();
    const auto [keys, values] = cache.append(tokens(k, 3, 4), tokens(v, 3, 4));
    check_same_bits(raw::contiguous(keys), tokens(k, 3, 4), "after clear");
  }

  TEST_CASE("a window keeps its last tokens and little memory") {
    Generator rng(3);
    const Tensor k = randn({1, 40, 1, 4}, rng);
    for (const int64_t window : {1, 2, 3, 7}) {
      for (const int64_t step : {1, 2, 5}) {
        INFO("window " << window << " step " << step);
        KVCache cache(1000);
        for (int64_t begin = 0; begin + step <= 40; begin += step) {
          cache.begin();
          const Tensor now = tokens(k, begin, begin + step);
          const auto [keys, values] = cache.append(now, now, window);
          check_same_bits(raw::contiguous(keys),
                          tokens(k, std::max<int64_t>(0, begin - window + 1), begin + step),
                          "window");
          cache.advance(step);
        }
        CHECK(cache.bytes() == size_t(2 * 4 * 4 * (window - 1 + std::max(step, window / 4 + 1))));
      }
    }
    KVCache grows(1000);
    grows.append(tokens(k, 0, 1), tokens(k, 0, 1), 3);
    grows.advance(1);
    grows.begin();
    const Tensor keys = grows.append(tokens(k, 1, 30), tokens(k, 1, 30), 3).first;
    check_same_bits(raw::contiguous(keys), tokens(k, 0, 30), "a longer piece");
  }

  TEST_CASE("a pass that was cut off leaves no trace") {
    Generator rng(3);
    const Tensor k = randn({1, 60, 1, 4}, rng), stale = full({1, 9, 1, 4}, 99);
    for (const int64_t window : {0, 1, 3, 7}) {
      KVCache cache(60);
      for (int64_t begin = 0; begin + 3 <= 60; begin += 3) {
        INFO("window " << window << " at " << begin);
        for (const int64_t length : {1, 9}) {
          if (begin + length > 60) continue;
          cache.begin();
          cache.append(tokens(stale, 0, length), tokens(stale, 0, length), window);
        }
        cache.begin();
        for (int slot = 0; slot < 2; ++slot) {
          const Tensor now = tokens(k, begin, begin + 3);
          const int64_t first = window > 0 ? std::max<int64_t>(0, begin - window + 1) : 0;
          const auto [keys, values] = cache.append(now, now, window);
          check_same_bits(raw::contiguous(keys), tokens(k, first, begin + 3), "keys");
          check_same_bits(raw::contiguous(values), tokens(k, first, begin + 3), "values");
        }
        cache.advance(3);
      }
    }
  }

  TEST_CASE("what does not fit is refused") {
    KVCache uneven(8);
    for (int slot = 0; slot < 2; ++slot) uneven.append(ones({1, 2, 1, 4}), ones({1, 2, 1, 4}));
    uneven.advance(2);
    uneven.begin();
    uneven.append(ones({1, 1, 1, 4}), ones({1, 1, 1, 4}));
    uneven.advance(1);
    uneven.begin();
    uneven.append(ones({1, 1, 1, 4}), ones({1, 1, 1, 4}));
    check_error(
        [&] {
          uneven.append(ones({1, 1, 1, 4}), ones({1, 1, 1, 4}));
        },
        {"KVCache", "of 3 tokens, 1", "slot 1"});
    KVCache cache(8);
    cache.append(ones({2, 1, 3, 4}), ones({2, 1, 3, 4}));
    cache.advance(1);
    cache.begin();
    check_error(
        [&] {
          cache.append(ones({1, 1, 3, 4}), ones({1, 1, 3, 4}));
        },
        {"KVCache", "[1,1,3,4]"});
    KVCache other(8);
    check_error([&] { other.append(ones({2, 3, 4}), ones({2, 3, 4})); }, {"[B,T,H,D]"});
  }
}
