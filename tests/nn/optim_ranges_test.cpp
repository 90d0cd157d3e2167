#include <doctest/doctest.h>

#include <cmath>
#include <memory>

#include <olm/autograd/tape.h>
#include <olm/nn/optim.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kBlock = kernels::kNormBlock;
const std::vector<Shape> kShapes = {{5}, {3, kBlock}, {0}, {2 * kBlock + 17}};

using Make = std::function<std::unique_ptr<Optimizer>(const Tensors&)>;
template <class O, class Options>
Make maker(Options options) {
  return [=](const Tensors& p) { return std::make_unique<O>(p, options); };
}
const std::vector<std::pair<std::string, Make>>& makers() {
  static const std::vector<std::pair<std::string, Make>> all = {
      {"adamw", maker<AdamW>(AdamWOptions{.lr = 1e-2, .clip_norm = 1})},
      {"sgd", maker<SGD>(SGDOptions{.lr = 1e-2, .momentum = 0.9, .nesterov = true})},
      {"plain sgd", maker<SGD>(SGDOptions{.lr = 1e-2, .weight_decay = 0.1})},
      {"lion", maker<Lion>(LionOptions{.lr = 1e-2, .weight_decay = 0.1})}};
  return all;
}

Tensors make_parameters(DType dtype = f32) {
  Generator g(1);
  Tensors parameters;
  for (const Shape& shape : kShapes)
    parameters.push_back(on_test_device(raw::cast(randn(shape, g), dtype)));
  return parameters;
}
/// Gradients of a step; parameter 3 has one in every other step alone.
Tensors make_gradients(uint64_t step, DType dtype = f32) {
  Generator g(step + 10);
  Tensors gradients;
  for (const Shape& shape : kShapes)
    gradients.push_back(on_test_device(raw::cast(randn(shape, g), dtype)));
  if (step % 2 == 0) gradients[3] = {};
  return gradients;
}

/// What a rank of several would own: its elements, and the gradients of those.
struct Cut {
  std::vector<ParameterRange> ranges = {};
  Tensors of(const Tensors& gradients) const {
    Tensors parts;
    for (const ParameterRange& r : ranges) {
      const Tensor& g = gradients[size_t(r.parameter)];
      parts.push_back(g.defined() ? raw::slice(raw::view(g, {g.numel()}), 0, r.begin, r.end) : g);
    }
    return parts;
  }
};

const std::vector<Cut> kWhole = {
    {{{0, 0, 5}, {1, 0, 3 * kBlock}, {2, 0, 0}, {3, 0, 2 * kBlock + 17}}}};
/// Two owners, in an order of their own.
const std::vector<Cut> kTwo = {{{{3, kBlock, 2 * kBlock + 17}, {1, 0, kBlock}}},
                               {{{2, 0, 0}, {1, kBlock, 3 * kBlock}, {3, 0, kBlock}, {0, 0, 5}}}};
const std::vector<Cut> kThree = {{{{1, kBlock, 2 * kBlock}, {0, 0, 5}}},
                                 {{{1, 2 * kBlock, 3 * kBlock}, {3, 0, 2 * kBlock}, {2, 0, 0}}},
                                 {{{1, 0, kBlock}, {3, 2 * kBlock, 2 * kBlock + 17}}}};

/// Optimizers of the same parameters, each of one cut: what ranks are, on one tensor.
struct Owners {
  Owners(const Make& make, Tensors p, const std::vector<Cut>& the_cuts)
      : parameters(std::move(p)), cuts(the_cuts) {
    for (const Cut& cut : cuts) {
      optimizers.push_back(make(parameters));
      optimizers.back()->set_ranges(cut.ranges);
    }
  }
  /// The sums of all owners' blocks, in the order of parameters.
  Tensor all_sums(const Tensors& gradients) const {
    std::vector<int64_t> first = {0};
    for (const Tensor& p : parameters) first.push_back(first.back() + raw::norm_blocks(p.numel()));
    std::vector<double> sums(size_t(first.back()));
    for (size_t o = 0; o < cuts.size(); ++o) {
      const auto part = to_host<double>(optimizers[o]->squared_sums(cuts[o].of(gradients)));
      size_t from = 0;
      for (const ParameterRange& r : cuts[o].ranges)
        for (int64_t b = 0; b < raw::norm_blocks(r.end - r.begin); ++b)
          sums[size_t(first[size_t(r.parameter)] + r.begin / kBlock + b)] = part[from++];
      CHECK(from == part.size());
    }
    return from_host(sums, {first.back()});
  }
  StepInfo step(const Tensors& gradients, StepOptions options = {}) {
    const Tensor sums = all_sums(gradients);
    std::vector<bool> present;
    for (const Tensor& g : gradients) present.push_back(g.defined());
    StepInfo info;
    for (size_t o = 0; o < cuts.size(); ++o) {
      Optimizer& optimizer = *optimizers[o];
      optimizer.begin_step(sums, options);
      const Tensors parts = cuts[o].of(gradients);
      optimizer.update_ranges({parts.begin() + 1, parts.end()}, 1);
      optimizer.update_ranges({parts[0]}, 0);
      info = optimizer.end_step(sums, present);
    }
    return info;
  }
  /// The state of all, as a checkpoint holds it.
  std::map<std::string, Tensor> state() const {
    std::map<std::string, Tensor> whole;
    for (const TensorLayout& layout : optimizers[0]->state_layout())
      whole[layout.name] = full(layout.shape, 77, {.dtype = layout.dtype});
    for (const auto& optimizer : optimizers)
      for (const TensorPiece& piece : optimizer->state_pieces()) {
        const Tensor& t = whole.at(piece.name);
        raw::copy_(
            raw::slice(raw::view(t, {t.numel()}), 0, piece.begin, piece.begin + piece.data.numel()),
            raw::to(piece.data, cpu));
      }
    return whole;
  }
  Tensors parameters;
  std::vector<Cut> cuts;
  std::vector<std::unique_ptr<Optimizer>> optimizers;
};

StepInfo step_whole(Optimizer& optimizer, const Tensors& gradients, StepOptions options = {}) {
  const Tensors parameters = optimizer.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) set_grad(parameters[i], gradients[i]);
  return optimizer.step(options);
}

void check_same_state(const std::map<std::string, Tensor>& a,
                      const std::map<std::string, Tensor>& b, const std::string& what) {
  CHECK(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    REQUIRE_MESSAGE(b.count(name) == 1, name);
    check_same_bits(raw::to(tensor, cpu), raw::to(b.at(name), cpu), what + " " + name);
  }
}

}  // namespace

TEST_SUITE("nn/optim") {
  TEST_CASE("updates cut into ranges have the bits of whole ones, and so has their state") {
    for (const auto& [name, make] : makers())
      for (const DType dtype : {f32, bf16})
        for (const auto& cuts : {kWhole, kTwo, kThree}) {
          const Tensors parameters = make_parameters(dtype);
          const auto whole = make(parameters);
          Owners owners(make, make_parameters(dtype), cuts);
          for (uint64_t step = 0; step < 3; ++step) {
            const Tensors gradients = make_gradients(step, dtype);
            const StepInfo a = step_whole(*whole, gradients, {.gradient_scale = 0.5});
            const StepInfo b = owners.step(gradients, {.gradient_scale = 0.5});
            CHECK(a.grad_norm == b.grad_norm);
            CHECK(a.grad_norm > 0);
            CHECK_FALSE(b.skipped);
            for (size_t i = 0; i < parameters.size(); ++i)
              check_same_bits(owners.parameters[i], parameters[i], name);
            check_same_state(owners.state(), whole->state_dict(), name);
          }
        }
  }

  TEST_CASE("state of some owners is loaded by others, who go on with the same bits") {
    for (const auto& [name, make] : makers()) {
      const DType dtype = name == "adamw" ? bf16 : f32;
      const Tensors parameters = make_parameters(dtype);
      const auto whole = make(parameters);
      Owners two(make, make_parameters(dtype), kTwo);
      for (uint64_t step = 0; step < 3; ++step) {
        step_whole(*whole, make_gradients(step, dtype));
        two.step(make_gradients(step, dtype));
      }
      Tensors copies;
      for (const Tensor& p : two.parameters) copies.push_back(raw::clone(p));
      Owners three(make, copies, kThree);
      for (const auto& optimizer : three.optimizers) optimizer->load_state_dict(two.state());
      check_same_state(three.state(), two.state(), name);
      for (uint64_t step = 3; step < 6; ++step) {
        step_whole(*whole, make_gradients(step, dtype));
        three.step(make_gradients(step, dtype));
      }
      for (size_t i = 0; i < parameters.size(); ++i)
        check_same_bits(three.parameters[i], parameters[i], name);
      check_same_state(three.state(), whole->state_dict(), name);
    }
  }

  TEST_CASE("an owner of parts loads those alone") {
    const Tensors parameters = make_parameters();
    AdamW whole(parameters), part(parameters);
    step_whole(whole, make_gradients(1));
    part.set_ranges({{1, kBlock, 2 * kBlock}});
    const auto state = whole.state_dict();
    const size_t before = memory_stats(parameters[0].device()).in_use;
    part.load_state_dict(state);
    const size_t bytes = memory_stats(parameters[0].device()).in_use - before;
    CHECK(bytes >= 2 * kBlock * sizeof(float));
    CHECK(bytes < 2 * kBlock * sizeof(float) + 4096);
    check_error([&] { (void)part.state_dict(); }, {"AdamW", "state_dict", "set_ranges"});
    set_grad(parameters[0], ones_like(parameters[0]));
    check_error([&] { part.step(); }, {"AdamW", "step()", "set_ranges"});
  }

  TEST_CASE("moments that are there are cut and put together; those elsewhere are missed") {
    const Tensors parameters = make_parameters();
    AdamW optimizer(parameters), expected(parameters);
    step_whole(optimizer, make_gradients(1));
    expected.load_state_dict(optimizer.state_dict());
    optimizer.set_ranges({{1, 2 * kBlock, 3 * kBlock}, {1, 0, 2 * kBlock}});
    optimizer.set_ranges({{1, 0, 3 * kBlock}});
    for (const TensorPiece& piece : optimizer.state_pieces())
      if (piece.name != "step" && piece.name != "missed")
        check_same_bits(piece.data, raw::view(expected.state_dict().at(piece.name), {-1}),
                        piece.name);
    CHECK(optimizer.state_pieces().size() == 4);
    check_error([&] { optimizer.set_ranges(kWhole[0].ranges); }, {"parameter 0", "elsewhere"});
    CHECK(optimizer.ranges() == std::vector<ParameterRange>{{1, 0, 3 * kBlock}});
  }

  TEST_CASE("bytes of the state are those of what is kept") {
    for (const auto& [name, make] : makers())
      for (const DType dtype : {f32, bf16, f64}) {
        const Tensors parameters = make_parameters(dtype);
        for (const Tensor& p : parameters) set_requires_grad(p);
        const auto optimizer = make(parameters);
        optimizer->set_ranges(kTwo[0].ranges);
        const size_t planned = optimizer->state_bytes();
        optimizer->set_ranges(kWhole[0].ranges);
        step_whole(*optimizer, make_gradients(1, dtype));
        optimizer->set_ranges(kTwo[0].ranges);
        size_t bytes = 0;
        for (const TensorPiece& piece : optimizer->state_pieces())
          if (piece.name.find('.') != std::string::npos)
            bytes += size_t(piece.data.numel()) * size_of(piece.data.dtype());
        CHECK(planned == bytes);
        CHECK(optimizer->state_bytes() == bytes);
        CHECK((bytes > 0) == (name != "plain sgd" || dtype == bf16));
      }
  }

  TEST_CASE("ranges that are none are refused") {
    AdamW optimizer(make_parameters());
    const auto refused = [&](std::vector<ParameterRange> ranges,
                             const std::vector<std::string>& parts) {
      check_error([&] { optimizer.set_ranges(ranges); }, parts);
      CHECK(optimizer.ranges() == kWhole[0].ranges);
    };
    refused({{4, 0, 1}}, {"AdamW", "parameter 4", "there are 4"});
    refused({{1, 5, kBlock}}, {"5 to 32768", "[3,32768]", "blocks of 32768"});
    refused({{1, 0, 7}}, {"0 to 7", "blocks of 32768"});
    refused({{0, 0, 6}}, {"0 to 6", "[5]"});
    refused({{1, 0, 2 * kBlock}, {0, 0, 5}, {1, kBlock, 3 * kBlock}}, {"32768", "two ranges"});
    AdamW strided({raw::transpose(zeros({2, kBlock}), 0, 1)});
    check_error([&] { strided.set_ranges({{0, 0, kBlock}}); }, {"not contiguous"});
    optimizer.set_ranges(kTwo[0].ranges);
    check_error([&] { (void)optimizer.squared_sums({}); }, {"0 gradients", "2 ranges"});
    check_error([&] { optimizer.begin_step(zeros({1}, {.dtype = f64}), {}); }, {"1 sums", "7"});
    check_error([&] { optimizer.update_ranges({ones({1})}, 2); }, {"2 ranges", "number 2"});
    check_error([&] { optimizer.update_ranges({ones({1})}, 1); }, {"[1]", "0 to 32768"});
    check_error([&] { (void)optimizer.end_step(zeros({7}, {.dtype = f64}), {true}); },
                {"4 parameters", "1"});
  }

  TEST_CASE("a bad gradient of one owner skips the step of all, who name its parameter") {
    for (const DType dtype : {f32, bf16}) {
      Owners owners(makers()[0].second, make_parameters(dtype), kTwo);
      owners.step(make_gradients(1, dtype));
      const auto before = owners.state();
      Tensors weights;
      for (const Tensor& p : owners.parameters) weights.push_back(raw::clone(p));
      Tensors gradients = make_gradients(3, dtype);
      raw::fill_(raw::slice(gradients[3], 0, kBlock + 1, kBlock + 2), NAN);
      const StepInfo info = owners.step(gradients);
      CHECK(info.skipped);
      CHECK(info.first_bad == 3);
      check_same_state(owners.state(), before, "skipped");
      for (size_t i = 0; i < weights.size(); ++i)
        check_same_bits(owners.parameters[i], weights[i], "skipped");
    }
  }

  TEST_CASE("all owners list the moments of what had a gradient, also where they own none of it") {
    Owners owners(makers()[0].second, make_parameters(), kThree);
    const auto names = [&](size_t o) {
      std::vector<std::string> result;
      for (const TensorLayout& layout : owners.optimizers[o]->state_layout())
        result.push_back(layout.name);
      return result;
    };
    CHECK(names(2) == std::vector<std::string>{"missed", "step"});
    owners.step(make_gradients(0));
    const std::vector<std::string> some = {"exp_avg.0",    "exp_avg.1",    "exp_avg.2",
                                           "exp_avg_sq.0", "exp_avg_sq.1", "exp_avg_sq.2",
                                           "missed",       "step"};
    for (size_t o = 0; o < 3; ++o) CHECK(names(o) == some);
    owners.step(make_gradients(1));
    for (size_t o = 0; o < 3; ++o) CHECK(names(o).size() == 10);
    CHECK(owners.optimizers[0]->state_layout()[1].shape == Shape{3, kBlock});
    CHECK(to_host<int64_t>(owners.state().at("missed")) == std::vector<int64_t>{0, 0, 0, 1});
  }

  TEST_CASE("a bf16 parameter is what its master weights round to") {
    const Tensors exact = make_parameters(bf16);
    Tensors single;
    for (const Tensor& p : exact) single.push_back(raw::cast(p, f32));
    AdamW half(exact, {.lr = 1e-4}), reference(single, {.lr = 1e-4});
    for (uint64_t step = 0; step < 4; ++step) {
      Tensors gradients = make_gradients(2 * step + 1, bf16);
      step_whole(half, gradients);
      for (Tensor& g : gradients) g = raw::cast(g, f32);
      step_whole(reference, gradients);
    }
    const auto state = half.state_dict();
    for (size_t i = 0; i < exact.size(); ++i) {
      check_same_bits(state.at("master." + std::to_string(i)), single[i], "master");
      check_same_bits(exact[i], raw::cast(single[i], bf16), "parameter");
    }
  }
}
