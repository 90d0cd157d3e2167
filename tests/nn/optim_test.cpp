#include <doctest/doctest.h>

#include <cmath>
#include <memory>

#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/tape.h>
#include <olm/engine/raw_muon.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/blocks.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/linear.h>
#include <olm/nn/norms.h>
#include <olm/nn/optim.h>
#include <tests/support/checks.h>
#include <tests/support/fixture_errors.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

using Make = std::function<std::unique_ptr<Optimizer>(const Tensors&)>;

template <class O, class Options>
Make maker(Options options) {
  return [=](const Tensors& p) { return std::make_unique<O>(p, options); };
}

constexpr int kSteps = 5;
const std::vector<Shape> kShapes = {{1}, {31}, {33}, {4099}, {40000}, {0}, {33, 70}, {41, 5}};

std::string key(const std::string& head, int step, size_t i) {
  return head + "." + std::to_string(step) + "." + std::to_string(i);
}

struct Parity {
  std::string family = {};  ///< "muon." for the parameters that Muon's cases share
  std::vector<std::pair<int, size_t>> missing = {};
  double length = 25;
  /// How often numbers were rounded to bf16, if at all: how far parameters moved is compared then.
  int roundings = 0;
};

/// Checks how far a parameter has moved.
Compared check_moved(const Tensor& got, const Tensor& wanted, const Tensor& from, double tolerance,
                     const std::string& what) {
  const auto move = [&](const Tensor& to) {
    const Tensor y = raw::clone(raw::cast(raw::to(to, cpu), f64));
    raw::add_(y, from, -1);
    return y;
  };
  const double error = difference(move(got), move(wanted)).relative_l2;
  CHECK_MESSAGE(error < tolerance, what);
  return {error, tolerance};
}

/// Five steps from the fixture's gradients against the fixture's parameters.
void parity(const std::string& name, const Make& make, DType dtype, const Parity& p = {}) {
  const auto file = SafetensorsFile::open(std::string(OLM_FIXTURES) + "/optim.safetensors");
  Tensors initial, parameters;
  for (const char* i : {"initial.0", "initial.1", "initial.2"}) {
    initial.push_back(file.tensor(p.family + i));
    parameters.push_back(on_test_device(raw::clone(raw::cast(initial.back(), dtype))));
  }
  const auto optimizer = make(parameters);
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < parameters.size(); ++i)
      if (std::find(p.missing.begin(), p.missing.end(), std::pair(step, i)) == p.missing.end())
        set_grad(parameters[i], on_test_device(raw::clone(raw::cast(
                                    file.tensor(key(p.family + "grad", step, i)), dtype))));
    CHECK(!optimizer->step().skipped);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor wanted = file.tensor(key(name, step, i));
      const std::string what = key(name, step, i) + " " + name_of(dtype);
      const Compared c =
          p.roundings > 0
              ? check_moved(parameters[i], wanted, initial[i], p.roundings * 0x1p-8, what)
              : check_close(parameters[i], wanted, dtype, p.length, what);
      if (dtype == f32)
        record_fixture({"optim.safetensors", name}, FixturePart::output, c.error, c.tolerance);
    }
  }
}

/// Parameters of awkward sizes and a way to give them gradients.
Tensors make_parameters(DType dtype = f32) {
  Generator g(1);
  Tensors parameters;
  for (const Shape& shape : kShapes)
    parameters.push_back(on_test_device(raw::cast(randn(shape, g), dtype)));
  return parameters;
}
void give_gradients(const Tensors& parameters, uint64_t seed) {
  Generator g(seed);
  for (const Tensor& p : parameters)
    set_grad(p, on_test_device(raw::cast(randn(p.shape(), g), p.dtype())));
}

const std::vector<std::pair<std::string, Make>>& makers() {
  static const std::vector<std::pair<std::string, Make>> all = {
      {"adamw", maker<AdamW>(AdamWOptions{.lr = 1e-2, .clip_norm = 1})},
      {"sgd", maker<SGD>(SGDOptions{.lr = 1e-2, .momentum = 0.9, .nesterov = true})},
      {"plain sgd", maker<SGD>(SGDOptions{.lr = 1e-2, .weight_decay = 0.1})},
      {"lion", maker<Lion>(LionOptions{.lr = 1e-2, .weight_decay = 0.1})},
      {"muon", maker<Muon>(MuonOptions{.lr = 1e-2, .dtype = f32})}};
  return all;
}

}  // namespace

TEST_SUITE("nn/optim") {
  TEST_CASE("five steps match PyTorch") {
    const AdamWOptions adamw{.lr = 1e-2, .betas = {0.9, 0.95}, .weight_decay = 0.1};
    AdamWOptions clipped = adamw;
    clipped.clip_norm = 1;
    const SGDOptions sgd{.lr = 0.1, .weight_decay = 0.01};
    SGDOptions momentum = sgd;
    momentum.momentum = 0.9;
    SGDOptions nesterov = momentum;
    nesterov.nesterov = true;
    for (const DType dtype : {f64, f32}) {
      parity("adamw", maker<AdamW>(adamw), dtype);
      parity("adamw_clip", maker<AdamW>(clipped), dtype);
      parity("adamw_missing", maker<AdamW>(adamw), dtype, {.missing = {{0, 1}, {2, 1}, {4, 0}}});
      parity("sgd", maker<SGD>(sgd), dtype);
      parity("sgd_momentum", maker<SGD>(momentum), dtype);
      parity("sgd_nesterov", maker<SGD>(nesterov), dtype);
    }
  }

  TEST_CASE("five steps match Lion's paper") {
    const LionOptions lion{.lr = 1e-2, .betas = {0.9, 0.99}, .weight_decay = 0.1};
    for (const DType dtype : {f64, f32}) parity("lion", maker<Lion>(lion), dtype);
  }

  TEST_CASE("five steps match Muon's formula, and PyTorch within what bf16 can do") {
    MuonOptions muon{
        .lr = 1e-2, .momentum = 0.9, .weight_decay = 0.1, .dtype = f32, .betas = {0.9, 0.95}};
    MuonOptions plain = muon;
    plain.nesterov = false;
    plain.match_adamw = false;
    // Errors in small singular values grow by the slope of the polynomial: 3.4445^5.
    for (const DType dtype : {f64, f32}) {
      parity("muon", maker<Muon>(muon), dtype, {.family = "muon.", .length = 500});
      parity("muon_plain", maker<Muon>(plain), dtype, {.family = "muon.", .length = 500});
    }
    muon.dtype = bf16;
    // Once, and three times in each of five iterations.
    parity("muon_pytorch", maker<Muon>(muon), f32, {.family = "muon.", .roundings = 16});
  }

  TEST_CASE("a matrix becomes orthogonal, whatever its shape and size") {
    Generator g(4);
    for (const Shape& shape : {Shape{64, 64}, Shape{33, 130}, Shape{130, 33}, Shape{1, 5}})
      for (const double size : {1.0, 1e-6, 1e6})
        for (const DType dtype : {f32, bf16}) {
          const Tensor x = on_test_device(randn(shape, g));
          raw::scale_(x, size);
          const Tensor o = raw::cast(
              raw::to(raw::orthogonalize(x, {.iterations = 5, .dtype = dtype}), cpu), f64);
          const bool flat = shape[0] <= shape[1];
          const Tensor gram =
              flat ? matmul(o, raw::transpose(o, 0, 1)) : matmul(raw::transpose(o, 0, 1), o);
          // The mean of squared singular values, all from 0.68² to 1.21².
          double trace = 0;
          const int64_t k = gram.size(0);
          for (int64_t i = 0; i < k; ++i)
            trace += to_host<double>(gram)[size_t(i * k + i)] / double(k);
          INFO(shape, " ", size, " ", name_of(dtype));
          CHECK(trace > 0.44);
          CHECK(trace < 1.5);
          // It keeps the singular vectors: xᵀo is symmetric and positive.
          const Tensor wide = raw::cast(raw::to(x, cpu), f64);
          const Tensor product =
              flat ? matmul(wide, raw::transpose(o, 0, 1)) : matmul(raw::transpose(wide, 0, 1), o);
          CHECK(difference(product, raw::transpose(product, 0, 1)).relative_l2 <
                (dtype == f32 ? 1e-4 : 0.1));
        }
    CHECK(raw::orthogonalize(zeros({3, 0})).shape() == Shape{3, 0});
    CHECK(to_host<float>(raw::orthogonalize(zeros({2, 3})))[0] == 0);
    check_error([] { raw::orthogonalize(zeros({3})); }, {"orthogonalize", "matrix", "[3]"});
    check_error([] { raw::orthogonalize(zeros({3, 3}), {.dtype = f16}); }, {"bf16", "f16"});
  }

  TEST_CASE("Muon takes the matrices of hidden layers, AdamW tables, heads and vectors") {
    auto layer = [] {
      return TransformerBlock({.embed_dim = 16, .num_heads = 2, .max_seq_len = 8});
    };
    const Ref<Module> heads[] = {OutputHead(16, 11), Block({LayerNorm(16), Linear(16, 11)})};
    for (const Ref<Module>& head : heads) {
      const Ref<Module> tables = Block({Embedding(11, 16), AbsolutePositionalEmbedding(8, 16)});
      const Ref<Module> model = Block({tables, Repeat(layer, 2), head});
      init(*model, {.seed = 1});
      Muon optimizer(muon_groups(*model, 0.1));
      std::map<const TensorImpl*, std::string> keys;
      for (const auto& [key, p] : model->named_parameters()) keys[&p.impl()] = key;
      const Tensors parameters = optimizer.parameters();
      CHECK(parameters.size() == keys.size());
      for (size_t i = 0; i < parameters.size(); ++i) {
        const std::string& key = keys.at(&parameters[i].impl());
        const bool at_the_ends = key.starts_with("blocks.0.") || key.starts_with("blocks.2.");
        const bool hidden = parameters[i].rank() == 2 && !at_the_ends;
        INFO(head->type_name(), " ", key);
        CHECK(optimizer.update_of(int64_t(i)).divisible == !hidden);
        CHECK(optimizer.update_of(int64_t(i)).moments == (hidden ? 1 : 2));
        CHECK((optimizer.update_of(int64_t(i)).flops > 0) == hidden);
      }
    }
  }

  TEST_CASE("the global norm is that of all elements, in any dtype") {
    for (const DType dtype : {f32, f64, bf16, f16}) {
      const Tensors xs = make_parameters(dtype);
      double squares = 0;
      for (const Tensor& x : xs)
        for (const double v : to_host<double>(x)) squares += v * v;
      CHECK(raw::global_norm(xs) == doctest::Approx(std::sqrt(squares)).epsilon(1e-12));
    }
    const Tensor three = from_host<float>({3}, {1}), four = from_host<double>({4}, {1});
    CHECK(raw::global_norm({three, four}) == doctest::Approx(5).epsilon(1e-15));
    CHECK(raw::global_norm({raw::transpose(from_host<float>({1, 2, 2, 4}, {2, 2}), 0, 1)}) == 5);
    CHECK(raw::global_norm({full({1000}, 1e30)}) == doctest::Approx(1e30 * std::sqrt(1000.0)));
    CHECK(raw::global_norm({}) == 0);
    check_error([] { raw::global_norm({arange(3)}); }, {"global_norm", "i64"});
  }

  TEST_CASE("f32 follows f64 in awkward sizes, for each instruction set") {
    for (const auto& [name, make] : makers()) {
      const Tensors exact = make_parameters(f64);
      const auto reference = make(exact);
      give_gradients(exact, 9);
      reference->step();
      for_each_target([&](const std::string& target) {
        const Tensors parameters = make_parameters();
        const auto optimizer = make(parameters);
        give_gradients(parameters, 9);
        optimizer->step();
        for (size_t i = 0; i < parameters.size(); ++i)
          check_close(parameters[i], exact[i], f32, 1, name + " " + target);
      });
    }
  }

  TEST_CASE("any number of threads gives the same bits") {
    for (const auto& [name, make] : makers()) {
      check_same_for_any_threads([&] {
        const Tensors parameters = make_parameters();
        const auto optimizer = make(parameters);
        for (uint64_t step = 0; step < 3; ++step) {
          give_gradients(parameters, step);
          optimizer->step();
        }
        return parameters;
      });
    }
  }

  TEST_CASE("state that was stored and loaded continues with the same bits") {
    for (const auto& [name, make] : makers()) {
      const Tensors whole = make_parameters(), first = make_parameters();
      const auto run = [](Optimizer& optimizer, const Tensors& parameters, uint64_t from,
                          uint64_t to) {
        for (uint64_t step = from; step < to; ++step) {
          give_gradients(parameters, step);
          if (step % 2) zero_grad(parameters[1]);
          optimizer.step();
        }
      };
      const auto a = make(whole), b = make(first);
      run(*a, whole, 0, 6);
      run(*b, first, 0, 3);
      Tensors second;
      for (const Tensor& p : first) second.push_back(raw::clone(p));
      const auto c = make(second);
      c->load_state_dict(b->state_dict());
      CHECK(c->steps() == 3);
      run(*c, second, 3, 6);
      for (size_t i = 0; i < whole.size(); ++i) check_same_bits(second[i], whole[i], name);
    }
  }

  TEST_CASE("state that does not fit is refused and changes nothing") {
    const Tensors parameters = make_parameters();
    AdamW optimizer(parameters);
    give_gradients(parameters, 1);
    optimizer.step();
    const auto good = optimizer.state_dict();
    const auto broken = [&](const std::function<void(std::map<std::string, Tensor>&)>& change,
                            const std::vector<std::string>& parts) {
      auto state = good;
      change(state);
      check_error([&] { optimizer.load_state_dict(state); }, parts);
    };
    broken([](auto& s) { s.erase("exp_avg.1"); }, {"AdamW", "exp_avg.1", "missing"});
    broken([](auto& s) { s.erase("step"); }, {"step", "missing"});
    broken([](auto& s) { s["exp_avg.9"] = ones({1}); }, {"exp_avg.9", "8 parameters"});
    broken([](auto& s) { s["exp_avg_sq.1"] = ones({30}); }, {"exp_avg_sq.1", "[30]", "[31]"});
    broken([](auto& s) { s["exp_avg.0"] = ones({1}, {.dtype = f64}); }, {"exp_avg.0", "f64"});
    broken([](auto& s) { s["missed"] = arange(2); }, {"missed", "[2]"});
    broken([](auto& s) { s["missed"] = full({8}, 2, {.dtype = i64}); }, {"missed 2 of 1"});
    CHECK(optimizer.steps() == 1);
    SGD other(parameters);
    check_error([&] { other.load_state_dict(good); }, {"SGD", "exp_avg.0"});
  }

  TEST_CASE("a step that is not finite changes nothing and names the first bad gradient") {
    for (const auto& [name, make] : makers()) {
      const Tensors parameters = make_parameters();
      const auto optimizer = make(parameters);
      give_gradients(parameters, 1);
      const StepInfo good = optimizer->step();
      CHECK(!good.skipped);
      CHECK(good.first_bad == -1);
      CHECK(optimizer->last_grad_norm() == good.grad_norm);
      Tensors before;
      for (const Tensor& p : parameters) before.push_back(raw::clone(p));
      auto state = optimizer->state_dict();
      for (auto& [key, tensor] : state) tensor = raw::clone(tensor);
      for (const float bad : {NAN, INFINITY}) {
        give_gradients(parameters, 2);
        raw::fill_(raw::slice(grad(parameters[3]), 0, 4000, 4001), bad);
        const StepInfo info = optimizer->step();
        CHECK(info.skipped);
        CHECK(info.first_bad == 3);
        CHECK(!std::isfinite(info.grad_norm));
      }
      give_gradients(parameters, 2);
      CHECK(optimizer->step({.skip_above = 1}).skipped);
      CHECK(optimizer->steps() == 1);
      for (size_t i = 0; i < parameters.size(); ++i) {
        check_same_bits(parameters[i], before[i], name);
        CHECK(!grad(parameters[i]).defined());
      }
      for (const auto& [key, tensor] : optimizer->state_dict())
        check_same_bits(tensor, state[key], name + " " + key);
    }
  }

  TEST_CASE("options that make no sense are refused") {
    const Tensor p = ones({3});
    check_error([&] { AdamW({p, p}); }, {"AdamW", "twice"});
    check_error([&] { AdamW({p}, {.lr = -1}); }, {"AdamW", "learning rate", "-1"});
    check_error([&] { AdamW({p}, {.betas = {0.9, 1}}); }, {"AdamW", "betas", "1"});
    check_error([&] { AdamW({p}, {.eps = -1}); }, {"AdamW", "eps"});
    check_error([&] { AdamW({p}, {.weight_decay = -1}); }, {"AdamW", "weight decay"});
    check_error([&] { AdamW({p}, {.clip_norm = -1}); }, {"AdamW", "clip"});
    check_error([&] { AdamW({arange(3)}); }, {"AdamW", "i64"});
    check_error([&] { SGD({p}, {.nesterov = true}); }, {"SGD", "nesterov"});
    check_error([&] { SGD({p}, {.momentum = -1}); }, {"SGD", "momentum"});
    check_error([&] { Lion({p}, {.betas = {-1, 0}}); }, {"Lion", "betas"});
    check_error([&] { Muon({p}, {.momentum = 1}); }, {"Muon", "momentum", "1"});
    check_error([&] { Muon({p}, {.iterations = 0}); }, {"Muon", "iteration", "0"});
    check_error([&] { Muon({p}, {.dtype = f16}); }, {"Muon", "f16"});
    check_error([&] { Muon({{.parameters = {p}, .orthogonalize = true}}); }, {"no matrix", "[3]"});
    check_error([&] { Muon({ones({2, 3})}).set_ranges({{0, 0, 0}}); }, {"whole", "[2,3]"});
    check_error([&] { AdamW({p}).set_lr(NAN); }, {"AdamW", "learning rate"});
    const Tensor half = ones({3}, {.dtype = f16});
    AdamW optimizer({half});
    set_grad(half, ones({3}, {.dtype = f16}));
    check_error([&] { optimizer.step(); }, {"adamw", "f32", "f16", "[3]"});
    const Tensor strided = raw::transpose(ones({3, 2}), 0, 1);
    Lion lion({strided});
    set_grad(strided, ones({2, 3}));
    check_error([&] { lion.step(); }, {"lion", "contiguous"});
  }

  TEST_CASE("an update names what it lacks") {
    const Tensor p = ones({3}), g = ones({3}), m = zeros({3});
    const raw::StepState state;
    check_error([&] { raw::adamw_({{.parameter = p}}, state, 0.9, 0.99, 0); },
                {"adamw", "[3]", "no gradient"});
    check_error([&] { raw::adamw_({{.parameter = p, .gradient = g}}, state, 0.9, 0.99, 0); },
                {"adamw", "no first moment"});
    check_error(
        [&] { raw::adamw_({{.parameter = p, .gradient = g, .first = m}}, state, 0.9, 0.99, 0); },
        {"adamw", "no second moment"});
    check_error([&] { raw::lion_({{.parameter = p, .gradient = g}}, state, 0.9, 0.99); },
                {"lion", "no first moment"});
    check_error([&] { raw::sgd_({{.parameter = p, .gradient = g}}, state, 0.9, false); },
                {"sgd", "no first moment"});
    raw::sgd_({{.parameter = p, .gradient = g}}, state, 0, false);
    check_error([&] { raw::begin_step(state, p, {}); }, {"[3]", "f64"});
  }
}
