// Softmax over rows. A team of threads, a part of a warp or for long rows a block, holds a row in
// registers: maximum, sum of exponentials, result. Rows that do not fit are read twice (the second
// time from L2 if all rows in flight fit there), the first time with an online softmax (Milakov &
// Gimelshein 2018). Sixteen bytes at a time where rows are aligned. Traffic: x once, y once;
// backward: dy and y once, dx once.
#include <olm/kernels/softmax.h>

#include <bit>
#include <cmath>
#include <olm/kernels/cuda/packet.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels {
namespace {

constexpr int kForwardPackets = 4, kBackwardPackets = 2;  // of a thread, in registers
constexpr int kMaxThreads = 1024;
constexpr int kForwardThreads = 512;  // whose registers hold a row
constexpr int64_t kTeamsBlock = 256;  // of several rows
constexpr float kMinNormalExp = -87;  // the least x for which e^x is a normal f32
constexpr float kLowest = -INFINITY;

/// The row of this thread, and its place among the threads that share it: a power of two of a
/// warp's, or the block. Beyond the last row there are no columns.
struct Team {
  int64_t base, cols;
  int lane, threads;
};
__device__ inline Team team_of(int64_t rows, int64_t cols, int threads) {
  const int thread = int(threadIdx.x), teams = int(blockDim.x) / threads;
  const int64_t row = int64_t(blockIdx.x) * teams + thread / threads;
  return {row * cols, row < rows ? cols : 0, thread % threads, threads};
}
struct PlainMax {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};
template <class Op>
__device__ inline float team_reduce(const Team& team, float v, Op op) {
  if (team.threads > kWarp) return block_reduce(v, op);
  return warp_reduce(v, op, team.threads);
}

/// Column of element j of packet p of a thread: packets go on by all threads; where rows are not
/// aligned single elements do.
__device__ inline int64_t column(const Team& team, int64_t first, int p, int j, bool aligned) {
  return aligned ? first + (int64_t(p) * team.threads + team.lane) * kPacket + j
                 : first + int64_t(p * kPacket + j) * team.threads + team.lane;
}

/// The thread's elements of columns from `first`; `fill` beyond the row.
template <int P>
__device__ inline void load_row(const void* x, DType t, const Team& team, int64_t first,
                                bool aligned, float fill, float (&v)[P][kPacket]) {
  Packet raw[P];
  uint32_t bits[P][kPacket];
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t c = column(team, first, p, 0, true);
    if (aligned && c < team.cols) raw[p] = load_packet(x, t, team.base + c);
  }
  if (aligned) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const bool inside = column(team, first, p, 0, true) < team.cols;
      if (inside) widen(raw[p], t, v[p]);
#pragma unroll
      for (int j = 0; j < kPacket; ++j)
        if (!inside) v[p][j] = fill;
    }
    return;
  }
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int j = 0; j < kPacket; ++j) {
      const int64_t c = column(team, first, p, j, false);
      bits[p][j] = c < team.cols ? load_bits(x, t, team.base + c) : 0u;
    }
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int j = 0; j < kPacket; ++j)
      v[p][j] = column(team, first, p, j, false) < team.cols ? widen_bits(bits[p][j], t) : fill;
}

template <int P>
__device__ inline void store_row(void* y, DType t, const Team& team, int64_t first, bool aligned,
                                 const float (&v)[P][kPacket]) {
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int64_t c = column(team, first, p, 0, true);
    if (aligned && c < team.cols) store_packet(y, t, team.base + c, narrow(v[p], t));
  }
  if (aligned) return;
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int j = 0; j < kPacket; ++j) {
      const int64_t c = column(team, first, p, j, false);
      if (c < team.cols) store_float(y, t, team.base + c, v[p][j]);
    }
}

/// Calls f on all elements of a thread.
template <int P, class F>
__device__ inline void for_each(float (&v)[P][kPacket], F&& f) {
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int j = 0; j < kPacket; ++j) f(v[p][j]);
}

__device__ inline float exp_or_zero(float x) { return x < kMinNormalExp ? 0.0f : expf(x); }
/// What the maximum subtracts: nothing where all elements are -inf.
__device__ inline float shift_of(float most) { return most == kLowest ? 0.0f : most; }

/// From a row's maximum and sum to its results. An all -inf row has the sum 0, or NaN where there
/// is any (the maximum passes over it).
struct Scaling {
  float most, sum;
  bool log;
  __device__ float offset() const { return log ? logf(sum) : sum > 0 ? 1 / sum : sum; }
  /// e: the exponential, used without `log`.
  __device__ float operator()(float x, float e, float offset) const {
    if (!log) return e * offset;
    return most == kLowest ? most + sum : (x - most) - offset;
  }
};

template <int P>
__global__ void __launch_bounds__(kForwardThreads)
    softmax_registers(const void* x, void* y, DType t, int64_t rows, int64_t cols, bool log,
                      int threads, bool aligned) {
  const Team team = team_of(rows, cols, threads);
  float v[P][kPacket];
  load_row(x, t, team, 0, aligned, kLowest, v);
  float most = kLowest, sum = 0;
  for_each(v, [&](float e) { most = e > most ? e : most; });
  most = team_reduce(team, most, PlainMax{});
  const float shift = shift_of(most);
  for_each(v, [&](float& e) {
    const float power = exp_or_zero(e - shift);
    sum += power;
    if (!log) e = power;
  });
  const Scaling scaling{most, team_reduce(team, sum, Sum{}), log};
  const float offset = scaling.offset();
  for_each(v, [&](float& e) { e = scaling(e, e, offset); });
  store_row(y, t, team, 0, aligned, v);
}

__global__ void __launch_bounds__(kMaxThreads)
    softmax_online(const void* x, void* y, DType t, int64_t cols, bool log, bool aligned) {
  const Team team = team_of(int64_t(gridDim.x), cols, int(blockDim.x));
  const int64_t piece = int64_t(blockDim.x) * kPacket;
  float v[1][kPacket], most = kLowest, sum = 0;
  for (int64_t first = 0; first < cols; first += piece) {
    load_row(x, t, team, first, aligned, kLowest, v);
    float larger = most;
    for_each(v, [&](float e) { larger = e > larger ? e : larger; });
    if (larger > most) sum *= expf(most - larger);
    most = larger;
    const float shift = shift_of(most);
    for_each(v, [&](float e) { sum += exp_or_zero(e - shift); });
  }
  const float of_thread = most;
  most = block_reduce(most, PlainMax{});
  if (of_thread != kLowest) sum *= expf(of_thread - most);
  const Scaling scaling{most, block_sum(sum), log};
  const float offset = scaling.offset(), shift = shift_of(most);
  for (int64_t first = 0; first < cols; first += piece) {
    load_row(x, t, team, first, aligned, kLowest, v);
    for_each(v, [&](float& e) { e = scaling(e, log ? 0.0f : exp_or_zero(e - shift), offset); });
    store_row(y, t, team, first, aligned, v);
  }
}

/// What the backward pass sums over a row, and its results from that.
struct Slope {
  float sum;
  bool log, empty;
  float of_empty;  // 0, or NaN where y has any
  __device__ float operator()(float dy, float y) const {
    if (!log) return y * (dy - sum);
    return empty ? of_empty : dy - exp_or_zero(y) * sum;
  }
};
/// sum, the largest y and the count of NaN in y: of a thread.
__device__ inline Slope slope_of(const Team& team, float sum, float most, float nans, bool log) {
  Slope slope{team_reduce(team, sum, Sum{}), log, false, 0};
  if (!log) return slope;
  slope.empty = team_reduce(team, most, PlainMax{}) == kLowest;
  nans = team_reduce(team, nans, Sum{});  // by all: a warp may hold several rows
  if (nans > 0) slope.of_empty = NAN;
  return slope;
}
template <int P>
__device__ inline void gather_slope(const float (&dy)[P][kPacket], const float (&y)[P][kPacket],
                                    bool log, float& sum, float& most, float& nans) {
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int j = 0; j < kPacket; ++j) {
      const float v = y[p][j];
      sum = log ? sum + dy[p][j] : fmaf(dy[p][j], v, sum);
      most = v > most ? v : most;
      if (v != v) nans += 1;
    }
}
template <int P>
__device__ inline void apply_slope(const Slope& slope, float (&dy)[P][kPacket],
                                   const float (&y)[P][kPacket]) {
#pragma unroll
  for (int p = 0; p < P; ++p)
#pragma unroll
    for (int j = 0; j < kPacket; ++j) dy[p][j] = slope(dy[p][j], y[p][j]);
}

template <int P>
__global__ void __launch_bounds__(kMaxThreads)
    softmax_backward_registers(const void* dy, const void* y, void* dx, DType t, int64_t rows,
                               int64_t cols, bool log, int threads, bool aligned) {
  const Team team = team_of(rows, cols, threads);
  float v[P][kPacket], of_y[P][kPacket], sum = 0, most = kLowest, nans = 0;
  load_row(dy, t, team, 0, aligned, 0, v);
  load_row(y, t, team, 0, aligned, log ? kLowest : 0, of_y);
  gather_slope(v, of_y, log, sum, most, nans);
  apply_slope(slope_of(team, sum, most, nans, log), v, of_y);
  store_row(dx, t, team, 0, aligned, v);
}

__global__ void __launch_bounds__(kMaxThreads)
    softmax_backward_twice(const void* dy, const void* y, void* dx, DType t, int64_t cols, bool log,
                           bool aligned) {
  const Team team = team_of(int64_t(gridDim.x), cols, int(blockDim.x));
  const int64_t piece = int64_t(blockDim.x) * kPacket;
  float v[1][kPacket], of_y[1][kPacket], sum = 0, most = kLowest, nans = 0;
  for (int64_t first = 0; first < cols; first += piece) {
    load_row(dy, t, team, first, aligned, 0, v);
    load_row(y, t, team, first, aligned, log ? kLowest : 0, of_y);
    gather_slope(v, of_y, log, sum, most, nans);
  }
  const Slope slope = slope_of(team, sum, most, nans, log);
  for (int64_t first = 0; first < cols; first += piece) {
    load_row(dy, t, team, first, aligned, 0, v);
    load_row(y, t, team, first, aligned, log ? kLowest : 0, of_y);
    apply_slope(slope, v, of_y);
    store_row(dx, t, team, first, aligned, v);
  }
}

/// A launch of teams whose threads hold `per_thread` columns each.
struct RowLaunch {
  Launch shape;
  int threads;  // of a team
};
RowLaunch row_launch(int64_t rows, int64_t cols, int64_t per_thread, const Stream& stream) {
  if (cols > kWarp * per_thread) {
    const int64_t block = row_block(cols, per_thread);
    return {{.grid = rows, .block = block, .stream = stream}, int(block)};
  }
  const int64_t threads = int64_t(std::bit_ceil(uint64_t(ceil_div(cols, per_thread))));
  const int64_t block = std::min(kTeamsBlock, round_up(rows * threads, kWarp));
  return {{.grid = ceil_div(rows * threads, block), .block = block, .stream = stream},
          int(threads)};
}

}  // namespace

void run(Cuda, const SoftmaxForward& k) {
  require_packet_dtype("softmax", k.dtype);
  if (k.rows * k.cols == 0) return;
  const bool aligned = k.cols % kPacket == 0 && is_aligned(k.x, k.y);
  const auto launch_registers = [&]<int P>(std::integral_constant<int, P>) {
    const auto [shape, threads] = row_launch(k.rows, k.cols, P * kPacket, k.stream);
    launch(softmax_registers<P>, shape, k.x, k.y, k.dtype, k.rows, k.cols, k.log, threads, aligned);
  };
  if (k.cols <= kWarp * kPacket)
    launch_registers(std::integral_constant<int, 1>());
  else if (k.cols <= kForwardThreads * kForwardPackets * kPacket)
    launch_registers(std::integral_constant<int, kForwardPackets>());
  else
    launch(softmax_online, {.grid = k.rows, .block = kMaxThreads, .stream = k.stream}, k.x, k.y,
           k.dtype, k.cols, k.log, aligned);
}

void run(Cuda, const SoftmaxBackward& k) {
  require_packet_dtype("softmax backward", k.dtype);
  if (k.rows * k.cols == 0) return;
  const bool aligned = k.cols % kPacket == 0 && is_aligned(k.dy, k.y, k.dx);
  constexpr int64_t kPerThread = kBackwardPackets * kPacket;
  const auto [shape, threads] = row_launch(k.rows, k.cols, kPerThread, k.stream);
  if (k.cols <= kMaxThreads * kPerThread)
    launch(softmax_backward_registers<kBackwardPackets>, shape, k.dy, k.y, k.dx, k.dtype, k.rows,
           k.cols, k.log, threads, aligned);
  else
    launch(softmax_backward_twice, {.grid = k.rows, .block = kMaxThreads, .stream = k.stream}, k.dy,
           k.y, k.dx, k.dtype, k.cols, k.log, aligned);
}

}  // namespace olm::kernels
