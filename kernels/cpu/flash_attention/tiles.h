#pragma once
// How attention is cut into tiles, and which part of a tile is attended. Everything here follows
// from shapes and rules, never from the number of threads.
#include <algorithm>
#include <cstdint>
#include <limits>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/philox.h>
#include <olm/kernels/flash_attention.h>

namespace olm::kernels::attention {

/// Queries, and keys, of a tile. S, P and dS of f32 are 16 KiB each: S and P of the forward stay in
/// L1, the three of the backward in L2.
inline constexpr int64_t kTile = 64;
/// Head sizes are padded to multiples of this many elements of acc_dtype, a vector of AVX-512.
inline constexpr int64_t kPad = 16;
inline constexpr int64_t kMinBlockRows = 4;  ///< of a TileMask: fewest rows of a microkernel

/// Sizes that follow from the shapes.
struct Sizes {
  explicit Sizes(const Attention& a, int64_t pad = kPad)
      : query_tiles(ceil_div(a.queries, kTile)),
        key_tiles(ceil_div(a.keys, kTile)),
        padded_queries(query_tiles * kTile),
        padded_keys(key_tiles * kTile),
        dim(a.dim),
        value_dim(a.value_dim),
        padded_dim(round_up(a.dim, pad)),
        padded_value_dim(round_up(a.value_dim, pad)),
        group(a.kv_heads > 0 ? a.heads / a.kv_heads : 1) {}
  int64_t query_tiles, key_tiles, padded_queries, padded_keys;
  int64_t dim, value_dim, padded_dim, padded_value_dim;
  int64_t group;  // query heads per key and value head
};

/// Tiles that a task packs, and tiles of queries that a task computes against `key_tiles` tiles of
/// keys: enough for tens of microseconds.
inline int64_t pack_grain(const Sizes& n) {
  return std::max<int64_t>(1, 65536 / (kTile * (n.padded_dim + n.padded_value_dim + 1)));
}
inline int64_t tile_grain(const Sizes& n, int64_t key_tiles) {
  const int64_t tile = 2 * kTile * kTile * (n.padded_dim + n.padded_value_dim + 1);
  return std::max<int64_t>(1, 2000000 / (tile * std::max<int64_t>(key_tiles, 1)));
}

/// Key and value heads, counted over the batch, whose operands are packed together: each on its
/// own, so that they stay in L2 of the core that uses them, where there are enough of them to keep
/// many threads busy; else all at once.
inline constexpr int64_t kMinHeads = 16;
inline int64_t heads_packed_together(const Attention& a) {
  const int64_t heads = a.batch * a.kv_heads;
  return heads >= kMinHeads ? 1 : heads;
}

/// Row `row` of a head.
template <class T>
const T* rows_of(const HeadRows& x, int64_t b, int64_t head, int64_t row) {
  return in<T>(x.data) + b * x.batch + head * x.head + row * x.row;
}
template <class T>
T* rows_of(const HeadRowsOut& x, int64_t b, int64_t head, int64_t row) {
  return out<T>(x.data) + b * x.batch + head * x.head + row * x.row;
}

/// True where scores need more than Q Kᵀ and its scale.
inline bool transforms_scores(const Attention& a) {
  return a.softcap > 0 || a.slopes || a.mask || a.query_documents;
}

/// Throws unless the sizes make sense.
inline void check(const Attention& a, const char* name) {
  require(is_float(a.dtype), name, ": wanted a float dtype, got ", a.dtype);
  require(a.kv_heads > 0 ? a.heads % a.kv_heads == 0 : a.heads == 0, name, ": ", a.heads,
          " heads do not divide among ", a.kv_heads, " key and value heads");
  require(a.dropout_offset % 4 == 0, name, ": dropout_offset ", a.dropout_offset,
          " is not a multiple of 4");
  require((a.query_documents == nullptr) == (a.key_documents == nullptr), name,
          ": document ids are needed for queries and keys, or for neither");
}

/// The call with a dropout_offset that counts from 0.
template <class Call>
Call from_base(Call call) {
  uint64_t& offset = call.attention.dropout_offset;
  offset = random_offset(call.stream.rng_base, offset);
  return call;
}

struct Span {
  int64_t begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

/// Keys that query row i of batch row b attends by causality, window and length; documents and
/// masks may take more away. Both ends grow with i.
inline Span attended_keys(const Attention& a, int64_t b, int64_t i) {
  const int64_t position = i + a.offset;
  Span span{0, a.keys};
  if (a.causal) span.end = std::min(span.end, position + 1);
  if (a.window > 0) {
    span.begin = std::max(span.begin, position - a.window + 1);
    span.end = std::min(span.end, position + a.window);
  }
  if (a.key_lengths) span.end = std::min<int64_t>(span.end, a.key_lengths[b]);
  return span;
}

/// Place of a tile of S: batch row, query head, first query row and first key.
struct Place {
  int64_t b = 0, h = 0, i0 = 0, j0 = 0;
};

/// Rows of a tile of one head as they lie in memory: row r at data + r · stride.
template <class T>
struct TileRows {
  const T* data = nullptr;
  int64_t stride = 0, rows = 0, cols = 0;
};

/// Which pairs of query and key of a tile are attended, as far as shapes and rules say: an interval
/// of keys for each query row. GEMMs take rows by blocks, so each block of rows has the interval
/// that covers those of its rows, widened to whole vectors. (A mask tensor and unequal document ids
/// take single pairs away; that happens to the scores.)
struct TileMask {
  Span rows[kTile];
  Span blocks[kTile / kMinBlockRows];
  int64_t block_rows = 0, block_count = 0;  // only blocks that hold rows of the tensor count
  bool by_document = false;                 // ids must still be compared
  bool empty = true;
  bool full = false;  // all keys by all queries of a whole tile

  /// The query rows whose blocks reach keys [begin, end) of the tile.
  Span rows_reaching(int64_t begin, int64_t end) const {
    Span reaching{kTile, 0};
    for (int64_t n = 0; n < block_count; ++n) {
      if (blocks[n].end <= begin || blocks[n].begin >= end) continue;
      reaching.begin = std::min(reaching.begin, n * block_rows);
      reaching.end = (n + 1) * block_rows;
    }
    return reaching;
  }
};

struct IdRange {
  int32_t min = std::numeric_limits<int32_t>::max();
  int32_t max = std::numeric_limits<int32_t>::min();
};
inline IdRange range_of_ids(const int32_t* ids, int64_t n) {
  IdRange r;
  for (int64_t i = 0; i < n; ++i) {
    r.min = std::min(r.min, ids[i]);
    r.max = std::max(r.max, ids[i]);
  }
  return r;
}

/// Finds the mask of the tile at p. False where nothing is attended: the tile is passed over.
inline bool find_tile_mask(const Attention& a, const Place& p, int64_t block_rows, int64_t align,
                           TileMask& mask) {
  const int64_t rows = std::min(kTile, a.queries - p.i0), keys = std::min(kTile, a.keys - p.j0);
  const Span first = attended_keys(a, p.b, p.i0), last = attended_keys(a, p.b, p.i0 + rows - 1);
  mask.empty = true;
  mask.by_document = false;
  if (last.end <= p.j0 || first.begin >= p.j0 + keys) return false;
  if (a.query_documents) {
    const IdRange q = range_of_ids(a.query_documents + p.b * a.queries + p.i0, rows);
    const IdRange k = range_of_ids(a.key_documents + p.b * a.keys + p.j0, keys);
    if (q.max < k.min || k.max < q.min) return false;
    mask.by_document = q.min != q.max || k.min != k.max || q.min != k.min;
  }
  mask.block_rows = block_rows;
  mask.block_count = ceil_div(rows, block_rows);
  mask.full = rows == kTile && keys == kTile && first.end >= p.j0 + keys && last.begin <= p.j0;
  if (mask.full) {
    std::fill_n(mask.rows, kTile, Span{0, kTile});
    std::fill_n(mask.blocks, mask.block_count, Span{0, kTile});
    mask.empty = false;
    return true;
  }
  for (int64_t r = 0; r < mask.block_count * block_rows; ++r) {
    Span span = attended_keys(a, p.b, p.i0 + r);
    span.begin = std::clamp<int64_t>(span.begin - p.j0, 0, keys);
    span.end = std::clamp<int64_t>(span.end - p.j0, 0, keys);
    mask.rows[r] = r < rows && !span.empty() ? span : Span{};
  }
  for (int64_t n = 0; n < mask.block_count; ++n) {
    Span cover{kTile, 0};
    for (int64_t r = n * block_rows; r < (n + 1) * block_rows; ++r) {
      if (mask.rows[r].empty()) continue;
      cover.begin = std::min(cover.begin, mask.rows[r].begin);
      cover.end = std::max(cover.end, mask.rows[r].end);
    }
    mask.blocks[n] =
        cover.empty() ? Span{} : Span{cover.begin / align * align, round_up(cover.end, align)};
    mask.empty = mask.empty && cover.empty();
  }
  return !mask.empty;
}

}  // namespace olm::kernels::attention
