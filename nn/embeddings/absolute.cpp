#include <algorithm>
#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/embedding.h>
#include <olm/engine/raw.h>
#include <olm/nn/embeddings/rotary_internal.h>
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

int64_t positions_end(const char* layer, const Tensor& x, const Context& ctx, int64_t limit,
                      bool exact) {
  const Tensor& p = ctx.positions;
  if (!p.defined()) return first_position(ctx) + x.size(1);
  const Shape wanted{x.size(0), x.size(1)};
  require(p.shape() == wanted, layer, ": wanted positions ", wanted, ", got ", p.shape());
  require(p.dtype() == i64 || p.dtype() == i32, layer, ": wanted positions of i32 or i64, got ",
          p.dtype());
  const DeviceKind where = p.device().kind;
  if (where == DeviceKind::meta || (where != DeviceKind::cpu && !exact)) return limit;
  const Tensor host = raw::contiguous(raw::cast(raw::to(p, cpu), i64));
  const int64_t* at = host.data<int64_t>();
  int64_t end = 0;
  for (int64_t i = 0; i < host.numel(); ++i) {
    require(at[i] >= 0 && at[i] < limit, layer, ": position ", at[i], " of token ", i % x.size(1),
            " in sequence ", i / x.size(1), " is not below max_seq_len ", limit);
    end = std::max(end, at[i] + 1);
  }
  return end;
}

Tensor sparse_positions(const Tensor& x, const Context& ctx, int64_t length) {
  constexpr int64_t dense = 1 << 16, times = 16;  // rows kept for good, and above them for a call
  const Tensor& p = ctx.positions;
  if (!p.defined() || p.device() != cpu || x.device() != cpu) return {};
  if (length <= std::max(dense, times * p.numel())) return {};
  return raw::contiguous(raw::cast(p, i64));
}

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
  const int64_t length = positions_end("AbsolutePositionalEmbedding", x, ctx, options.max_seq_len);
  require(length <= options.max_seq_len, "AbsolutePositionalEmbedding: ", length,
          " tokens do not fit max_seq_len ", options.max_seq_len);
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

namespace {
/// Angles in f32, as OpenLanguageModel computes them; their sines and cosines are as exact as T is.
template <class T>
Tensor waves_of(const TableRows& rows, const SinusoidalPositionalEmbeddingOptions& o,
                Device device) {
  std::vector<T> values(size_t(rows.count * o.embed_dim));
  for (int64_t c = 0; c < o.embed_dim; ++c) {
    const float rate = std::exp(float(c / 2 * 2) * float(-std::log(o.base) / double(o.embed_dim)));
    for (int64_t p = 0; p < rows.count; ++p) {
      const T angle = float(rows[p]) * rate;
      values[size_t(p * o.embed_dim + c)] = c % 2 ? std::cos(angle) : std::sin(angle);
    }
  }
  return from_host(values, {rows.count, o.embed_dim}, device);
}
Tensor waves_of(const TableRows& rows, const SinusoidalPositionalEmbeddingOptions& o,
                const TensorOptions& acc) {
  return acc.dtype == f64 ? waves_of<double>(rows, o, acc.device)
                          : waves_of<float>(rows, o, acc.device);
}
}  // namespace

Tensor SinusoidalPositionalEmbeddingModule::waves(int64_t length, const Tensor& like) {
  const TensorOptions acc = acc_options(like);
  if (acc.device.kind == DeviceKind::meta) return empty({length, options.embed_dim}, acc);
  std::lock_guard lock(mutex_);
  const bool fits = table_.defined() && table_.size(0) >= length && table_.device() == acc.device &&
                    table_.dtype() == acc.dtype;
  if (!fits) table_ = waves_of({length}, options, acc);
  return table_;
}

Tensor SinusoidalPositionalEmbeddingModule::forward(const Tensor& x, Context& ctx) {
  check_width("SinusoidalPositionalEmbedding", x, options.embed_dim);
  const int64_t length =
      positions_end("SinusoidalPositionalEmbedding", x, ctx, options.max_seq_len);
  const Tensor apart = sparse_positions(x, ctx, length);
  const Tensor places =
      apart.defined()
          ? raw::view(
                raw::cast(waves_of({apart.numel(), apart.data<int64_t>()}, options, acc_options(x)),
                          x.dtype()),
                x.shape())
          : embedding(positions_of(x, ctx), waves(length, x), {.dtype = x.dtype()});
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
