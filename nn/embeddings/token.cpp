#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/embedding.h>
#include <olm/nn/embeddings.h>

namespace olm::nn {

EmbeddingModule::EmbeddingModule(EmbeddingLayerOptions o)
    : Layer(o), weight(this, "embedding.weight", {o.vocab_size, o.embedding_dim}, init::normal(1)) {
  require(o.vocab_size > 0 && o.embedding_dim > 0,
          "Embedding: wanted sizes above 0, got vocab_size ", o.vocab_size, " and embedding_dim ",
          o.embedding_dim);
}

/// The factor in the dtype of the activations: Gemma's weights were trained with the root of 3072
/// as 55.5 in bf16.
double EmbeddingModule::scale_in(DType dtype) const {
  if (dtype == bf16) return double(float(bfloat16_t(float(options.scale))));
  if (dtype == f16) return double(float(float16_t(float(options.scale))));
  return options.scale;
}

Tensor EmbeddingModule::forward(const Tensor& x, Context& ctx) {
  const Tensor y = embedding(x, weight, {.dtype = ctx.dtype});
  return options.scale == 1 ? y : y * scale_in(y.dtype());
}

/// A scale of 1 goes without saying, as in descriptions from before there was one.
void EmbeddingModule::visit_options(FieldVisitor& v) {
  if (options.scale == 1) v.skip("scale");
  options.fields(v);
  v.skip("");
}

Ref<EmbeddingModule> Embedding(EmbeddingLayerOptions options) {
  return make<EmbeddingModule>(options);
}
Ref<EmbeddingModule> Embedding(int64_t vocab_size, int64_t embedding_dim) {
  return Embedding({.vocab_size = vocab_size, .embedding_dim = embedding_dim});
}

}  // namespace olm::nn
