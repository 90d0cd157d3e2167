// Whole models train as they do in PyTorch, from the same weights on the same batches.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/models.h>
#include <olm/nn/optim.h>
#include <tests/support/checks.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

using TensorMap = std::map<std::string, Tensor>;

/// What PyTorch did, and the model it did it with.
struct Curve {
  Ref<BlockModule> model = {};
  TensorMap weights = {}, gradients = {};  ///< by key; gradients of step 1
  Tensor batches = {};                     ///< [steps, B, T + 1]
  std::vector<double> losses = {}, norms = {};
};

TensorMap below(const SafetensorsFile& file, const std::string& folder) {
  TensorMap found;
  for (const std::string& name : file.names())
    if (name.starts_with(folder)) found[name.substr(folder.size())] = file.tensor(name);
  return found;
}

Curve read_curve(const std::string& file, Ref<BlockModule> model) {
  const SafetensorsFile f = SafetensorsFile::open(fixture(file));
  Curve c{.model = model,
          .weights = below(f, "weights/"),
          .gradients = below(f, "gradients/"),
          .batches = f.tensor("batches"),
          .losses = to_host<double>(f.tensor("losses")),
          .norms = to_host<double>(f.tensor("grad_norms"))};
  c.model->load_state_dict(c.weights);
  REQUIRE(c.losses.size() == 20);
  REQUIRE(c.weights.size() == c.model->named_parameters().size());
  return c;
}

Curve gpt2() {
  return read_curve("curves_gpt2.safetensors", GPT2Model({.vocab_size = 97,
                                                          .embed_dim = 48,
                                                          .num_layers = 2,
                                                          .num_heads = 4,
                                                          .max_seq_len = 32,
                                                          .dropout = 0}));
}

Curve llama() {
  return read_curve("curves_llama.safetensors", Llama2Model({.vocab_size = 97,
                                                             .embed_dim = 48,
                                                             .intermediate_size = 80,
                                                             .num_layers = 2,
                                                             .num_heads = 4,
                                                             .num_kv_heads = 2,
                                                             .max_seq_len = 32,
                                                             .tie_weights = false}));
}

Tensor inputs(const Curve& c, int64_t step) {
  return slice(select(c.batches, 0, step), 1, 0, c.batches.size(2) - 1);
}
Tensor targets(const Curve& c, int64_t step) { return slice(select(c.batches, 0, step), 1, 1); }

/// Relative L2 distance of the gradients the model holds from those of step 1. One that is nothing
/// but rounding, as a key bias's is, is measured against a thousandth of all gradients' norm.
double gradients_apart(const Curve& c) {
  double apart = 0;
  for (const auto& [key, parameter] : c.model->named_parameters()) {
    REQUIRE_MESSAGE(c.gradients.count(key) == 1, "the fixture has no gradient of ", key);
    const std::vector<double> got = to_host<double>(grad(parameter));
    const std::vector<double> wanted = to_host<double>(c.gradients.at(key));
    REQUIRE(got.size() == wanted.size());
    double error = 0, square = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += (got[i] - wanted[i]) * (got[i] - wanted[i]);
      square += wanted[i] * wanted[i];
    }
    const double relative = std::sqrt(error) / std::max(std::sqrt(square), 1e-3 * c.norms[0]);
    INFO(key, ": ", relative);
    CHECK(std::isfinite(relative));
    apart = std::max(apart, relative);
  }
  return apart;
}

/// Largest relative distances from what PyTorch did.
struct Deviation {
  double losses = 0, norms = 0, gradients = 0;
};

Deviation train(const Curve& c, DType dtype) {
  const Device device = dtype == f64 ? cpu : test_device();
  if (dtype == f64) c.model->to(f64);
  c.model->to(device);
  AdamW optimizer(decay_groups(c.model->parameters(), 0.1),
                  {.lr = 1e-3, .betas = {0.9, 0.95}, .clip_norm = 1});
  Deviation d;
  for (size_t step = 0; step < c.losses.size(); ++step) {
    Context ctx{.dtype = dtype};
    const int64_t at = int64_t(step);
    const Tensor loss =
        c.model->loss(raw::to(inputs(c, at), device), raw::to(targets(c, at), device), ctx);
    backward(loss);
    if (step == 0) d.gradients = gradients_apart(c);
    const double norm = optimizer.step().grad_norm;
    const double apart = std::abs(loss.item<double>() / c.losses[step] - 1);
    CHECK(std::isfinite(apart));
    d.losses = std::max(d.losses, apart);
    d.norms = std::max(d.norms, std::abs(norm / c.norms[step] - 1));
  }
  MESSAGE(std::string(name_of(dtype)), ": losses within ", d.losses, ", gradient norms within ",
          d.norms, ", gradients of step 1 within ", d.gradients);
  return d;
}

/// f32 as the rounding of 20 steps allows, f64 as far as the files tell, and bf16 activations close
/// enough that both would be called the same curve.
void check_curves(Curve (*read)(), const std::string& name) {
  const Deviation single = train(read(), f32);
  CHECK(single.losses < 1e-5);
  CHECK(single.norms < 1e-4);
  CHECK(single.gradients < 1e-4);
  const FixtureCase fixture{"curves_" + name + ".safetensors", name};
  record_fixture(fixture, FixturePart::output, single.losses, 1e-5);
  record_fixture(fixture, FixturePart::gradient, std::max(single.norms, single.gradients), 1e-4);
  const Deviation exact = train(read(), f64);
  CHECK(exact.losses < 1e-12);
  CHECK(exact.norms < 1e-12);
  CHECK(exact.gradients < 1e-7);
  const Deviation half = train(read(), bf16);
  CHECK(half.losses < 2e-3);
  CHECK(half.gradients < 0.05);
}

void check_logits(const Curve& c) {
  NoGrad guard;
  const double loss = cross_entropy(c.model(inputs(c, 0)), targets(c, 0)).item<double>();
  CHECK(std::abs(loss / c.losses[0] - 1) < 1e-6);
}

}  // namespace

TEST_SUITE("nn/curves") {
  TEST_CASE("a GPT-2 trains as in PyTorch") { check_curves(gpt2, "gpt2"); }
  TEST_CASE("a Llama trains as in PyTorch") { check_curves(llama, "llama"); }
  TEST_CASE("logits give the loss that training starts from") {
    check_logits(gpt2());
    check_logits(llama());
  }
}
