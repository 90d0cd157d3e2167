// Reductions, each as folds over x: [outer, reduced, inner]. Where inner is 1 a warp, or for longer
// rows a block, folds a row, 16 bytes at a time where rows are aligned; else the threads of a block
// lie on kWarp columns or fewer and fold rows in turn. Where that makes too few blocks the axis is
// cut, by the shape alone, and partial results are folded by a second launch. Traffic: x once, for
// logsumexp and variance twice.
#include <olm/kernels/reduce.h>
#include <olm/kernels/cuda/packet.cuh>
#include <olm/kernels/cuda/reduce.cuh>

#include <bit>
#include <cmath>
#include <limits>

namespace olm::kernels {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kWarpRow = 1024;     // elements of a row that a warp folds alone
constexpr int64_t kMinRowPart = 8192;  // elements of a row that are worth a block
constexpr int64_t kMinBlocks = 512;    // below which the axis is cut
constexpr int kLoads = 8;              // of a thread on columns, in flight

// Folds: the values they read, their state, and how it begins, takes an element and is joined.
// `ref` is a value known from an earlier fold, `r` the index along the axis.
template <class V>
struct Total {
  using Value = V;
  using State = V;
  __device__ static State neutral() { return 0; }
  __device__ static State term(V x, float, int64_t) { return x; }
  __device__ static State join(State a, State b) { return a + b; }
};
/// 0 instead of NaN and infinities, which exp and log carry by themselves.
__device__ inline float finite_or_zero(float v) {
  return fabsf(v) <= std::numeric_limits<float>::max() ? v : 0.0f;
}
struct Powers : Total<float> {
  __device__ static State term(float x, float ref, int64_t) {
    return expf(x - finite_or_zero(ref));
  }
};

/// Squares of what lies beyond kTiny⁻¹ overflow: they are summed times kTiny² too.
constexpr float kTiny = 0x1p-70f;
struct SquaresState {
  float sum, tiny;
};
struct Squares {
  using Value = float;
  using State = SquaresState;
  __device__ static State neutral() { return {0, 0}; }
  __device__ static State term(float x, float ref, int64_t) {
    const float centred = x - ref, tiny = centred * kTiny;
    return {centred * centred, tiny * tiny};
  }
  __device__ static State join(State a, State b) { return {a.sum + b.sum, a.tiny + b.tiny}; }
};

template <class V>
struct ExtremeState {
  V value;
  int64_t index;
};
/// The first of the largest or smallest; a NaN goes before all numbers.
template <class V, bool largest>
struct Extreme {
  using Value = V;
  using State = ExtremeState<V>;
  __device__ static State neutral() {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    if constexpr (std::is_same_v<V, float>)
      return {largest ? -INFINITY : INFINITY, kNone};
    else
      return {largest ? std::numeric_limits<V>::min() : std::numeric_limits<V>::max(), kNone};
  }
  __device__ static State term(V x, float, int64_t r) { return {x, r}; }
  __device__ static State join(State a, State b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    const bool tie = a.value == b.value || (a_nan && b_nan);
    const bool beyond = largest ? a.value > b.value : a.value < b.value;
    return (tie ? a.index < b.index : a_nan || beyond) ? a : b;
  }
};

template <class V>
__device__ inline V from_lane(V v, int distance) {
  return __shfl_xor_sync(kAllLanes, v, distance);
}
__device__ inline SquaresState from_lane(SquaresState v, int distance) {
  return {from_lane(v.sum, distance), from_lane(v.tiny, distance)};
}
template <class V>
__device__ inline ExtremeState<V> from_lane(ExtremeState<V> v, int distance) {
  return {from_lane(v.value, distance), from_lane(v.index, distance)};
}

template <class Fold>
__device__ inline typename Fold::State warp_fold(typename Fold::State v) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    v = Fold::join(v, from_lane(v, distance));
  return v;
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

/// What results are made of.
struct Result {
  ReduceOp op = ReduceOp::sum;
  DType dtype = f32;
  void* y = nullptr;
  const float* ref = nullptr;
  float divisor = 1;
};
__device__ inline void finish(const Result& to, int64_t i, float sum) {
  if (to.op == ReduceOp::mean) sum /= to.divisor;
  if (to.op == ReduceOp::logsumexp) sum = finite_or_zero(to.ref[i]) + logf(sum);
  store_float(to.y, to.dtype, i, sum);
}
__device__ inline void finish(const Result& to, int64_t i, uint64_t sum) {
  if (to.dtype == i32)
    out<uint32_t>(to.y)[i] = uint32_t(sum);
  else
    out<uint64_t>(to.y)[i] = sum;
}
__device__ inline void finish(const Result& to, int64_t i, SquaresState s) {
  const bool overflowed = s.sum > std::numeric_limits<float>::max();
  store_float(to.y, to.dtype, i,
              overflowed ? s.tiny / to.divisor / kTiny / kTiny : s.sum / to.divisor);
}
template <class V>
__device__ inline void finish(const Result& to, int64_t i, ExtremeState<V> extreme) {
  if (to.op == ReduceOp::argmax || to.op == ReduceOp::argmin)
    out<int64_t>(to.y)[i] = extreme.index;
  else if constexpr (std::is_same_v<V, float>)
    store_float(to.y, to.dtype, i, extreme.value);
  else
    finish(to, i, uint64_t(extreme.value));
}

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

/// The part [begin, end) of a row by the threads of a warp or block, `lane` of `threads`.
template <class Fold>
__device__ inline typename Fold::State fold_part(const void* x, DType t, int64_t base,
                                                 int64_t begin, int64_t end, float ref, int lane,
                                                 int threads, bool aligned) {
  auto state = Fold::neutral();
  if constexpr (std::is_same_v<typename Fold::Value, float>) {
    const int64_t step = int64_t(threads) * kPacket;
    for (int64_t c = begin + lane * kPacket; aligned && c < end; c += 2 * step) {
      const bool has_second = c + step < end;
      Packet first = load_packet(x, t, base + c), second = first;
      if (has_second) second = load_packet(x, t, base + c + step);
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
    if (aligned) begin = end;
  }
  return Fold::join(state, fold_singly<Fold>(x, t, base, 1, begin + lane, end, threads, ref));
}

/// Rows: a warp each, or parts of rows: a block each. States go to `partial`, or results to `to`.
template <class Fold>
__global__ void fold_rows(const void* x, DType t, Cut cut, const float* ref, bool aligned,
                          typename Fold::State* partial, Result to) {
  const bool by_warp = cut.reduced <= kWarpRow;
  const int warps = int(blockDim.x) / kWarp, warp = int(threadIdx.x) / kWarp;
  const int64_t unit = by_warp ? int64_t(blockIdx.x) * warps + warp : int64_t(blockIdx.x);
  if (unit >= cut.outer * cut.parts) return;  // whole warps, which then have a row each
  const int64_t o = unit / cut.parts, begin = unit % cut.parts * cut.length;
  const int64_t end = std::min(cut.reduced, begin + cut.length);
  const int lane = by_warp ? int(threadIdx.x) % kWarp : int(threadIdx.x);
  auto state = fold_part<Fold>(x, t, o * cut.reduced, begin, end, load_ref(ref, o), lane,
                               by_warp ? kWarp : int(blockDim.x), aligned);
  state = by_warp ? warp_fold<Fold>(state) : block_fold<Fold>(state);
  if (lane != 0) return;
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
Cut cut_of(const Shape& s, int64_t blocks, int64_t unit) {
  const int64_t wanted =
      std::clamp<int64_t>(ceil_div(kMinBlocks, blocks), 1, std::max<int64_t>(1, s.reduced / unit));
  const int64_t length = std::max<int64_t>(unit, round_up(ceil_div(s.reduced, wanted), unit));
  const int64_t parts = std::max<int64_t>(1, ceil_div(s.reduced, length));
  return {s.outer, s.reduced, s.inner, parts, length};
}

/// Columns of a block: a warp of them, more where the axis is short, a power of two.
int columns_of_block(const Shape& s) {
  int width = 1;
  while (width < kBlock && width < s.inner && (width < kWarp || kBlock / width > s.reduced))
    width *= 2;
  return width;
}
/// A launch of blocks that lie on `width` columns of an axis of n.
Launch column_launch(int64_t grid, int width, int64_t n, size_t state_bytes, const Stream& stream) {
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
    const int64_t rows = by_warp ? std::min<int64_t>(kBlock / kWarp, s.outer) : 1;
    launch(fold_rows<Fold>,
           {.grid = ceil_div(s.outer * cut.parts, rows),
            .block = by_warp ? rows * kWarp : kBlock,
            .shared = sizeof(State) * kWarp,
            .stream = s.stream},
           s.x, s.dtype, cut, ref, s.reduced % kPacket == 0 && has_packets(s.x), partial, to);
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

void reduce_floats(const Shape& s, Result to) {
  switch (to.op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return fold<Total<float>>(s, nullptr, to);
    case ReduceOp::max:
    case ReduceOp::argmax:
      return fold<Extreme<float, true>>(s, nullptr, to);
    case ReduceOp::min:
    case ReduceOp::argmin:
      return fold<Extreme<float, false>>(s, nullptr, to);
    case ReduceOp::logsumexp: {
      const Scratch<float> most = s.stream.scratch<float>(size_t(s.outer * s.inner));
      fold<Extreme<float, true>>(s, nullptr, {.op = ReduceOp::max, .y = most.get()});
      to.ref = most;
      return fold<Powers, Total<float>>(s, most, to);
    }
  }
}

void reduce_integers(const Shape& s, const Result& to) {
  switch (to.op) {
    case ReduceOp::sum:
      return fold<Total<uint64_t>>(s, nullptr, to);
    case ReduceOp::max:
    case ReduceOp::argmax:
      return fold<Extreme<int64_t, true>>(s, nullptr, to);
    case ReduceOp::min:
    case ReduceOp::argmin:
      return fold<Extreme<int64_t, false>>(s, nullptr, to);
    default:
      fail("reduce: ", s.dtype, " has no mean or logsumexp");
  }
}

}  // namespace

void run(Cuda, const Reduce& k) {
  const bool extreme = k.op == ReduceOp::max || k.op == ReduceOp::min || k.op == ReduceOp::argmax ||
                       k.op == ReduceOp::argmin;
  require(!extreme || k.reduced > 0 || k.outer * k.inner == 0,
          "reduce: an empty axis has no largest or smallest element");
  const bool integers = k.dtype == i32 || k.dtype == i64;
  if (!integers) require_packet_dtype("reduce", k.dtype);
  if (k.outer * k.inner == 0) return;
  const Shape s{k.x, k.dtype, k.outer, k.reduced, k.inner, k.stream};
  const Result to{.op = k.op, .dtype = k.dtype, .y = k.y, .divisor = float(k.reduced)};
  integers ? reduce_integers(s, to) : reduce_floats(s, to);
}

void run(Cuda, const Variance& k) {
  require_packet_dtype("variance", k.dtype);
  if (k.outer * k.inner == 0) return;
  const Shape s{k.x, k.dtype, k.outer, k.reduced, k.inner, k.stream};
  fold<Total<float>>(s, nullptr, {.op = ReduceOp::mean, .y = k.mean, .divisor = float(k.reduced)});
  const float divisor = float(std::max(0.0, double(k.reduced) - k.correction));
  fold<Squares>(s, in<float>(k.mean), {.dtype = k.dtype, .y = k.y, .divisor = divisor});
}

}  // namespace olm::kernels
