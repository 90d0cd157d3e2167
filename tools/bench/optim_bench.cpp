#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/engine/raw_muon.h>
#include <olm/nn/optim.h>

#include <memory>

#include "tools/bench/bench.h"

namespace olm::tools {

namespace {

struct Parameters {
  Tensors values, gradients;
};

/// Random f32 numbers, held in `dtype`.
Parameters make_parameters(const Sizes& shape, DType dtype, Device device) {
  Generator rng(1);
  Parameters p;
  for (int64_t i = 0; i < shape[0]; ++i) {
    p.values.push_back(raw::to(raw::cast(randn({shape[1], shape[2]}, rng), dtype), device));
    p.gradients.push_back(raw::to(raw::cast(randn({shape[1], shape[2]}, rng), dtype), device));
    set_requires_grad(p.values.back());
  }
  return p;
}

using Update = std::function<void(const std::vector<raw::OptimItem>&, const raw::StepState&)>;

/// An update alone.
std::function<Tensors()> prepare_update(const Sizes& shape, DType dtype, Device device,
                                        const Update& update) {
  const Parameters p = make_parameters(shape, dtype, device);
  std::vector<raw::OptimItem> items;
  for (size_t i = 0; i < p.values.size(); ++i)
    items.push_back({.parameter = p.values[i],
                     .gradient = p.gradients[i],
                     .first = zeros_like(p.values[i]),
                     .second = ones_like(p.values[i]),
                     .weight_decay = 0.1});
  const auto state = std::make_shared<raw::StepState>(device);
  state->write({.lr = 1e-4, .step = 1});
  return [=] {
    update(items, *state);
    return p.values;
  };
}

/// p, m, v read and written, g read.
std::function<Tensors()> prepare_adamw(const Sizes& shape, DType dtype, Device device) {
  return prepare_update(shape, dtype, device, [](const auto& items, const raw::StepState& state) {
    raw::adamw_(items, state, 0.9, 0.95, 1e-8);
  });
}

/// What a user calls: the norm of all gradients first, then the update, then no gradients.
std::function<Tensors()> prepare_step(const Sizes& shape, DType dtype, Device device) {
  const Parameters p = make_parameters(shape, dtype, device);
  const auto optimizer = std::make_shared<nn::AdamW>(
      p.values, nn::AdamWOptions{.lr = 1e-4, .weight_decay = 0.1, .clip_norm = 1});
  return [=] {
    for (size_t i = 0; i < p.values.size(); ++i) set_grad(p.values[i], p.gradients[i]);
    optimizer->step();
    return p.values;
  };
}

}  // namespace

/// Parameters and moments are f32 whatever the activations are.
void add_adamw(Cases& cases, const Sizes& shape, DType dtype) {
  if (dtype != f32) return;
  const double n = double(shape[0] * shape[1] * shape[2]);
  for (const auto prepare : {prepare_adamw, prepare_step}) {
    const bool step = prepare == prepare_step;
    cases.push_back({.name = "adamw",
                     .shape = text_of(shape),
                     .pass = step ? "step with clipping" : "update",
                     .cost = {.flop = (step ? 18 : 16) * n,
                              .bytes = (step ? 32 : 28) * n,
                              .traffic = Traffic::update},
                     .prepare = [=](Device device) { return prepare(shape, f32, device); },
                     .exact = [=] { return prepare(shape, f64, cpu)(); }});
  }
}

/// Parameters and momentum are f32; matrices are multiplied in `dtype`.
void add_muon(Cases& cases, const Sizes& shape, DType dtype) {
  const raw::MuonStep step{.orthogonalize = {.dtype = dtype}};
  const auto prepare = [=](DType parameters, Device device) {
    return prepare_update(
        shape, parameters, device,
        [=](const auto& items, const raw::StepState& state) { raw::muon_(items, state, step); });
  };
  const double flops = raw::orthogonalize_flops(shape[1], shape[2], step.orthogonalize.iterations);
  cases.push_back({.name = "muon",
                   .shape = text_of(shape),
                   .pass = "update",
                   .dtype = dtype,
                   .cost = {.flop = double(shape[0]) * flops,
                            .bytes = 20 * double(shape[0] * shape[1] * shape[2]),
                            .gemm = true},
                   .prepare = [=](Device device) { return prepare(f32, device); },
                   .exact = [=] { return prepare(f64, cpu)(); }});
}

}  // namespace olm::tools
