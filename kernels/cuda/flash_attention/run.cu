// Attention on CUDA: the choice between its kernels, and what all of them are given. Of documents,
// the range of ids in each tile of 64 rows is found first (a thread to a tile), so that tiles
// whose ids cannot meet are passed over.
#include <olm/kernels/cuda/flash_attention/plan.cuh>

#include <cmath>
#include <initializer_list>

namespace olm::kernels {
namespace cuda_attention {
namespace {

__global__ void find_id_ranges(const int32_t* ids, int64_t rows, int64_t tiles, int64_t all,
                               IdRange* ranges) {
  for (int64_t t = global_thread(); t < all; t += global_threads()) {
    const int64_t begin = t % tiles * kIdTile, end = min(rows, begin + kIdTile);
    const int32_t* of_batch = ids + t / tiles * rows;
    IdRange range{of_batch[begin], of_batch[begin]};
    for (int64_t i = begin + 1; i < end; ++i) {
      range.min = min(range.min, of_batch[i]);
      range.max = max(range.max, of_batch[i]);
    }
    ranges[t] = range;
  }
}

void check(const Attention& a, const char* name) {
  require(a.dtype == f32 || a.dtype == bf16 || a.dtype == f16, name,
          ": cuda kernels want f32, bf16 or f16, got ", a.dtype);
  require(a.mask == nullptr || a.mask_dtype != f64, name, ": cuda kernels add no mask of f64");
  require(a.kv_heads > 0 ? a.heads % a.kv_heads == 0 : a.heads == 0, name, ": ", a.heads,
          " heads do not divide among ", a.kv_heads, " key and value heads");
  require(a.dropout_offset % 4 == 0, name, ": dropout_offset ", a.dropout_offset,
          " is not a multiple of 4");
  require((a.query_documents == nullptr) == (a.key_documents == nullptr), name,
          ": document ids are needed for queries and keys, or for neither");
}

Problem problem_of(const Attention& a, const Stream& stream) {
  Problem p{.a = a, .group = a.heads / std::max<int64_t>(a.kv_heads, 1)};
  // A scale that is left to the softmax must keep the order of scores.
  const bool scaled_first = a.softcap > 0 || a.slopes || a.mask || !(a.scale > 0);
  constexpr double kLog2E = 1.4426950408889634;
  p.unit = scaled_first ? 1.0 : double(float(a.scale));
  p.scale = scaled_first ? float(a.scale) : 1.0f;
  p.log2_unit = float(p.unit * kLog2E);
  p.softcap = float(a.softcap);
  p.per_softcap = a.softcap > 0 ? float(1 / a.softcap) : 0.0f;
  // to_uniform(word) = (word >> 8) · 2^-24, compared as integers.
  p.threshold = uint32_t(std::ceil(a.dropout * 0x1p24));
  p.kept = a.dropout < 1 ? float(1 / (1 - a.dropout)) : 0.0f;
  p.rng_base = stream.rng_base;
  return p;
}

/// Whether tensor cores have this, given rows that are aligned.
bool has_mma(const Attention& a) {
  return (a.dtype == bf16 || a.dtype == f16) && a.dim == a.value_dim && a.mask == nullptr &&
         (a.dim == 64 || a.dim == 96 || a.dim == 128);
}

HeadRows rows_of(const HeadRowsOut& x) { return {x.data, x.batch, x.row, x.head}; }

/// True where all rows of 16-bit elements begin at multiples of 16 bytes.
bool are_aligned(std::initializer_list<HeadRows> all) {
  return std::all_of(all.begin(), all.end(), [](const HeadRows& x) {
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.batch % 8 == 0 && x.row % 8 == 0 &&
           x.head % 8 == 0;
  });
}

/// The ranges of document ids, for as long as the object lives.
class Documents {
 public:
  Documents(const Attention& a, const Stream& stream)
      : query_tiles_(a.query_documents ? a.batch * ceil_div(a.queries, int64_t(kIdTile)) : 0),
        key_tiles_(a.key_documents ? a.batch * ceil_div(a.keys, int64_t(kIdTile)) : 0),
        ranges_(stream.scratch<IdRange>(std::max<size_t>(1, size_t(query_tiles_ + key_tiles_)))) {
    if (query_tiles_ > 0) find(a.query_documents, a.queries, query_tiles_, ranges_, stream);
    if (key_tiles_ > 0) find(a.key_documents, a.keys, key_tiles_, ranges_ + query_tiles_, stream);
  }
  void put(Problem& p) const {
    if (query_tiles_ + key_tiles_ == 0) return;
    p.query_ids = ranges_;
    p.key_ids = ranges_ + query_tiles_;
  }

 private:
  static void find(const int32_t* ids, int64_t rows, int64_t tiles, IdRange* to,
                   const Stream& stream) {
    constexpr int64_t kBlock = 64;
    launch(find_id_ranges, {.grid = blocks_for(tiles, kBlock), .block = kBlock, .stream = stream},
           ids, rows, ceil_div(rows, int64_t(kIdTile)), tiles, to);
  }
  int64_t query_tiles_, key_tiles_;
  Scratch<IdRange> ranges_;
};

}  // namespace

Path plan(const FlashAttentionForward& f) {
  const Attention& a = f.attention;
  if (a.queries <= kDecodeRows && a.keys >= kSplitKeys) return Path::decode;
  const bool aligned = are_aligned({f.q, f.k, f.v, rows_of(f.y), {f.y_low}});
  return has_mma(a) && aligned ? Path::mma : Path::general;
}

Path plan(const FlashAttentionBackward& f) {
  const bool aligned =
      are_aligned({f.q, f.k, f.v, f.dy, rows_of(f.dq), rows_of(f.dk), rows_of(f.dv)});
  return has_mma(f.attention) && aligned ? Path::mma : Path::general;
}

void run(Path path, const FlashAttentionForward& f) {
  const Attention& a = f.attention;
  check(a, FlashAttentionForward::name);
  if (a.batch == 0 || a.heads == 0 || a.queries == 0) return;
  const Documents documents(a, f.stream);
  Problem p = problem_of(a, f.stream);
  documents.put(p);
  if (path == Path::decode && a.keys > 0) return decode_forward(f, p);
  if (path == Path::mma && has_mma(a)) return mma_forward(f, p);
  general_forward(f, p);
}

void run(Path path, const FlashAttentionBackward& f) {
  const Attention& a = f.attention;
  check(a, FlashAttentionBackward::name);
  if (a.batch == 0 || a.kv_heads == 0) return;
  const Documents documents(a, f.stream);
  Problem p = problem_of(a, f.stream);
  documents.put(p);
  const size_t rows = size_t(a.batch * a.heads * a.queries);
  const Scratch<float> numbers = f.stream.scratch<float>(std::max<size_t>(1, 3 * rows));
  const AllStats stats{numbers, numbers + rows, numbers + 2 * rows};
  row_stats(f, numbers, numbers + rows, numbers + 2 * rows);
  if (path == Path::mma && has_mma(a))
    mma_backward(f, p, stats);
  else
    general_backward(f, p, stats);
  if (f.dmask) mask_gradient(f, p, stats);
  if (f.dsink) sink_gradient(f, p, stats);
}

}  // namespace cuda_attention

void run(Cuda, const FlashAttentionForward& f) { cuda_attention::run(cuda_attention::plan(f), f); }
void run(Cuda, const FlashAttentionBackward& f) { cuda_attention::run(cuda_attention::plan(f), f); }

}  // namespace olm::kernels
