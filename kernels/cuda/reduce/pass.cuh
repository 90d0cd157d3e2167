#pragma once
// One pass of a reduction: a fold over x: [outer, reduced, inner]. Where inner is 1 a team of
// threads, a part of a warp or for longer rows a block, folds a row, 16 bytes at a time where rows
// are aligned; else the threads of a block lie on a warp's columns or so and fold rows in turn.
// Where that makes too few blocks the axis is cut, by the shape alone, and partial results are
// folded by a second launch. Traffic: x once.
#include <bit>

#include <olm/kernels/cuda/reduce/folds.cuh>

namespace olm::kernels::cuda_reduce {

constexpr int64_t kBlock = 256;
constexpr int64_t kWarpRow = 1024;     // elements of a row that a warp folds alone
constexpr int64_t kMinRowPart = 8192;  // elements of a row that are worth a block
constexpr int64_t kMinBlocks = 512;    // below which the axis is cut
constexpr int kLoads = 8;              // of a thread on columns, in flight

using kernels::from_lane;
template <class V>
__device__ inline ExtremeState<V> from_lane(ExtremeState<V> v, int distance) {
  return {from_lane(v.value, distance), from_lane(v.index, distance)};
}

/// Over teams of `threads`, a power of two, of a warp.
template <class Fold>
__device__ inline typename Fold::State warp_fold(typename Fold::State v, int threads = kWarp) {
  using State = typename Fold::State;
  return warp_reduce(
      v, [](const State& a, const State& b) { return Fold::join(a, b); }, threads);
}
/// For the first warp.
template <class Fold>
__device__ inline typename Fold::State block_fold(typename Fold::State v) {
  auto* of_warp = shared<typename Fold::State>();
  const int lane = int(threadIdx.x) % kWarp, warps = int(blockDim.x) / kWarp;
  v = warp_fold<Fold>(v);
  if (lane == 0) of_warp[threadIdx.x / kWarp] = v;
  __syncthreads();
  return warp_fold<Fold>(lane < warps ? of_warp[lane] : Fold::neutral());
}

/// Elements of x as they are loaded, several before the first is waited for, and as a fold reads
/// them: floats, or integers, of which sums wrap.
template <class V>
using Raw = std::conditional_t<std::is_same_v<V, float>, uint32_t, V>;
template <class V>
__device__ inline Raw<V> load_raw(const void* x, DType t, int64_t i) {
  if constexpr (std::is_same_v<V, float>)
    return load_bits(x, t, i);
  else
    return t == i32 ? V(in<int32_t>(x)[i]) : in<V>(x)[i];
}
template <class V>
__device__ inline V from_raw(Raw<V> raw, DType t) {
  if constexpr (std::is_same_v<V, float>)
    return widen_bits(raw, t);
  else
    return raw;
}
__device__ inline float load_ref(const float* ref, int64_t i) { return ref ? ref[i] : 0.0f; }

/// How the axis is cut: into `parts` of `length`.
struct Cut {
  int64_t outer, reduced, inner, parts, length;
};

/// Elements first, first + step… before `end` of an axis, `stride` apart in memory.
template <class Fold>
__device__ inline typename Fold::State fold_singly(const void* x, DType t, int64_t base,
                                                   int64_t stride, int64_t first, int64_t end,
                                                   int64_t step, float ref) {
  using Value = typename Fold::Value;
  auto state = Fold::neutral();
  for (; first < end; first += kLoads * step) {
    Raw<Value> raw[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int64_t r = first + j * step;
      raw[j] = r < end ? load_raw<Value>(x, t, base + r * stride) : Raw<Value>(0);
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int64_t r = first + j * step;
      if (r < end) state = Fold::join(state, Fold::term(from_raw<Value>(raw[j], t), ref, r));
    }
  }
  return state;
}

/// The part [begin, end) of a row by the threads of a warp or block, `lane` of `threads`. Rows of
/// whole packets are summed by packets, which begin at multiples of 16 bytes where `aligned`.
template <class Fold>
__device__ inline typename Fold::State fold_part(const void* x, DType t, int64_t base,
                                                 int64_t begin, int64_t end, float ref, int lane,
                                                 int threads, bool packets, bool aligned) {
  auto state = Fold::neutral();
  if constexpr (std::is_same_v<typename Fold::Value, float>) {
    const int64_t step = int64_t(threads) * kPacket;
    for (int64_t c = begin + lane * kPacket; packets && c < end; c += 2 * step) {
      const bool has_second = c + step < end;
      Packet first, second;
      if (aligned) {
        second = first = load_packet(x, t, base + c);
        if (has_second) second = load_packet(x, t, base + c + step);
      } else {
        first = gather_packet(x, t, base + c);
        second = gather_packet(x, t, base + c + (has_second ? step : 0));
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v[kPacket];
        widen(half ? second : first, t, v);
        auto sum = Fold::term(v[0], ref, c + half * step);
#pragma unroll
        for (int j = 1; j < kPacket; ++j)
          sum = Fold::join(sum, Fold::term(v[j], ref, c + half * step + j));
        if (!half || has_second) state = Fold::join(state, sum);
      }
    }
    if (packets) begin = end;
  }
  return Fold::join(state, fold_singly<Fold>(x, t, base, 1, begin + lane, end, threads, ref));
}

/// Rows, or parts of rows, by teams of `threads`: a power of two of a warp's, or the block. States
/// go to `partial`, or results to `to`.
template <class Fold>
__global__ void fold_rows(const void* x, DType t, Cut cut, const float* ref, int threads,
                          bool packets, bool aligned, typename Fold::State* partial, Result to) {
  const int teams = int(blockDim.x) / threads, team = int(threadIdx.x) / threads;
  const int lane = int(threadIdx.x) % threads;
  const int64_t unit = int64_t(blockIdx.x) * teams + team;
  const bool has_unit = unit < cut.outer * cut.parts;
  const int64_t o = unit / cut.parts, begin = unit % cut.parts * cut.length;
  const int64_t end = has_unit ? std::min(cut.reduced, begin + cut.length) : begin;
  const float of_row = has_unit ? load_ref(ref, o) : 0.0f;
  auto state =
      fold_part<Fold>(x, t, o * cut.reduced, begin, end, of_row, lane, threads, packets, aligned);
  state = threads > kWarp ? block_fold<Fold>(state) : warp_fold<Fold>(state, threads);
  if (lane != 0 || !has_unit) return;
  if (partial)
    partial[unit] = state;
  else
    finish(to, o, state);
}

/// Folds what the threads of a block that lie on one column have; for the first of them.
template <class Fold>
__device__ inline typename Fold::State fold_lanes(typename Fold::State state, int width) {
  auto* states = shared<typename Fold::State>();
  const int thread = int(threadIdx.x);
  states[thread] = state;
  for (int lanes = int(blockDim.x) / width / 2; lanes > 0; lanes /= 2) {
    __syncthreads();
    if (thread < lanes * width)
      states[thread] = state = Fold::join(state, states[thread + lanes * width]);
  }
  return state;
}

/// Blocks of (outer, part, columns), `width` columns by blockDim / width rows.
struct Place {
  int64_t o, part, i;
  int lane, lanes;
};
__device__ inline Place place_of(const Cut& cut, int width) {
  const int64_t chunks = ceil_div(cut.inner, width), b = int64_t(blockIdx.x);
  const int thread = int(threadIdx.x);
  return {b / chunks / cut.parts, b / chunks % cut.parts, b % chunks * width + thread % width,
          thread / width, int(blockDim.x) / width};
}

template <class Fold>
__global__ void fold_columns(const void* x, DType t, Cut cut, const float* ref, int width,
                             typename Fold::State* partial, Result to) {
  const Place at = place_of(cut, width);
  const bool inside = at.i < cut.inner;
  const int64_t begin = at.part * cut.length, base = at.o * cut.reduced * cut.inner + at.i;
  const int64_t end = inside ? std::min(cut.reduced, begin + cut.length) : 0;
  const float of_column = inside ? load_ref(ref, at.o * cut.inner + at.i) : 0;
  auto state = fold_singly<Fold>(x, t, base, cut.inner, begin + at.lane, end, at.lanes, of_column);
  state = fold_lanes<Fold>(state, width);
  if (at.lane != 0 || !inside) return;
  if (partial)
    partial[(at.o * cut.parts + at.part) * cut.inner + at.i] = state;
  else
    finish(to, at.o * cut.inner + at.i, state);
}

/// Partial results [outer, parts, inner] to results.
template <class Fold>
__global__ void join_parts(const typename Fold::State* partial, Cut cut, int width, Result to) {
  const Place at = place_of({cut.outer, cut.parts, cut.inner, 1, cut.parts}, width);
  const bool inside = at.i < cut.inner;
  auto state = Fold::neutral();
  for (int64_t p = at.lane; inside && p < cut.parts; p += at.lanes)
    state = Fold::join(state, partial[(at.o * cut.parts + p) * cut.inner + at.i]);
  state = fold_lanes<Fold>(state, width);
  if (at.lane == 0 && inside) finish(to, at.o * cut.inner + at.i, state);
}

struct Shape {
  const void* x;
  DType dtype;
  int64_t outer, reduced, inner;
  Stream stream;
};

/// Parts of the axis so that there are kMinBlocks, of a multiple of `unit` elements each.
inline Cut cut_of(const Shape& s, int64_t blocks, int64_t unit) {
  const int64_t wanted =
      std::clamp<int64_t>(ceil_div(kMinBlocks, blocks), 1, std::max<int64_t>(1, s.reduced / unit));
  const int64_t length = std::max<int64_t>(unit, round_up(ceil_div(s.reduced, wanted), unit));
  const int64_t parts = std::max<int64_t>(1, ceil_div(s.reduced, length));
  return {s.outer, s.reduced, s.inner, parts, length};
}

/// Columns of a block: a warp of them, more where the axis is short, a power of two.
inline int columns_of_block(const Shape& s) {
  int width = 1;
  while (width < kBlock && width < s.inner && (width < kWarp || kBlock / width > s.reduced))
    width *= 2;
  return width;
}
/// A launch of blocks that lie on `width` columns of an axis of n.
inline Launch column_launch(int64_t grid, int width, int64_t n, size_t state_bytes,
                            const Stream& stream) {
  const int64_t lanes = std::min<int64_t>(kBlock / width, int64_t(std::bit_ceil(uint64_t(n))));
  const int64_t block = std::max<int64_t>(kWarp, width * lanes);
  return {.grid = grid, .block = block, .shared = size_t(block) * state_bytes, .stream = stream};
}

/// One pass: Fold over the elements, partial results joined by Join.
template <class Fold, class Join = Fold>
void fold(const Shape& s, const float* ref, const Result& to) {
  using State = typename Fold::State;
  const int width = columns_of_block(s);
  const int64_t chunks = ceil_div(s.inner, width);
  const bool by_warp = s.inner == 1 && s.reduced <= kWarpRow;
  const Cut cut = s.inner > 1 ? cut_of(s, s.outer * chunks, kBlock / width * kLoads)
                  : by_warp   ? Cut{s.outer, s.reduced, 1, 1, s.reduced}
                              : cut_of(s, s.outer, kMinRowPart);
  const bool whole = cut.parts == 1;
  const Scratch<State> scratch =
      s.stream.scratch<State>(whole ? 1 : size_t(s.outer * cut.parts * s.inner));
  State* partial = whole ? nullptr : scratch.get();
  if (s.inner == 1) {
    const int64_t packets = std::min<int64_t>(kWarp, ceil_div(s.reduced, kPacket));
    const int64_t threads = by_warp ? int64_t(std::bit_ceil(uint64_t(packets))) : kBlock;
    const int64_t all = s.outer * cut.parts * threads;
    const int64_t block = std::min(kBlock, round_up(all, kWarp));
    launch(fold_rows<Fold>,
           {.grid = ceil_div(all, block),
            .block = block,
            .shared = sizeof(State) * kWarp,
            .stream = s.stream},
           s.x, s.dtype, cut, ref, int(threads), s.reduced % kPacket == 0, is_aligned(s.x), partial,
           to);
  } else {
    launch(fold_columns<Fold>,
           column_launch(s.outer * cut.parts * chunks, width, s.reduced, sizeof(State), s.stream),
           s.x, s.dtype, cut, ref, width, partial, to);
  }
  if (!whole)
    launch(join_parts<Join>,
           column_launch(s.outer * chunks, width, cut.parts, sizeof(State), s.stream), partial, cut,
           width, to);
}

/// Reductions of i32 and i64.
void reduce_integers(const Shape& s, const Result& to);

}  // namespace olm::kernels::cuda_reduce
