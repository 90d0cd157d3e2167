#include <doctest/doctest.h>

#include <thread>

#include <olm/autograd/ops/norm.h>
#include <olm/autograd/recompute.h>
#include <olm/autograd/tape.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

/// y = factor · x, with a backward that can be watched.
Tensor scaled(const Tensor& x, double factor, int* calls = nullptr) {
  const Tensor y = raw::clone(x);
  raw::scale_(y, factor);
  return record("scaled", y, {x}, [factor, calls](const Tensor& dy, Sinks) -> Grads {
    if (calls) ++*calls;
    const Tensor dx = raw::clone(dy);
    raw::scale_(dx, factor);
    return {dx};
  });
}

/// y = a + b; both gradients are the same handle as dy.
Tensor added(const Tensor& a, const Tensor& b) {
  const Tensor y = raw::clone(a);
  raw::add_(y, b);
  return record("added", y, {a, b}, [](const Tensor& dy, Sinks) -> Grads { return {dy, dy}; });
}

/// y = x², saving x.
Tensor squared(const Tensor& x) {
  const Tensor y = raw::clone(x);
  for (int64_t i = 0; i < y.numel(); ++i) y.mutable_data<float>()[i] *= x.data<float>()[i];
  return record("squared", y, {x}, [x = saved(x)](const Tensor& dy, Sinks) -> Grads {
    const Tensor dx = raw::clone(dy);
    for (int64_t i = 0; i < dx.numel(); ++i)
      dx.mutable_data<float>()[i] *= 2 * x.get().data<float>()[i];
    return {dx};
  });
}

Tensor leaf(float value) {
  const Tensor x = from_host<float>({value}, {1});
  set_requires_grad(x);
  return x;
}

}  // namespace

TEST_SUITE("autograd/tape") {
  TEST_CASE("a leaf used twice receives the sum, once") {
    const Tensor x = leaf(3);
    int delivered = 0;
    on_grad(x, [&](const Tensor& g) {
      ++delivered;
      CHECK(g.item<float>() == 9);
    });
    backward(added(added(scaled(x, 2), scaled(x, 3)), scaled(x, 4)));
    CHECK(delivered == 1);
    CHECK(grad(x).item<float>() == 9);
  }

  TEST_CASE("a function given by one of on_grad waits for the next backward") {
    const Tensor x = leaf(3);
    std::vector<int> calls(70);
    on_grad(x, [&, left = size_t(69)](const Tensor& g) mutable {
      ++calls[69];
      for (; left > 0; --left) on_grad(x, [&calls, at = left - 1](const Tensor&) { ++calls[at]; });
      CHECK(g.item<float>() == 2);
      CHECK(left == 0);  // what the function holds is still there
    });
    backward(scaled(x, 2));
    CHECK(calls[69] == 1);
    for (size_t i = 0; i < 69; ++i) CHECK(calls[i] == 0);
    zero_grad(x);
    backward(scaled(x, 2));
    for (size_t i = 0; i < 70; ++i) CHECK(calls[i] == (i == 69 ? 2 : 1));
  }

  TEST_CASE("functions of on_grad all get the same, whatever one of them does to the leaf") {
    for (const bool clear : {true, false}) {
      const Tensor x = leaf(3);
      std::vector<float> got;
      on_grad(x, [&](const Tensor& g) {
        if (clear)
          zero_grad(x);
        else
          set_grad(x, from_host<float>({7}, {1}));
        got.push_back(g.item<float>());
      });
      on_grad(x, [&](const Tensor& g) { got.push_back(g.item<float>()); });
      backward(scaled(x, 2));
      CHECK(got == std::vector<float>{2, 2});
      CHECK(grad(x).defined() == !clear);
      if (!clear) CHECK(grad(x).item<float>() == 7);
      zero_grad(x);
      backward(scaled(x, 5));
      CHECK(got == std::vector<float>{2, 2, 5, 5});
    }
  }

  TEST_CASE("a function of on_grad may scale the gradient in place") {
    const Tensor x = leaf(3);
    on_grad(x, [](const Tensor& g) { raw::scale_(g, 0.5); });
    backward(scaled(x, 2));
    CHECK(grad(x).item<float>() == 1);
  }

  TEST_CASE("a backward inside one of on_grad adds what it brings") {
    const Tensor x = leaf(3), w = leaf(5);
    const Tensor other = added(scaled(x, 10), scaled(w, 100));
    std::vector<float> got;
    on_grad(x, [&, done = false](const Tensor& g) mutable {
      got.push_back(g.item<float>());
      if (std::exchange(done, true)) return;
      backward(other);
      got.push_back(g.item<float>());  // what was handed out stays
    });
    // Newest first: w gets one of its two gradients, then x its only one, then w the other.
    const Tensor low = scaled(w, 3);
    const Tensor middle = scaled(x, 2);
    const Tensor high = added(w, middle);
    backward(added(high, low));
    CHECK(got == std::vector<float>{2, 12, 2});
    CHECK(grad(x).item<float>() == 12);
    CHECK(grad(w).item<float>() == 104);
  }

  TEST_CASE("a backward inside another over the same graph needs it retained") {
    for (const bool retain : {false, true}) {
      const Tensor x = leaf(3), w = leaf(5);
      const Tensor shared = scaled(w, 2);
      on_grad(x, [&](const Tensor&) { backward(shared, {.retain_graph = retain}); });
      const Tensor y = added(shared, scaled(x, 1));
      if (!retain) {
        check_error([&] { backward(y); }, {"scaled", "retain_graph"});
        CHECK(grad(x).item<float>() == 1);
        CHECK(grad(w).item<float>() == 2);
      } else {
        backward(y);
        CHECK(grad(w).item<float>() == 4);
      }
    }
  }

  TEST_CASE("what a function of on_grad throws comes out of backward, and leaves keep theirs") {
    const Tensor x = leaf(3), w = leaf(5);
    int calls = 0;
    on_grad(x, [&](const Tensor&) {
      zero_grad(w);
      if (++calls == 1) fail("no more");
    });
    const Tensor low = scaled(w, 3);
    const Tensor middle = scaled(x, 2);
    const Tensor high = added(w, middle);
    const Tensor y = added(high, low);
    check_error([&] { backward(y); }, {"no more"});
    CHECK(grad(x).item<float>() == 2);
    CHECK(grad(w).item<float>() == 1);
    check_error([&] { backward(y); }, {"retain_graph"});
    zero_grad(x);
    backward(scaled(x, 4));
    CHECK(calls == 2);
    CHECK(grad(x).item<float>() == 4);
  }

  TEST_CASE("gradients collect over backward passes until cleared") {
    const Tensor x = leaf(3);
    backward(scaled(x, 2));
    backward(scaled(x, 5));
    CHECK(grad(x).item<float>() == 7);
    zero_grad(x);
    CHECK_FALSE(grad(x).defined());
  }

  TEST_CASE("the same handle as two gradients is not added into itself") {
    const Tensor x = leaf(1);
    backward(added(x, x));
    CHECK(grad(x).item<float>() == 2);
    const Tensor y = leaf(1);
    const Tensor dy = from_host<float>({1}, {1});
    backward(added(added(y, y), y), {.gradient = dy});
    CHECK(grad(y).item<float>() == 3);
    CHECK(dy.item<float>() == 1);
  }

  TEST_CASE("each node runs once, after all its uses") {
    const Tensor x = leaf(1);
    int calls = 0;
    Tensor y = scaled(x, 1, &calls);
    for (int i = 0; i < 5; ++i) y = added(y, y);
    backward(y);
    CHECK(calls == 1);
    CHECK(grad(x).item<float>() == 32);
  }

  TEST_CASE("a very deep graph neither walks nor dies by recursion") {
    const Tensor x = leaf(1);
    {
      Tensor y = x;
      for (int i = 0; i < 200000; ++i) y = scaled(y, 1);
    }
    Tensor y = x;
    for (int i = 0; i < 200000; ++i) y = scaled(y, 1);
    backward(y);
    CHECK(grad(x).item<float>() == 1);
  }

  TEST_CASE("a second backward needs a retained graph") {
    const Tensor x = leaf(3);
    const Tensor y = squared(x);
    backward(y, {.retain_graph = true});
    backward(y);
    CHECK(grad(x).item<float>() == 12);
    check_error([&] { backward(y); }, {"squared", "retain_graph"});
    CHECK(grad(x).item<float>() == 12);
  }

  TEST_CASE("in-place damage to a saved tensor is found") {
    const Tensor x = leaf(3);
    const Tensor y = squared(x);
    {
      NoGrad guard;
      raw::fill_(x, 5);
    }
    check_error([&] { backward(y); }, {"squared backward", "[1]", "modified in place"});
    check_error([&] { backward(y); }, {"squared"});  // the graph is spent
    zero_grad(x);
    backward(squared(x));
    CHECK(grad(x).item<float>() == 10);
  }

  TEST_CASE("what nobody asked for is not computed or recorded") {
    const Tensor x = leaf(2), c = from_host<float>({4}, {1});
    CHECK_FALSE(requires_grad(scaled(c, 2)));
    {
      NoGrad guard;
      CHECK_FALSE(requires_grad(scaled(x, 2)));
      EnableGrad inner;
      CHECK(requires_grad(scaled(x, 2)));
    }
    CHECK_FALSE(requires_grad(detach(scaled(x, 2))));
    check_error([&] { backward(scaled(c, 2)); }, {"backward"});
    bool needed_second = true;
    const Tensor y =
        record("probe", raw::clone(x), {x, c}, [&](const Tensor& dy, Sinks into) -> Grads {
          needed_second = into[1].needed;
          return {dy, {}};
        });
    backward(y);
    CHECK_FALSE(needed_second);
  }

  TEST_CASE("a kernel may add into the gradient so far") {
    const Tensor w = leaf(1);
    const auto op = [&] {
      return record("adds", raw::clone(w), {w}, [](const Tensor& dy, Sinks into) -> Grads {
        if (!into[0].pending.defined()) return {raw::clone(dy)};
        raw::add_(into[0].pending, dy);
        return {into[0].pending};
      });
    };
    backward(added(op(), added(op(), op())));
    CHECK(grad(w).item<float>() == 3);
    const void* memory = grad(w).data();
    backward(op());
    CHECK(grad(w).item<float>() == 4);
    CHECK(grad(w).data() == memory);
  }

  TEST_CASE("an op without derivative says so") {
    const Tensor x = leaf(2);
    const Tensor y = record("argsomething", raw::clone(x), {x}, no_derivative("argsomething"));
    check_error([&] { backward(y); }, {"argsomething has no derivative"});
  }

  TEST_CASE("several outputs; one that nobody used counts as zero") {
    const Tensor x = leaf(3);
    const Tensors ys = record("two", Tensors{raw::clone(x), raw::clone(x)}, {x},
                              [](const Tensors& dys, Sinks) -> Grads {
                                const Tensor dx = raw::clone(dys[0]);
                                raw::add_(dx, dys[1], 10);
                                return {dx};
                              });
    backward(ys[1]);
    CHECK(grad(x).item<float>() == 10);
  }

  TEST_CASE("a gradient of the wrong shape or dtype is refused") {
    const Tensor x = leaf(3);
    const Tensor y = record("bad", raw::clone(x), {x},
                            [](const Tensor&, Sinks) -> Grads { return {zeros({2})}; });
    check_error([&] { backward(y); }, {"bad backward", "[2]", "[1]"});
    check_error([&] { set_grad(x, zeros({2})); }, {"[2]", "[1]"});
    check_error([&] { set_requires_grad(arange(3)); }, {"i64"});
  }

  TEST_CASE("parts of a graph may come from two threads") {
    const Tensor x = leaf(2);
    Tensor a, b;
    std::thread other([&] {
      a = x;
      for (int i = 0; i < 100; ++i) a = scaled(a, 1);
    });
    other.join();
    b = added(scaled(x, 3), a);
    backward(b);
    CHECK(grad(x).item<float>() == 4);
  }

  TEST_CASE("two threads train apart") {
    std::vector<float> results(2);
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&, t] {
        const Tensor x = leaf(1);
        for (int i = 0; i < 200; ++i) {
          Tensor y = x;
          for (int j = 0; j < 20; ++j) y = added(scaled(y, 0.5), scaled(y, 0.5));
          backward(y);
        }
        results[size_t(t)] = grad(x).item<float>();
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(results[0] == 200);
    CHECK(results[1] == 200);
  }

  TEST_CASE("in-place operations need NoGrad") {
    const Tensor x = leaf(2);
    check_error([&] { require_no_grad("fill_", x); }, {"fill_", "NoGrad"});
    NoGrad guard;
    require_no_grad("fill_", x);
  }

  TEST_CASE("gradients() leaves the leaves alone") {
    const Tensor x = leaf(3), w = leaf(5);
    const Tensors g = gradients({added(squared(x), scaled(w, 2))}, {ones({1})}, {x});
    CHECK(g[0].item<float>() == 6);
    CHECK_FALSE(grad(x).defined());
    CHECK_FALSE(grad(w).defined());
    const std::vector<Sink> lent{{.needed = true, .pending = zeros({2})}};
    check_error([&] { gradients({squared(x)}, {ones({1})}, {x}, lent); }, {"[2]", "[1]"});
  }

  TEST_CASE("an op that returns its input gives a handle of its own") {
    const Tensor x = leaf(3);
    const Tensor y = record("same", x, {x}, [](const Tensor& dy, Sinks) -> Grads { return {dy}; });
    CHECK(is_leaf(x));
    backward(y);
    CHECK(grad(x).item<float>() == 1);
  }
}

TEST_SUITE("autograd/recompute") {
  TEST_CASE("gives the same value and gradients as without") {
    Generator rng(3);
    const Tensor x = randn({4, 6}, rng), w = randn({6}, rng), dy = randn({4, 6}, rng);
    const auto fn = [&w](const Tensors& in) { return Tensors{rms_norm(rms_norm(in[0], w), w)}; };
    Tensors plain, again;
    for (Tensors* to : {&plain, &again}) {
      set_requires_grad(x);
      set_requires_grad(w);
      zero_grad(x);
      zero_grad(w);
      const Tensor y = to == &plain ? fn({x})[0] : recompute(fn, {x}, {w})[0];
      backward(y, {.gradient = dy});
      *to = {y, raw::clone(grad(x)), raw::clone(grad(w))};
    }
    for (size_t i = 0; i < plain.size(); ++i) check_same_bits(plain[i], again[i], "recompute");
    zero_grad(w);
    backward(recompute(fn, {x}, {w, w})[0], {.gradient = dy});  // named twice, counted once
    check_same_bits(grad(w), plain[2], "named twice");
    check_error([&] { backward(recompute(fn, {x}, {})[0], {.gradient = dy}); },
                {"recompute", "not among its inputs"});
    const Tensor outside = rms_norm(x, w);
    const auto reaches_out = [&](const Tensors&) { return Tensors{rms_norm(outside, w)}; };
    check_error([&] { backward(recompute(reaches_out, {x}, {w})[0], {.gradient = dy}); },
                {"recompute", "rms_norm", "outside"});
    zero_grad(w);
    set_grad(w, raw::clone(plain[2]));
    backward(recompute(fn, {x}, {w})[0], {.gradient = dy});  // adds to the gradients so far
    check_close(
        grad(w),
        [&] {
          Tensor twice = raw::clone(plain[2]);
          raw::scale_(twice, 2);
          return twice;
        }(),
        f32, 24, "second pass");
  }
}
