#include <cmath>
#include <unordered_set>

#include <olm/engine/raw.h>
#include <olm/nn/module.h>

namespace olm::nn {

Tensor init::zeros(const Shape& shape, Generator&) { return olm::zeros(shape); }
Tensor init::ones(const Shape& shape, Generator&) { return olm::ones(shape); }

InitRule init::constant(double value) {
  return [value](const Shape& shape, Generator&) { return full(shape, value); };
}

InitRule init::normal(double std) {
  return [std](const Shape& shape, Generator& rng) {
    const Tensor x = randn(shape, rng);
    raw::scale_(x, std);
    return x;
  };
}

InitRule init::uniform(double bound) {
  return [bound](const Shape& shape, Generator& rng) {
    const Tensor x = full(shape, -bound);
    raw::add_(x, olm::uniform(shape, rng), 2 * bound);
    return x;
  };
}

InitRule init::fan_in(int64_t n) { return uniform(1 / std::sqrt(double(n > 0 ? n : 1))); }

namespace {

using RuleOf = std::function<InitRule(const std::string& key, const Parameter&)>;

void fill(Module& model, const InitOptions& options, const RuleOf& rule_of) {
  require_device(options.device);
  require(is_float(options.dtype), "init: wanted a float dtype, got ", options.dtype);
  std::unordered_set<const TensorImpl*> done;
  model.for_each_parameter([&](const std::string& key, Parameter& p) {
    if (!done.insert(&p.handle().impl()).second) return;  // tied: its first key filled it
    if (options.device.kind == DeviceKind::meta || p.is_elsewhere())
      return p.assign(empty(p.shape(), {options.dtype, meta}));
    Generator rng(derive_seed(options.seed, key));
    p.assign(raw::to(raw::cast(rule_of(key, p)(p.shape(), rng), options.dtype), options.device));
  });
  if (options.device.kind == DeviceKind::meta) return;
  model.for_each_buffer([&](const std::string&, Buffer& b) {
    if (b.tensor().device() != meta) b.assign(raw::to(b.tensor(), options.device));
  });
}

}  // namespace

void init(Module& model, InitOptions options) {
  fill(model, options, [](const std::string&, const Parameter& p) { return p.rule(); });
}

void init_gpt2(Module& model, int64_t num_layers, InitOptions options) {
  require(num_layers >= 1, "init_gpt2: wanted at least one layer, got ", num_layers);
  const double residual = 0.02 / std::sqrt(2.0 * double(num_layers));
  fill(model, options, [&](const std::string& key, const Parameter& p) -> InitRule {
    const bool into_residual =
        key.ends_with("out_proj.weight") || key.ends_with("down_proj.weight");
    if (p.shape().rank() >= 2) return init::normal(into_residual ? residual : 0.02);
    return key.ends_with("bias") ? InitRule(init::zeros) : p.rule();
  });
}

}  // namespace olm::nn
