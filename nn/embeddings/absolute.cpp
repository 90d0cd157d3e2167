#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/embedding.h>
#include <olm/engine/raw.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/linear.h>

namespace olm::nn {

namespace {

void check_width(const char* layer, const Tensor& x, int64_t width) {
  require(x.rank() == 3 && x.size(2) == width, layer, ": wanted x [B,T,", width, "], got ",
          x.shape());
}

/// 0, 1, … T - 1 behind what the cache holds, or the positions of ctx.
Tensor positions_of(const Tensor& x, const Context& ctx) {
  if (ctx.positions.defined()) return ctx.positions;
  const int64_t begin = first_position(ctx), end = begin + x.size(1);
  const Tensor all = arange(end, {.dtype = i64, .device = x.device()});
  return begin == 0 ? all : raw::slice(all, 0, begin, end);
}

}  // namespace

AbsolutePositionalEmbeddingModule::AbsolutePositionalEmbeddingModule(
    AbsolutePositionalEmbeddingOptions o)
    : Layer(o),
      weight(this, "pos_embedding.weight", {o.max_seq_len, o.embed_dim}, init::normal(1)) {
  require(o.max_seq_len > 0 && o.embed_dim > 0,
          "AbsolutePositionalEmbedding: wanted sizes above 0, got max_seq_len ", o.max_seq_len,
          " and embed_dim ", o.embed_dim);
  checked_probability("AbsolutePositionalEmbedding", o.dropout);
}

Tensor AbsolutePositionalEmbeddingModule::forward(const Tensor& x, Context& ctx) {
  check_width("AbsolutePositionalEmbedding", x, options.embed_dim);
  const int64_t length = first_position(ctx) + x.size(1);
  require(ctx.positions.defined() || length <= options.max_seq_len,
          "AbsolutePositionalEmbedding: ", length, " tokens do not fit max_seq_len ",
          options.max_seq_len);
  const Tensor places = embedding(positions_of(x, ctx), weight, {.dtype = x.dtype()});
  return dropout_if_training(x + places, options.dropout, ctx);
}

Ref<AbsolutePositionalEmbeddingModule> AbsolutePositionalEmbedding(
    AbsolutePositionalEmbeddingOptions options) {
  return make<AbsolutePositionalEmbeddingModule>(options);
}
Ref<AbsolutePositionalEmbeddingModule> AbsolutePositionalEmbedding(
    int64_t max_seq_len, int64_t embed_dim, AbsolutePositionalEmbeddingOptions options) {
  options.max_seq_len = max_seq_len;
  options.embed_dim = embed_dim;
  return AbsolutePositionalEmbedding(options);
}

SinusoidalPositionalEmbeddingModule::SinusoidalPositionalEmbeddingModule(
    SinusoidalPositionalEmbeddingOptions o)
    : Layer(o) {
  require(o.max_seq_len > 0 && o.embed_dim > 0,
          "SinusoidalPositionalEmbedding: wanted sizes above 0, got max_seq_len ", o.max_seq_len,
          " and embed_dim ", o.embed_dim);
  checked_probability("SinusoidalPositionalEmbedding", o.dropout);
}

Tensor SinusoidalPositionalEmbeddingModule::waves(int64_t length, const Tensor& like) {
  const int64_t width = options.embed_dim;
  std::lock_guard lock(mutex_);
  if (like.device().kind == DeviceKind::meta)
    return empty({length, width}, {.dtype = f32, .device = meta});
  if (!table_.defined() || table_.size(0) < length || !(table_.device() == like.device())) {
    std::vector<float> values(size_t(length * width));
    for (int64_t p = 0; p < length; ++p)
      for (int64_t c = 0; c < width; ++c) {
        const float rate =
            std::exp(float(c / 2 * 2) * float(-std::log(options.base) / double(width)));
        const float angle = float(p) * rate;
        values[size_t(p * width + c)] = c % 2 ? std::cos(angle) : std::sin(angle);
      }
    table_ = from_host(values, {length, width}, like.device());
  }
  return table_;
}

Tensor SinusoidalPositionalEmbeddingModule::forward(const Tensor& x, Context& ctx) {
  check_width("SinusoidalPositionalEmbedding", x, options.embed_dim);
  const int64_t length =
      ctx.positions.defined() ? options.max_seq_len : first_position(ctx) + x.size(1);
  const Tensor places = embedding(positions_of(x, ctx), waves(length, x), {.dtype = x.dtype()});
  return dropout_if_training(x + places, options.dropout, ctx);
}

Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    SinusoidalPositionalEmbeddingOptions options) {
  return make<SinusoidalPositionalEmbeddingModule>(options);
}
Ref<SinusoidalPositionalEmbeddingModule> SinusoidalPositionalEmbedding(
    int64_t embed_dim, SinusoidalPositionalEmbeddingOptions options) {
  options.embed_dim = embed_dim;
  return SinusoidalPositionalEmbedding(options);
}

}  // namespace olm::nn
