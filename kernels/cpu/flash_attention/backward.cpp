// Attention, backward (FlashAttention-2: Dao 2023, arXiv:2307.08691). By tiles, from what the
// forward left of each row:
//   P = e^(S - m - log l)    dV += Pᵀ dO    dP = dO Vᵀ    delta = rowsum(dO · O)
//   dS = P · (dP - delta)    dQ += dS K     dK += dSᵀ Q
// Everything is packed by tiles first. A task then owns a chunk of the keys of one key and value
// head: for each of its tiles it walks the tiles of queries of every query head of the group,
// computes P and dS again, and adds to its own dK and dV and to a dQ of this chunk. The dQ of the
// chunks are added in order at the end, so nothing depends on which thread did what. Where batch
// and heads alone give enough tasks there is one chunk, and each task packs for itself, so that a
// head stays in L2.
#include <olm/kernels/base/math.h>
#include <olm/kernels/flash_attention.h>

#include <cmath>
#include <initializer_list>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/flash_attention/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/flash_attention/products_acc-inl.h>
#include <olm/kernels/cpu/flash_attention/products_bf16-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

/// delta of a query row: Σ dO · O. Where O was rounded, what that took away is added back: dP -
/// delta is a difference of numbers as large as the values, and rounding O alone would leave 2^-9
/// of those.
template <class T, class A = acc_t<T>>
A delta_of_row(const FlashAttentionBackward& f, const Place& p, int64_t i) {
  const hn::ScalableTag<A> d;
  const T *y = rows_of<T>(f.y, p.b, p.h, i), *dy = rows_of<T>(f.dy, p.b, p.h, i);
  const T* low =
      f.y_low ? rows_of<T>(HeadRows{f.y_low, f.y.batch, f.y.row, f.y.head}, p.b, p.h, i) : nullptr;
  return sum_vectors(d, f.attention.value_dim, [&](int64_t c, auto part) HWY_ATTR {
    auto value = load(d, y + c, part);
    if (low) value = hn::Add(value, load(d, low + c, part));
    return hn::Mul(value, load(d, dy + c, part));
  });
}

/// Packs tile number `index` of (batch row, head, tile of queries).
template <BackwardTileProducts Products>
void pack_query_tile(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t index) {
  using T = typename Products::T;
  using A = typename Products::A;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const Place p{.b = index / n.query_tiles / a.heads,
                .h = index / n.query_tiles % a.heads,
                .i0 = index % n.query_tiles * kTile};
  const int64_t place = index - pack.first_query_tile, rows = std::min(kTile, a.queries - p.i0);
  Products::pack_queries(f, pack, p, place);
  // Rows that attend nothing, and those past the tensor, get a log sum of infinity: their P is
  // 2^-infinity, 0, without a case of its own in dS_row().
  const int64_t first = (p.b * a.heads + p.h) * a.queries + p.i0;
  const A *row_max = in<A>(f.row_max) + first, *row_log_sum = in<A>(f.row_log_sum) + first;
  for (int64_t r = 0; r < kTile; ++r) {
    const bool attends = r < rows && row_log_sum[r] != kMinusInfinity<A>;
    const int64_t at = place * kTile + r;
    out<A>(pack.row_max)[at] = attends ? row_max[r] : A(0);
    out<A>(pack.row_log_sum)[at] = attends ? row_log_sum[r] * A(kLog2E) : -kMinusInfinity<A>;
    out<A>(pack.delta)[at] = r < rows ? delta_of_row<T>(f, p, p.i0 + r) : A(0);
  }
}

/// Packs tile number `index` of (batch row, key and value head, tile of keys).
template <BackwardTileProducts Products>
void pack_key_tile(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t index) {
  const Attention& a = f.attention;
  const int64_t tiles = pack.sizes.key_tiles;
  const Place p{.b = index / tiles / a.kv_heads,
                .h = index / tiles % a.kv_heads,
                .j0 = index % tiles * kTile};
  Products::pack_keys(f, pack, p, index - pack.first_key_tile);
}

/// Adds what query head p.h passes back through keys [p.j0, …) to dk, dv and this chunk's dq. Tiles
/// of queries pass while dk and dv of the keys (32 KiB for heads of 64) stay in L2.
template <BackwardTileProducts Products, class A>
void backward_head(const Products& products, const Attention& a, const BackwardPack& pack, Place p,
                   A* dq, A* dk, A* dv, const GradientTile<A>& tile) {
  const int64_t key = pack.key_tile(a, p);
  TileMask mask;
  for (p.i0 = 0; p.i0 < a.queries; p.i0 += kTile) {
    if (!find_tile_mask(a, p, kMR, span_alignment<A>(), mask)) continue;
    recompute_P_dS(products, a, pack, p, mask, true, tile);
    const int64_t query = pack.query_tile(a, p);
    products.add(p, query, key, mask, tile, dq + query * kTile * pack.sizes.padded_dim, dk, dv);
  }
}

/// Task number `index` of (batch row, key and value head, chunk of keys).
template <BackwardTileProducts Products>
void backward_chunk(const FlashAttentionBackward& f, const BackwardPack& pack,
                    const Products& products, int64_t index) {
  using T = typename Products::T;
  using A = typename Products::A;
  const Attention& a = f.attention;
  const attention::Sizes& n = pack.sizes;
  const int64_t chunk = index % pack.chunks, kv_head = index / pack.chunks % a.kv_heads;
  const int64_t b = index / pack.chunks / a.kv_heads;
  const int64_t begin = chunk * pack.chunk_tiles;
  const int64_t end = std::min(n.key_tiles, begin + pack.chunk_tiles);
  A* dq = out<A>(pack.dq) + chunk * pack.query_tiles * kTile * n.padded_dim;
  // The part of the chunk's dq that this task alone adds to: the queries of its group of heads.
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
      backward_head(products, a, pack, p, dq, dk, dv, tile);
    }
    const int64_t j0 = t * kTile, rows = std::min(kTile, a.keys - j0);
    if (f.dk.data)
      products.write_keys(dk, n.dim, products.key_scale(), rows, rows_of<T>(f.dk, b, kv_head, j0),
                          f.dk.row);
    if (f.dv.data)
      products.write_keys(dv, n.value_dim, A(1), rows, rows_of<T>(f.dv, b, kv_head, j0), f.dv.row);
  }
}

/// dq of tile number `index` of (batch row, head, tile of queries): the chunks' shares, in order,
/// added to that of the first.
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

/// Calls body.operator()<Products>() with what multiplies.
template <class F>
void visit_backward(const FlashAttentionBackward& f, const BackwardPack& pack, F&& body) {
  if (pack.kernel) return body.template operator()<Bf16Backward>();
  visit_float(f.attention.dtype, [&]<class T>() { body.template operator()<AccBackward<T>>(); });
}

void pack_query_tiles(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                      int64_t end) {
  visit_backward(f, pack, [&]<class Products>() {
    for (int64_t i = begin; i < end; ++i) pack_query_tile<Products>(f, pack, i);
  });
}
void pack_key_tiles(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                    int64_t end) {
  visit_backward(f, pack, [&]<class Products>() {
    for (int64_t i = begin; i < end; ++i) pack_key_tile<Products>(f, pack, i);
  });
}
void backward_chunks(const FlashAttentionBackward& f, const BackwardPack& pack, int64_t begin,
                     int64_t end) {
  visit_backward(f, pack, [&]<class Products>() {
    const Products products(f, pack);
    for (int64_t i = begin; i < end; ++i) backward_chunk(f, pack, products, i);
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

/// dsink[h] = -Σ over rows of the sink's P times delta: its dP is 0.
template <class A>
void sink_gradient(const FlashAttentionBackward& f, const attention::BackwardPack& pack) {
  const Attention& a = f.attention;
  const double scale = pack.softmax_scale(a);
  for (int64_t h = 0; h < a.heads; ++h) {
    const double sink = double(in<A>(a.sink)[h]);
    double sum = 0;
    // An infinite sink takes nothing, or everything: then outputs, and with them delta, are 0.
    for (int64_t b = 0; b < a.batch && !std::isinf(sink); ++b)
      for (int64_t i = 0; i < a.queries; ++i) {
        const int64_t row = (b * a.heads + h) * a.queries + i;
        const double above = sink - double(in<A>(f.row_max)[row]) * scale;
        const double exponent = above - double(in<A>(f.row_log_sum)[row]);
        const double P = exponent > 1 ? 1 : std::exp(exponent);  // more is the maximum's rounding
        const int64_t at = (b * a.heads + h) * pack.sizes.padded_queries + i;
        sum -= P * double(in<A>(pack.delta)[at]);
      }
    A& dsink = out<A>(f.dsink)[h];
    dsink = A(sum) + (f.accumulate_dsink ? dsink : A(0));
  }
}

/// Chunks of keys such that there are tasks for many threads, where there are that many tiles. Not
/// more than that: each chunk has a dq of all queries to clear, to keep and to add up.
void choose_chunks(const Attention& a, attention::BackwardPack& pack) {
  const int64_t heads = std::max<int64_t>(a.batch * a.kv_heads, 1), tiles = pack.sizes.key_tiles;
  const int64_t enough = ceil_div(attention::kMinHeads, heads);
  const int64_t wanted = std::clamp<int64_t>(enough, 1, std::max<int64_t>(tiles, 1));
  pack.chunk_tiles = std::max<int64_t>(1, ceil_div(tiles, wanted));
  pack.chunks = std::max<int64_t>(1, ceil_div(tiles, pack.chunk_tiles));
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
    // Five GEMMs for each pair of tiles where the forward, which tile_grain() counts, has two.
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

/// Bytes of packed tiles. Those that stay 0 are not packed: in acc_dtype the GEMM reads P and dS
/// transposed instead of Q and dO (q_t, dy_t).
void set_tile_sizes(const Attention& a, attention::BackwardPack& pack) {
  using namespace attention;
  const Sizes& n = pack.sizes;
  if (const MicroKernel* kernel = pack.kernel) {
    pack.q.bytes = 4 * a_words(kTile, n.dim);
    pack.dy.bytes = 4 * a_words(kTile, n.value_dim);
    pack.q_t.bytes = 4 * a_words(n.dim, kTile);
    pack.dy_t.bytes = 4 * a_words(n.value_dim, kTile);
    pack.k.bytes = 4 * b_words(*kernel, n.dim, kTile);
    pack.k_t.bytes = 4 * b_words(*kernel, kTile, n.dim);
    pack.v_t.bytes = 4 * b_words(*kernel, kTile, n.value_dim);
    return;
  }
  const int64_t row_of_tile = kTile * int64_t(size_of(acc_dtype(a.dtype)));
  pack.q.bytes = pack.k.bytes = row_of_tile * n.padded_dim;
  pack.dy.bytes = row_of_tile * n.padded_value_dim;
  pack.k_t.bytes = row_of_tile * n.dim;
  pack.v_t.bytes = row_of_tile * n.value_dim;
}

using Operands = std::initializer_list<attention::PackedTiles*>;
size_t bytes_of(int64_t tiles, const Operands& operands) {
  int64_t bytes = 0;
  for (const auto* operand : operands) bytes += tiles * operand->bytes;
  return size_t(bytes);
}
void place(char* at, int64_t tiles, const Operands& operands) {
  for (auto* operand : operands) {
    operand->data = at;
    at += tiles * operand->bytes;
  }
}

/// Backward of `count` key and value heads from `first` on, over threads where `parallel`.
void backward_heads(const FlashAttentionBackward& f, const attention::MicroKernel* kernel,
                    int64_t first, int64_t count, bool parallel) {
  using attention::kTile;
  attention::BackwardPack pack{.sizes = attention::Sizes(f.attention, attention::pad_of(kernel)),
                               .kernel = kernel};
  const attention::Sizes& n = pack.sizes;
  choose_chunks(f.attention, pack);
  set_tile_sizes(f.attention, pack);
  pack.query_tiles = count * n.group * n.query_tiles;
  pack.key_tiles = count * n.key_tiles;
  pack.first_query_tile = first * n.group * n.query_tiles;
  pack.first_key_tile = first * n.key_tiles;
  const Operands queries = {&pack.q, &pack.dy, &pack.q_t, &pack.dy_t};
  const Operands keys = {&pack.k, &pack.k_t, &pack.v_t};
  const Scratch<char> by_query = f.stream.scratch<char>(bytes_of(pack.query_tiles, queries));
  const Scratch<char> by_key = f.stream.scratch<char>(bytes_of(pack.key_tiles, keys));
  place(by_query.get(), pack.query_tiles, queries);
  place(by_key.get(), pack.key_tiles, keys);
  const auto rows = [&](int64_t columns) {
    const size_t width = size_of(acc_dtype(f.attention.dtype));
    return f.stream.scratch<char>(size_t(pack.query_tiles * kTile * columns) * width);
  };
  const Scratch<char> row_max = rows(1), row_log_sum = rows(1), delta = rows(1);
  const Scratch<char> dq = rows(pack.chunks * n.padded_dim);
  const Scratch<bool> q_finite = f.stream.scratch<bool>(size_t(pack.query_tiles));
  const Scratch<bool> dy_finite = f.stream.scratch<bool>(size_t(pack.query_tiles));
  const Scratch<bool> k_finite = f.stream.scratch<bool>(size_t(pack.key_tiles));
  pack.row_max = row_max.get(), pack.row_log_sum = row_log_sum.get();
  pack.delta = delta.get(), pack.dq = dq.get();
  pack.q_finite = q_finite.get(), pack.dy_finite = dy_finite.get();
  pack.k_finite = k_finite.get();
  run_passes(f, pack, first, count, parallel);
}

}  // namespace

void run(Cpu, const FlashAttentionBackward& f) {
  attention::run_backward(f, attention::bf16_microkernel(f.attention));
}

void attention::run_backward(const FlashAttentionBackward& given, const MicroKernel* kernel) {
  const FlashAttentionBackward f = from_base(given);
  const Attention& a = f.attention;
  attention::check(a, FlashAttentionBackward::name);
  const attention::Sizes n(a);
  const int64_t heads = a.batch * a.kv_heads, together = attention::heads_packed_together(a);
  // dmask and dsink are sums over the batch and, of dmask, heads: they want all operands at once.
  if (together == heads || f.dmask || f.dsink) return backward_heads(f, kernel, 0, heads, true);
  parallel_for(heads, attention::tile_grain(n, 2 * n.group * n.query_tiles * n.key_tiles),
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) backward_heads(f, kernel, h, 1, false);
               });
}

}  // namespace olm::kernels
#endif
