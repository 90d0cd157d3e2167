#include <algorithm>
#include <cmath>
#include <mutex>

#include <olm/engine/raw.h>
#include <olm/nn/embeddings/rotary_internal.h>

namespace olm::nn {

/// The tables of one set of pairs, by device, dtype and side: for the variant asked for last.
struct RotaryAngles::Made {
  struct Entry {
    RopeTables tables;
    RotarySide side;
    int64_t variant;
  };
  Rotation rotation;
  RopePairing pairing;
  std::mutex mutex;
  std::vector<Entry> all;

  RopeTables compute(const TableRows& rows, int64_t length, TensorOptions options,
                     RotarySide side) const;
  RopeTables get(int64_t length, TensorOptions options, RotarySide side);
};

namespace {
constexpr int64_t kShortest = 64;  // positions in a new table: spares growing token by token

/// Throws where options within their ranges make together what f32 does not hold.
void check_finite(const Rotation& r, const std::vector<float>& frequencies, int64_t length) {
  const auto attention = float(r.attention_factor());
  for (const float frequency : frequencies)
    require(std::isfinite(frequency * float(length)) && std::isfinite(attention), "RoPE: base ",
            r.base, " and scaling_type ", r.scaling.scaling_type.value_or("none"),
            " give a pair the angle ", frequency, " for each position and a factor of ", attention,
            "; finite numbers were wanted");
}

/// One row for each position. Angles in f32; their sines and cosines are as exact as T is.
template <class T>
RopeTables fill(const Rotation& r, const TableRows& rows, int64_t length, RotarySide side,
                Device device) {
  const int64_t pairs = r.dim / 2;
  const std::vector<float> frequencies = r.frequencies(length);
  check_finite(r, frequencies, length);
  const double attention = r.attention_factor();
  const bool decays = r.is("xpos");
  std::vector<T> cos(size_t(rows.count * pairs)), sin(size_t(rows.count * pairs));
  for (int64_t j = 0; j < pairs; ++j)
    for (int64_t p = 0; p < rows.count; ++p) {
      const float angle = float(rows[p]) * frequencies[size_t(j)];
      const double decay = decays ? r.decay(rows[p], j) : 1;
      const double scale = side == RotarySide::key ? attention / decay : attention * decay;
      cos[size_t(p * pairs + j)] = T(std::cos(double(angle)) * scale);
      sin[size_t(p * pairs + j)] = T(std::sin(double(angle)) * scale);
    }
  return {.cos = from_host(cos, {rows.count, pairs}, device),
          .sin = from_host(sin, {rows.count, pairs}, device)};
}

/// Throws where keys in the cache were rotated by other frequencies than this call uses.
void check_cache(const char* layer, const Rotation& r, int64_t length, const Context& ctx) {
  if (!ctx.cache || !r.varies()) return;
  const std::string type = r.scaling.scaling_type.value_or("none");
  require(!ctx.positions.defined(), layer, ": ", type, " takes no positions beside a cache");
  const int64_t held = first_position(ctx);
  if (held == 0 || r.variant(held) == r.variant(length)) return;
  throw StaleCacheError(layer, ": ", type, " rotates ", length, " tokens otherwise than the ", held,
                        " whose keys are in the cache (original_max_seq_len is ", r.original(),
                        "); clear the cache and pass all tokens again");
}
}  // namespace

RopeTables RotaryAngles::Made::compute(const TableRows& rows, int64_t length, TensorOptions options,
                                       RotarySide side) const {
  const Shape shape{rows.count, rotation.dim / 2};
  if (options.device.kind == DeviceKind::meta)
    return {.cos = empty(shape, options), .sin = empty(shape, options)};
  return options.dtype == f64 ? fill<double>(rotation, rows, length, side, options.device)
                              : fill<float>(rotation, rows, length, side, options.device);
}

RopeTables RotaryAngles::Made::get(int64_t length, TensorOptions options, RotarySide side) {
  if (!rotation.is("xpos")) side = RotarySide::query;  // one table for both
  const int64_t variant = rotation.variant(length);
  std::lock_guard lock(mutex);
  const auto fits = [&](const Entry& e) {
    return e.tables.cos.device() == options.device && e.tables.cos.dtype() == options.dtype &&
           e.side == side;
  };
  const auto found = std::find_if(all.begin(), all.end(), fits);
  if (found != all.end() && found->variant == variant && found->tables.cos.size(0) >= length)
    return found->tables;
  int64_t rows = kShortest;
  while (rows < length) rows *= 2;
  rows = std::max(length, std::min(rows, rotation.max_seq_len));
  const Entry entry{compute({rows}, length, options, side), side, variant};
  if (found != all.end())
    *found = entry;
  else
    all.push_back(entry);
  return entry.tables;
}

RotaryAngles::RotaryAngles(int64_t dim, double base, int64_t max_seq_len,
                           const RopeScalingOptions& scaling, RopePairing pairing)
    : made_(std::make_shared<Made>()) {
  made_->rotation = {.dim = dim, .base = base, .max_seq_len = max_seq_len, .scaling = scaling};
  made_->rotation.check();
  made_->pairing = pairing;
}

int64_t RotaryAngles::max_seq_len() const { return made_->rotation.max_seq_len; }

double RotaryAngles::latent_score_factor() const { return made_->rotation.latent_score_factor(); }

RopeTables RotaryAngles::tables(const char* layer, int64_t length, const Tensor& x,
                                RotarySide side) const {
  require(length <= max_seq_len(), layer, ": ", length, " tokens do not fit max_seq_len ",
          max_seq_len());
  return made_->get(std::max<int64_t>(length, 1), acc_options(x), side);
}

std::pair<RopeTables, RopeOptions> RotaryAngles::at(const char* layer, const Tensor& x,
                                                    const Context& ctx, RotarySide side) const {
  const Rotation& r = made_->rotation;
  const int64_t length = positions_end(layer, x, ctx, r.max_seq_len, r.varies());
  check_cache(layer, r, length, ctx);
  if (const Tensor p = sparse_positions(x, ctx, length); p.defined()) {
    const TableRows rows{p.numel(), p.data<int64_t>()};
    const Tensor row = raw::view(arange(p.numel(), {.dtype = i64}), p.shape());
    return {made_->compute(rows, length, acc_options(x), side),
            {.positions = row, .pairing = made_->pairing}};
  }
  return {tables(layer, length, x, side),
          {.positions = ctx.positions,
           .offset = ctx.positions.defined() ? 0 : first_position(ctx),
           .pairing = made_->pairing}};
}

Tensor RotaryAngles::rotate(const char* layer, const Tensor& x, const Context& ctx,
                            RotarySide side) const {
  const auto [tables, places] = at(layer, x, ctx, side);
  return rope(x, tables, places);
}

std::pair<Tensor, Tensor> RotaryAngles::rotate(const char* layer, const Tensor& q, const Tensor& k,
                                               const Context& ctx) const {
  return {rotate(layer, q, ctx, RotarySide::query), rotate(layer, k, ctx, RotarySide::key)};
}

int64_t rotated_dims(const char* layer, const char* option, int64_t head_dim, double share) {
  require(share > 0 && share <= 1, layer, ": wanted ", option, " in (0, 1], got ", share);
  const int64_t r = int64_t(double(head_dim) * share) / 2 * 2;
  require(r > 0, layer, ": ", option, " ", share, " of head_dim ", head_dim,
          " leaves nothing to rotate");
  return r;
}

}  // namespace olm::nn
