#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/engine/raw.h>
#include <olm/nn/embeddings.h>

namespace olm::nn {

Tensor alibi_slopes(int64_t num_heads) {
  constexpr int64_t most = int64_t(1) << 24;
  require(num_heads > 0 && num_heads <= most, "ALiBi: wanted num_heads from 1 to ", most, ", got ",
          num_heads);
  int64_t power = 1;
  while (2 * power <= num_heads) power *= 2;
  std::vector<double> slopes;
  for (int64_t h = 0; h < power; ++h)
    slopes.push_back(std::exp2(-8 * double(h + 1) / double(power)));
  for (int64_t h = 0; int64_t(slopes.size()) < num_heads; h += 2)
    slopes.push_back(std::exp2(-4 * double(h + 1) / double(power)));
  return from_host(slopes, {num_heads});
}

ALiBiPositionalBiasModule::ALiBiPositionalBiasModule(ALiBiPositionalBiasOptions o)
    : Layer(o), slopes_(this, "slopes", alibi_slopes(o.num_heads)) {}

Tensor ALiBiPositionalBiasModule::bias(int64_t queries, int64_t keys, TensorOptions options,
                                       int64_t offset) const {
  require(queries >= 0 && keys >= 0, "ALiBiPositionalBias: wanted lengths of at least 0, got ",
          queries, " and ", keys);
  const NoGrad guard;
  const DType acc = acc_dtype(options.dtype);
  const TensorOptions places{.dtype = acc, .device = options.device};
  const Tensor from = raw::view(arange(queries, places), {queries, 1}) + double(offset);
  const Tensor at = raw::view(arange(keys, places), {1, keys});
  const Tensor slopes = slopes_.as(places);
  const Tensor bias = abs(at - from) * raw::view(-slopes, {1, slopes.size(0), 1, 1});
  return raw::cast(bias, options.dtype);
}

Tensor ALiBiPositionalBiasModule::forward(const Tensor& scores, Context& ctx) {
  require(scores.rank() == 4 && scores.size(1) == options.num_heads,
          "ALiBiPositionalBias: wanted scores [B,", options.num_heads, ",Tq,Tk], got ",
          scores.shape());
  return scores + bias(scores.size(2), scores.size(3),
                       {.dtype = scores.dtype(), .device = scores.device()}, first_position(ctx));
}

Ref<ALiBiPositionalBiasModule> ALiBiPositionalBias(ALiBiPositionalBiasOptions options) {
  return make<ALiBiPositionalBiasModule>(options);
}
Ref<ALiBiPositionalBiasModule> ALiBiPositionalBias(int64_t num_heads) {
  return ALiBiPositionalBias({.num_heads = num_heads});
}

}  // namespace olm::nn
