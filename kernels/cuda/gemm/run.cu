// GEMM. The multiplications are cuBLASLt's (lt.cu), with the epilogue where the library has it.
// Else sums in f32 go to scratch in panels that stay in L2, and a kernel makes C of each, so that
// memory sees C, Z and residual once. An f32 operand beside one of 16 bits is rounded to it in
// scratch first: 6 bytes an element. What the library does not take is multiplied by tiles of our
// own in f32, epilogue included (simt.cuh): a block for 64 x 64 of C.
#include <algorithm>

#include <olm/kernels/copy.h>
#include <olm/kernels/cuda/gemm/lt.cuh>
#include <olm/kernels/cuda/gemm/simt.cuh>

namespace olm::kernels {
namespace cuda_gemm {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kPanelElements = int64_t(8) << 20;  // 32 MiB of sums: L2 of large cards has 50
constexpr int64_t kPanelRows = 128;                   // whole tiles of the library's kernels

/// The operands of a batch.
struct Members {
  Strided2D a, b;
  int64_t a_stride = 0, b_stride = 0;  // elements
};

__device__ inline Strided2D member(Strided2D x, int64_t offset) {
  const int64_t bytes = x.dtype == DType::f32 ? 4 : 2;
  x.data = in<char>(x.data) + offset * bytes;
  return x;
}

__global__ void __launch_bounds__(kSimtThreads)
    gemm_simt(const __grid_constant__ Members operands, const __grid_constant__ Epilogue e,
              int64_t m, int64_t n, int64_t k, float alpha) {
  const int64_t tiles_n = (n + kSimtTile - 1) / kSimtTile,
                tiles_m = (m + kSimtTile - 1) / kSimtTile;
  const int64_t n0 = blockIdx.x % tiles_n * kSimtTile;
  const int64_t m0 = blockIdx.x / tiles_n % tiles_m * kSimtTile;
  const int64_t y = blockIdx.x / (tiles_n * tiles_m);
  float sums[4][4] = {};
  multiply_simt(member(operands.a, y * operands.a_stride),
                member(operands.b, y * operands.b_stride), m0, n0, m, n, k, sums);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] *= alpha;
  finish_simt(e, y, m0, n0, m, n, sums);
}

/// C of tight sums [batch, m, n]. A thread makes four neighbours; threads go on over the grid.
__global__ void __launch_bounds__(kBlock)
    gemm_epilogue(const float* sums, const __grid_constant__ Epilogue e, int64_t batch, int64_t m,
                  int64_t n) {
  const int64_t quads = (n + 3) / 4, total = batch * m * quads;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const int64_t col = i % quads * 4, row = i / quads;
    const int count = int(n - col < 4 ? n - col : 4);
    float v[4];
    load_quad(sums, f32, row * n + col, n % 4 == 0, count, v);
    finish(e, row / m, row % m, col, count, v);
  }
}

void run_simt(const Gemm& g) {
  const auto aligned = [&](Strided2D x, int64_t stride) {
    x.vectors = x.vectors && (g.batch == 1 || stride % 4 == 0);
    return x;
  };
  const Members operands{.a = aligned(strided(g.a, g.a_dtype, g.lda, !g.transpose_a), g.a_stride),
                         .b = aligned(strided(g.b, g.b_dtype, g.ldb, g.transpose_b), g.b_stride),
                         .a_stride = g.a_stride,
                         .b_stride = g.b_stride};
  const int64_t tiles = g.batch * ceil_div(g.m, kSimtTile) * ceil_div(g.n, kSimtTile);
  launch(gemm_simt,
         {.grid = tiles, .block = kSimtThreads, .shared = kSimtShared, .stream = g.stream},
         operands, epilogue_of(g), g.m, g.n, g.k, float(g.alpha));
}

bool only_stores(const Gemm& g) {
  return !g.bias && !g.preactivation && !g.residual && g.activation == Activation::none;
}

/// The GEMM of rows [row, row + rows) of members [first, first + count), its C tight sums in f32.
Gemm sums_of(const Gemm& g, int64_t first, int64_t count, int64_t row, int64_t rows, float* sums) {
  const auto moved = [](const void* p, DType t, int64_t elements) {
    return static_cast<const char*>(p) + elements * int64_t(size_of(t));
  };
  Gemm part = g;
  part.a = moved(g.a, g.a_dtype, first * g.a_stride + row * (g.transpose_a ? 1 : g.lda));
  part.b = moved(g.b, g.b_dtype, first * g.b_stride);
  part.c = sums;
  part.c_dtype = f32;
  part.ldc = g.n;
  part.c_stride = rows * g.n;
  part.m = rows;
  part.batch = count;
  part.accumulate = false;
  part.bias = part.residual = part.preactivation = nullptr;
  part.activation = Activation::none;
  return part;
}

/// By sums in scratch, a panel at a time.
void run_panels(const Gemm& g) {
  const int64_t members = std::clamp<int64_t>(kPanelElements / (g.m * g.n), 1, g.batch);
  const int64_t rows = std::min(g.m, ceil_div(kPanelElements, g.n * kPanelRows) * kPanelRows);
  const auto sums = g.stream.scratch<float>(size_t(members * rows * g.n));
  for (int64_t first = 0; first < g.batch; first += members)
    for (int64_t row = 0; row < g.m; row += rows) {
      const int64_t count = std::min(members, g.batch - first), part = std::min(rows, g.m - row);
      const Gemm multiply = sums_of(g, first, count, row, part, sums);
      if (!run_lt(multiply)) run_simt(multiply);
      launch(gemm_epilogue,
             {.grid = blocks_for(count * part * ceil_div(g.n, 4), kBlock),
              .block = kBlock,
              .stream = g.stream},
             sums.get(), epilogue_of(g, first * g.c_stride + row * g.ldc), count, part, g.n);
    }
}

/// With operands of one dtype and leading dimensions given.
void run_uniform(const Gemm& g) {
  if (g.k == 0) return run_simt(g);
  if (lt_takes(g) && run_lt(g)) return;
  if (g.a_dtype != g.b_dtype || (only_stores(g) && lt_takes(g))) return run_simt(g);
  run_panels(g);
}

/// An operand, and memory for it where it is to be of another dtype.
class Rounded {
 public:
  /// A matrix of `rows` rows of `width` elements, for each member of a batch. 0 elements of memory
  /// are taken where its dtype is already `to`.
  Rounded(const Gemm& g, DType from, DType to, int64_t rows, int64_t width, bool one_member)
      : members_(one_member ? 1 : g.batch),
        rows_(rows),
        width_(width),
        from_(from),
        to_(to),
        memory_(g.stream.scratch<char>(
            from == to ? 0 : size_t(members_ * rows * width) * size_of(to))) {}

  /// Queues the rounding and points the operand to its result.
  void apply(const void*& data, DType& dtype, int64_t& ld, int64_t& stride, const Stream& stream) {
    if (from_ == to_) return;
    run(Cuda{}, Copy{.from = from_,
                     .to = to_,
                     .x = data,
                     .y = memory_.get(),
                     .rank = 3,
                     .shape = {members_, rows_, width_},
                     .x_strides = {stride, ld, 1},
                     .y_strides = {rows_ * width_, width_, 1},
                     .stream = stream});
    data = memory_.get();
    dtype = to_;
    ld = width_;
    stride = members_ == 1 ? 0 : rows_ * width_;
  }

 private:
  int64_t members_, rows_, width_;
  DType from_, to_;
  Scratch<char> memory_;
};

/// The dtype that operands are multiplied in; where they have to stay as they are, f32 of one.
DType common_dtype(DType own, DType other) {
  return own == f32 && (other == bf16 || other == f16) ? other : own;
}

/// Rounds operands and bias to what the library takes, where it may take the rest.
void run_strided(Gemm g) {
  const bool multiplies = g.k > 0;
  const DType a = multiplies ? common_dtype(g.a_dtype, g.b_dtype) : g.a_dtype;
  const DType b = multiplies ? common_dtype(g.b_dtype, g.a_dtype) : g.b_dtype;
  const int64_t a_rows = g.transpose_a ? g.k : g.m, b_rows = g.transpose_b ? g.n : g.k;
  Rounded of_a(g, g.a_dtype, a, a_rows, g.m * g.k / std::max<int64_t>(a_rows, 1), g.a_stride == 0);
  Rounded of_b(g, g.b_dtype, b, b_rows, g.k * g.n / std::max<int64_t>(b_rows, 1), g.b_stride == 0);
  of_a.apply(g.a, g.a_dtype, g.lda, g.a_stride, g.stream);
  of_b.apply(g.b, g.b_dtype, g.ldb, g.b_stride, g.stream);
  Gemm with_bias = g;
  with_bias.bias_dtype = g.c_dtype;
  const bool rounds_bias =
      multiplies && g.bias && g.bias_dtype == f32 && g.c_dtype != f32 && lt_takes(with_bias);
  Rounded of_bias(g, g.bias_dtype, rounds_bias ? g.c_dtype : g.bias_dtype, 1, g.n, true);
  int64_t ld = g.n, stride = 0;
  of_bias.apply(g.bias, g.bias_dtype, ld, stride, g.stream);
  run_uniform(g);
}

}  // namespace
}  // namespace cuda_gemm

void run(Cuda, const Gemm& call) {
  if (call.batch <= 0) return;
  check(call);
  visit_cuda_float(call.c_dtype, [&]<class T>() {});  // refuses f64
  if (call.n == 0 || call.m == 0) return;
  Gemm g = call;
  if (g.lda == 0) g.lda = g.transpose_a ? g.m : g.k;
  if (g.ldb == 0) g.ldb = g.transpose_b ? g.k : g.n;
  if (g.ldc == 0) g.ldc = g.n;
  if (!g.a_list && !g.b_list && !g.c_list) return cuda_gemm::run_strided(g);
  const auto moved = [](auto* p, DType t, int64_t elements) {
    using Byte =
        std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(p)>>, const char, char>;
    return p ? static_cast<Byte*>(p) + elements * int64_t(size_of(t)) : nullptr;
  };
  Gemm one = g;
  one.batch = 1;
  one.a_list = one.b_list = nullptr;
  one.c_list = nullptr;
  for (int64_t i = 0; i < g.batch; ++i) {
    one.a = g.a_list ? g.a_list[i] : moved(g.a, g.a_dtype, i * g.a_stride);
    one.b = g.b_list ? g.b_list[i] : moved(g.b, g.b_dtype, i * g.b_stride);
    one.c = g.c_list ? g.c_list[i] : moved(g.c, g.c_dtype, i * g.c_stride);
    one.preactivation = moved(g.preactivation, g.c_dtype, i * g.c_stride);
    one.residual = moved(g.residual, g.c_dtype, i * g.c_stride);
    cuda_gemm::run_strided(one);
  }
}

}  // namespace olm::kernels
