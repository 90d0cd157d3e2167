#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/engine/raw_optim.h>
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

/// The update alone: p, m, v read and written, g read.
std::function<Tensors()> prepare_update(const Sizes& shape, DType dtype, Device device) {
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
    raw::adamw_(items, *state, 0.9, 0.95, 1e-8);
    return p.values;
  };
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
  for (const auto prepare : {prepare_update, prepare_step}) {
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

}  // namespace olm::tools
