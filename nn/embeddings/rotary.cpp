#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

#include <olm/nn/embeddings.h>

namespace olm::nn {

/// The tables of one dim and base, by device and dtype.
struct RotaryAngles::Made {
  int64_t dim = 0;
  double base = 0;
  std::mutex mutex;
  std::vector<RopeTables> all;

  RopeTables compute(int64_t length, TensorOptions options) const;
  RopeTables get(int64_t length, int64_t limit, TensorOptions options);
};

namespace {
constexpr int64_t kShortest = 64;  // positions in a new table: spares growing token by token

/// Angles in f32, as PyTorch implementations compute them, so that equal weights give equal
/// results; their sines and cosines are as exact as T is.
template <class T>
RopeTables fill(int64_t length, int64_t pairs, double base, Device device) {
  std::vector<T> cos(size_t(length * pairs)), sin(size_t(length * pairs));
  for (int64_t j = 0; j < pairs; ++j) {
    const auto rate = float(1 / float(std::pow(base, float(2 * j) / float(2 * pairs))));
    for (int64_t p = 0; p < length; ++p) {
      const float angle = float(p) * rate;
      cos[size_t(p * pairs + j)] = T(std::cos(double(angle)));
      sin[size_t(p * pairs + j)] = T(std::sin(double(angle)));
    }
  }
  return {.cos = from_host(cos, {length, pairs}, device),
          .sin = from_host(sin, {length, pairs}, device)};
}
}  // namespace

RopeTables RotaryAngles::Made::compute(int64_t length, TensorOptions options) const {
  const int64_t pairs = dim / 2;
  if (options.device.kind == DeviceKind::meta)
    return {.cos = empty({length, pairs}, options), .sin = empty({length, pairs}, options)};
  return options.dtype == f64 ? fill<double>(length, pairs, base, options.device)
                              : fill<float>(length, pairs, base, options.device);
}

RopeTables RotaryAngles::Made::get(int64_t length, int64_t limit, TensorOptions options) {
  std::lock_guard lock(mutex);
  const auto fits = [&](const RopeTables& t) {
    return t.cos.device() == options.device && t.cos.dtype() == options.dtype;
  };
  const auto found = std::find_if(all.begin(), all.end(), fits);
  if (found != all.end() && found->cos.size(0) >= length) return *found;
  int64_t rows = kShortest;
  while (rows < length) rows *= 2;
  const RopeTables tables = compute(std::max(length, std::min(rows, limit)), options);
  if (found != all.end())
    *found = tables;
  else
    all.push_back(tables);
  return tables;
}

RotaryAngles::RotaryAngles(int64_t dim, double base, int64_t max_seq_len)
    : max_seq_len_(max_seq_len) {
  require(dim > 0 && dim % 2 == 0, "RoPE: wanted an even number of dimensions to turn, got ", dim);
  require(max_seq_len > 0, "RoPE: wanted max_seq_len above 0, got ", max_seq_len);
  require(base > 0, "RoPE: wanted a base above 0, got ", base);
  made_ = std::make_shared<Made>();
  made_->dim = dim;
  made_->base = base;
}

RopeTables RotaryAngles::tables(const char* layer, int64_t length, const Tensor& x) const {
  require(length <= max_seq_len_, layer, ": ", length, " tokens do not fit max_seq_len ",
          max_seq_len_);
  return made_->get(std::max<int64_t>(length, 1), max_seq_len_, acc_options(x));
}

std::pair<RopeTables, RopeOptions> RotaryAngles::at(const char* layer, const Tensor& x,
                                                    const Context& ctx) const {
  if (ctx.positions.defined())
    return {tables(layer, max_seq_len_, x), {.positions = ctx.positions}};
  const int64_t offset = first_position(ctx);
  return {tables(layer, offset + x.size(1), x), {.offset = offset}};
}

namespace {
void check_heads(const char* layer, const Tensor& x, int64_t head_dim) {
  require(x.rank() == 4 && x.size(3) == head_dim, layer, ": wanted x [B,T,H,", head_dim, "], got ",
          x.shape());
}
}  // namespace

RotaryPositionalEmbeddingModule::RotaryPositionalEmbeddingModule(RotaryPositionalEmbeddingOptions o)
    : Layer(o), angles_(o.head_dim, o.base, o.max_seq_len) {}

Tensor RotaryPositionalEmbeddingModule::forward(const Tensor& x, Context& ctx) {
  check_heads("RotaryPositionalEmbedding", x, options.head_dim);
  const auto [tables, places] = angles_.at("RotaryPositionalEmbedding", x, ctx);
  return rope(x, tables, places);
}

Ref<RotaryPositionalEmbeddingModule> RotaryPositionalEmbedding(
    RotaryPositionalEmbeddingOptions options) {
  return make<RotaryPositionalEmbeddingModule>(options);
}
Ref<RotaryPositionalEmbeddingModule> RotaryPositionalEmbedding(int64_t head_dim,
                                                               int64_t max_seq_len, double base) {
  return RotaryPositionalEmbedding(
      {.head_dim = head_dim, .max_seq_len = max_seq_len, .base = base});
}

int64_t rotated_dims(const char* layer, const char* option, int64_t head_dim, double share) {
  require(share > 0 && share <= 1, layer, ": wanted ", option, " in (0, 1], got ", share);
  const int64_t r = int64_t(double(head_dim) * share) / 2 * 2;
  require(r > 0, layer, ": ", option, " ", share, " of head_dim ", head_dim,
          " leaves nothing to turn");
  return r;
}

PartialRotaryPositionalEmbeddingModule::PartialRotaryPositionalEmbeddingModule(
    PartialRotaryPositionalEmbeddingOptions o)
    : Layer(o),
      angles_(rotated_dims("PartialRotaryPositionalEmbedding", "rotary_percentage", o.head_dim,
                           o.rotary_percentage),
              o.base, o.max_seq_len) {}

Tensor PartialRotaryPositionalEmbeddingModule::forward(const Tensor& x, Context& ctx) {
  check_heads("PartialRotaryPositionalEmbedding", x, options.head_dim);
  const auto [tables, places] = angles_.at("PartialRotaryPositionalEmbedding", x, ctx);
  return rope(x, tables, places);
}

Ref<PartialRotaryPositionalEmbeddingModule> PartialRotaryPositionalEmbedding(
    PartialRotaryPositionalEmbeddingOptions options) {
  return make<PartialRotaryPositionalEmbeddingModule>(options);
}
Ref<PartialRotaryPositionalEmbeddingModule> PartialRotaryPositionalEmbedding(
    int64_t head_dim, PartialRotaryPositionalEmbeddingOptions options) {
  options.head_dim = head_dim;
  return PartialRotaryPositionalEmbedding(options);
}

}  // namespace olm::nn
