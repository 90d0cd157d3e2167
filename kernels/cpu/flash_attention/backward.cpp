// Attention, backward. Everything is packed by tiles first. A task then owns a chunk of the keys of
// one key and value head: for each of its tiles it walks the tiles of queries of every query head
// of the group, computes weights and score gradients again, and adds to its own dk and dv and to a
// dq of this chunk. The dq of the chunks are added in order at the end, so nothing depends on which
// thread did what. Where batch and heads alone give enough tasks there is one chunk, and each task
// packs for itself.
#include <olm/kernels/flash_attention.h>

#include <cmath>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/flash_attention/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/flash_attention/gradient-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

template <class T>
const T* rows_of(const HeadRows& x, int64_t b, int64_t head, int64_t row) {
  return in<T>(x.data) + b * x.batch + head * x.head + row * x.row;
}
template <class T>
T* rows_of(const HeadRowsOut& x, int64_t b, int64_t head, int64_t row) {
  return out<T>(x.data) + b * x.batch + head * x.head + row * x.row;
}

/// Packs tile number `index` of (batch row, head, tile of queries).
template <class T>
void pack_query_tile(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t index) {
  using A = acc_t<T>;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const int64_t i0 = index % n.query_tiles * kTile, h = index / n.query_tiles % a.heads;
  const int64_t b = index / n.query_tiles / a.heads, rows = std::min(kTile, a.queries - i0);
  const int64_t place = index - pack.first_query_tile;
  A* q = out<A>(pack.q) + place * kTile * n.padded_dim;
  A* dys = out<A>(pack.dy) + place * kTile * n.padded_value_dim;
  pack_rows(rows_of<T>(f.q, b, h, i0), f.q.row, rows, n.dim, A(a.scale), q, n.padded_dim);
  pack_rows(rows_of<T>(f.dy, b, h, i0), f.dy.row, rows, n.value_dim, A(1), dys, n.padded_value_dim);
  pack.q_finite[place] = all_finite(q, kTile * n.padded_dim);
  pack.dy_finite[place] = all_finite(dys, kTile * n.padded_value_dim);
  const hn::ScalableTag<A> d;
  const A* logsumexp = in<A>(f.logsumexp) + (b * a.heads + h) * a.queries + i0;
  for (int64_t r = 0; r < kTile; ++r) {
    A sum = 0, base = -kMinusInfinity<A>;
    if (r < rows) {
      const T *y = rows_of<T>(f.y, b, h, i0 + r), *dy = rows_of<T>(f.dy, b, h, i0 + r);
      sum = sum_vectors(d, n.value_dim, [&](int64_t c, auto part) HWY_ATTR {
        return hn::Mul(load(d, y + c, part), load(d, dy + c, part));
      });
      if (logsumexp[r] != kMinusInfinity<A>) base = logsumexp[r] * A(kLog2E);
    }
    out<A>(pack.logsumexp)[place * kTile + r] = base;
    out<A>(pack.delta)[place * kTile + r] = sum;
  }
}

/// Packs tile number `index` of (batch row, key and value head, tile of keys).
template <class T>
void pack_key_tile(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t index) {
  using A = acc_t<T>;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const int64_t j0 = index % n.key_tiles * kTile, h = index / n.key_tiles % a.kv_heads;
  const int64_t b = index / n.key_tiles / a.kv_heads, rows = std::min(kTile, a.keys - j0);
  const int64_t place = index - pack.first_key_tile;
  A* keys = out<A>(pack.keys) + place * kTile * n.padded_dim;
  pack_rows(rows_of<T>(f.k, b, h, j0), f.k.row, rows, n.dim, A(1), keys, n.padded_dim);
  pack.keys_finite[place] = all_finite(keys, kTile * n.padded_dim);
  transpose_tile(keys, n.dim, n.padded_dim, out<A>(pack.keys_t) + place * n.dim * kTile);
  const Scratch<A> values = f.stream.scratch<A>(size_t(kTile * n.padded_value_dim));
  pack_rows(rows_of<T>(f.v, b, h, j0), f.v.row, rows, n.value_dim, A(1), values.get(),
            n.padded_value_dim);
  transpose_tile(values.get(), n.value_dim, n.padded_value_dim,
                 out<A>(pack.values_t) + place * n.value_dim * kTile);
}

/// Adds what query head p.h passes back through keys [p.j0, …) to dk, dv and this chunk's dq.
template <class A>
void backward_head(const Attention& a, const BackwardPack& pack, Place p, A* dq, A* dk, A* dv,
                   const GradientTile<A>& tile) {
  const attention::Sizes& n = pack.sizes;
  const int64_t key = pack.key_tile(a, p);
  const Rows<A> keys{in<A>(pack.keys) + key * kTile * n.padded_dim, n.padded_dim,
                     pack.keys_finite[key]};
  Region region;
  for (p.i0 = 0; p.i0 < a.queries; p.i0 += kTile) {
    if (!find_region(a, p, kBlockRows, span_alignment<A>(), region)) continue;
    tile_gradient(a, pack, p, region, true, tile);
    const int64_t query = pack.query_tile(a, p);
    const Rows<A> q{in<A>(pack.q) + query * kTile * n.padded_dim, n.padded_dim,
                    pack.q_finite[query]};
    const Rows<A> dy{in<A>(pack.dy) + query * kTile * n.padded_value_dim, n.padded_value_dim,
                     pack.dy_finite[query]};
    add_by_key(region, tile.weights, dy, dv);
    add_by_key(region, tile.grads, q, dk);
    add_by_query(region, tile.grads, keys, dq + query * kTile * n.padded_dim);
  }
}

/// Task number `index` of (batch row, key and value head, chunk of keys).
template <class T>
void backward_chunk(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t index) {
  using A = acc_t<T>;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const int64_t chunk = index % pack.chunks, kv_head = index / pack.chunks % a.kv_heads;
  const int64_t b = index / pack.chunks / a.kv_heads;
  const int64_t begin = chunk * pack.chunk_tiles;
  const int64_t end = std::min(n.key_tiles, begin + pack.chunk_tiles);
  A* dq = out<A>(pack.dq) + chunk * pack.query_tiles * kTile * n.padded_dim;
  const Place first{.b = b, .h = kv_head * n.group, .i0 = 0, .j0 = 0};
  std::fill_n(dq + pack.query_tile(a, first) * kTile * n.padded_dim,
              n.group * n.padded_queries * n.padded_dim, A(0));
  const int64_t dk_size = kTile * n.padded_dim, dv_size = kTile * n.padded_value_dim;
  const Scratch<A> memory =
      f.stream.scratch<A>(GradientTile<A>::size() + size_t(dk_size + dv_size));
  const GradientTile<A> tile(memory.get());
  A *dk = memory.get() + GradientTile<A>::size(), *dv = dk + dk_size;
  for (int64_t t = begin; t < end; ++t) {
    std::fill_n(dk, dk_size + dv_size, A(0));
    for (int64_t g = 0; g < n.group; ++g) {
      const Place p{.b = b, .h = kv_head * n.group + g, .i0 = 0, .j0 = t * kTile};
      backward_head(a, pack, p, dq, dk, dv, tile);
    }
    const int64_t j0 = t * kTile, rows = std::min(kTile, a.keys - j0);
    for (int64_t r = 0; r < rows; ++r) {
      if (f.dk.data)
        unpack_row(dk + r * n.padded_dim, n.dim, A(1), rows_of<T>(f.dk, b, kv_head, j0 + r));
      if (f.dv.data)
        unpack_row(dv + r * n.padded_value_dim, n.value_dim, A(1),
                   rows_of<T>(f.dv, b, kv_head, j0 + r));
    }
  }
}

/// dq of tile number `index` of (batch row, head, tile of queries): the chunks' shares, in order.
template <class T>
void finish_query_tile(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t index) {
  using A = acc_t<T>;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const hn::ScalableTag<A> d;
  const int64_t i0 = index % n.query_tiles * kTile, h = index / n.query_tiles % a.heads;
  const int64_t b = index / n.query_tiles / a.heads, rows = std::min(kTile, a.queries - i0);
  const int64_t chunk_size = pack.query_tiles * kTile * n.padded_dim;
  A* dq = out<A>(pack.dq) + (index - pack.first_query_tile) * kTile * n.padded_dim;
  for (int64_t c = 1; c < pack.chunks; ++c)
    for_vectors(d, rows * n.padded_dim, [&](int64_t i, auto part) HWY_ATTR {
      store(d, hn::Add(load(d, dq + i, part), load(d, dq + c * chunk_size + i, part)), dq + i,
            part);
    });
  for (int64_t r = 0; r < rows; ++r)
    unpack_row(dq + r * n.padded_dim, n.dim, A(a.scale), rows_of<T>(f.dq, b, h, i0 + r));
}

void pack_query_tiles(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                      int64_t end) {
  visit_float(f.attention.dtype, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) pack_query_tile<T>(f, pack, i);
  });
}
void pack_key_tiles(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                    int64_t end) {
  visit_float(f.attention.dtype, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) pack_key_tile<T>(f, pack, i);
  });
}
void backward_chunks(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                     int64_t end) {
  visit_float(f.attention.dtype, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) backward_chunk<T>(f, pack, i);
  });
}
void finish_query_tiles(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                        int64_t end) {
  visit_float(f.attention.dtype, [&]<class T>() {
    for (int64_t i = begin; i < end; ++i) finish_query_tile<T>(f, pack, i);
  });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
namespace {

HWY_EXPORT(pack_query_tiles);
HWY_EXPORT(pack_key_tiles);
HWY_EXPORT(backward_chunks);
HWY_EXPORT(finish_query_tiles);

/// dsink[h] = -Σ over rows of the sink's weight times delta.
template <class A>
void sink_gradient(const FlashAttentionBackward& f, const attention::BackwardPack& pack) {
  const Attention& a = f.attention;
  for (int64_t h = 0; h < a.heads; ++h) {
    const double sink = double(in<A>(a.sink)[h]) * 1.4426950408889634074;
    double sum = 0;
    for (int64_t b = 0; b < a.batch; ++b)
      for (int64_t i = 0; i < a.queries; ++i) {
        const int64_t at = (b * a.heads + h) * pack.sizes.padded_queries + i;
        sum -= std::exp2(sink - double(in<A>(pack.logsumexp)[at])) * double(in<A>(pack.delta)[at]);
      }
    out<A>(f.dsink)[h] = A(sum);
  }
}

/// Chunks of keys such that there are tasks for many threads, where there are that many tiles.
void choose_chunks(const Attention& a, attention::BackwardPack& pack) {
  const int64_t heads = std::max<int64_t>(a.batch * a.kv_heads, 1), tiles = pack.sizes.key_tiles;
  const int64_t enough = (attention::kEnoughHeads + heads - 1) / heads;
  const int64_t wanted = std::clamp<int64_t>(enough, 1, std::max<int64_t>(tiles, 1));
  pack.chunk_tiles = std::max<int64_t>(1, (tiles + wanted - 1) / wanted);
  pack.chunks = std::max<int64_t>(1, (tiles + pack.chunk_tiles - 1) / pack.chunk_tiles);
}

/// The passes over packed operands of `count` key and value heads from `first` on.
void run_passes(const FlashAttentionBackward& f, const attention::BackwardPack& pack, int64_t first,
                int64_t count, bool parallel) {
  const attention::Sizes& n = pack.sizes;
  const auto over = [&](int64_t from, int64_t size, int64_t grain, auto&& pass) {
    parallel_for(size, parallel ? grain : size,
                 [&](int64_t begin, int64_t end) { pass(from + begin, from + end); });
  };
  const int64_t pack_grain = attention::pack_grain(n);
  over(pack.first_query_tile, pack.query_tiles, pack_grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(pack_query_tiles)(f, pack, begin, end);
  });
  over(pack.first_key_tile, pack.key_tiles, pack_grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(pack_key_tiles)(f, pack, begin, end);
  });
  if (f.dq.data || f.dk.data || f.dv.data) {
    const int64_t pairs = 2 * n.group * n.query_tiles * pack.chunk_tiles;
    over(first * pack.chunks, count * pack.chunks, attention::tile_grain(n, pairs),
         [&](int64_t begin, int64_t end) {
           HWY_DYNAMIC_DISPATCH(backward_chunks)(f, pack, begin, end);
         });
  }
  if (f.dq.data)
    over(pack.first_query_tile, pack.query_tiles, pack_grain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(finish_query_tiles)(f, pack, begin, end);
    });
  if (f.dmask) attention::mask_gradient(f, pack);
  if (f.dsink && f.attention.dtype == f64) return sink_gradient<double>(f, pack);
  if (f.dsink) sink_gradient<float>(f, pack);
}

/// Backward of `count` key and value heads from `first` on, over threads where `parallel`.
void backward_heads(const FlashAttentionBackward& f, int64_t first, int64_t count, bool parallel) {
  using attention::kTile;
  attention::BackwardPack pack{.sizes = attention::Sizes(f.attention)};
  const attention::Sizes& n = pack.sizes;
  choose_chunks(f.attention, pack);
  pack.query_tiles = count * n.group * n.query_tiles;
  pack.key_tiles = count * n.key_tiles;
  pack.first_query_tile = first * n.group * n.query_tiles;
  pack.first_key_tile = first * n.key_tiles;
  const size_t width = size_of(acc_dtype(f.attention.dtype));
  const auto memory = [&](int64_t elements) {
    return f.stream.scratch<char>(size_t(elements * kTile) * width);
  };
  const Scratch<char> q = memory(pack.query_tiles * n.padded_dim);
  const Scratch<char> dy = memory(pack.query_tiles * n.padded_value_dim);
  const Scratch<char> logsumexp = memory(pack.query_tiles), delta = memory(pack.query_tiles);
  const Scratch<char> keys = memory(pack.key_tiles * n.padded_dim);
  const Scratch<char> keys_t = memory(pack.key_tiles * n.dim);
  const Scratch<char> values_t = memory(pack.key_tiles * n.value_dim);
  const Scratch<char> dq = memory(pack.chunks * pack.query_tiles * n.padded_dim);
  const Scratch<bool> q_finite = f.stream.scratch<bool>(size_t(pack.query_tiles));
  const Scratch<bool> dy_finite = f.stream.scratch<bool>(size_t(pack.query_tiles));
  const Scratch<bool> keys_finite = f.stream.scratch<bool>(size_t(pack.key_tiles));
  pack.q_finite = q_finite.get(), pack.dy_finite = dy_finite.get();
  pack.keys_finite = keys_finite.get();
  pack.q = q.get(), pack.dy = dy.get(), pack.dq = dq.get();
  pack.logsumexp = logsumexp.get(), pack.delta = delta.get();
  pack.keys = keys.get(), pack.keys_t = keys_t.get(), pack.values_t = values_t.get();
  run_passes(f, pack, first, count, parallel);
}

}  // namespace

void run(Cpu, const FlashAttentionBackward& f) {
  const Attention& a = f.attention;
  attention::check(a, FlashAttentionBackward::name);
  const attention::Sizes n(a);
  const int64_t heads = a.batch * a.kv_heads, together = attention::heads_packed_together(a);
  if (together == heads || f.dmask || f.dsink) return backward_heads(f, 0, heads, true);
  parallel_for(heads, attention::tile_grain(n, 2 * n.group * n.query_tiles * n.key_tiles),
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) backward_heads(f, h, 1, false);
               });
}

}  // namespace olm::kernels
#endif
