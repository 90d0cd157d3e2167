// Copies with conversion, filling, y = a·x + b·y, and the search for NaN and infinity: all bound by
// memory. One thread makes one element, or 16 bytes where everything lies in a line; threads go on
// over the grid. Traffic: each element of x read once, each of y written once (axpby also reads y).
#include <bit>

#include <olm/kernels/base/convert.h>
#include <olm/kernels/copy.h>
#include <olm/kernels/cuda/row.cuh>
#include <olm/kernels/cuda/strided.cuh>

namespace olm::kernels {
namespace {

/// Element i of memory of any dtype, as To.
template <class To>
__device__ inline To load_as(const void* x, DType from, int64_t i) {
  switch (from) {
    case DType::f32:
      return convert<To>(in<float>(x)[i]);
    case DType::bf16:
      return convert<To>(in<bfloat16_t>(x)[i]);
    case DType::f16:
      return convert<To>(in<float16_t>(x)[i]);
    case DType::i32:
      return convert<To>(in<int32_t>(x)[i]);
    case DType::i64:
      return convert<To>(in<int64_t>(x)[i]);
    default:
      return convert<To>(in<bool>(x)[i]);
  }
}

template <class To>
__global__ void copy_strided(const void* x, DType from, To* y,
                             const __grid_constant__ StridedShape<2> at) {
  for (int64_t i = global_thread(); i < at.n; i += global_threads()) {
    const Offsets<2> offsets = offsets_of(at, i);
    y[offsets.of[1]] = load_as<To>(x, from, offsets.of[0]);
  }
}

/// Both in a line.
template <class From, class To>
__global__ void convert_line(const From* x, To* y, int64_t n) {
  constexpr int N = kVecBetween<From, To>;
  const int64_t whole = n / N;
  for (int64_t i = global_thread(); i < whole; i += global_threads()) {
    float v[N];
    load_floats(v, x + i * N);
    store_floats(y + i * N, v);
  }
  const int64_t rest = whole * N + global_thread();
  if (rest < n) y[rest] = from_float<To>(to_float(x[rest]));
}

template <class T>
__global__ void fill_strided(T* y, const __grid_constant__ StridedShape<1> at, T value) {
  for (int64_t i = global_thread(); i < at.n; i += global_threads())
    y[offsets_of(at, i).of[0]] = value;
}

template <class T>
__global__ void arange(T* y, int64_t n) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) y[i] = convert<T>(i);
}

template <class T>
__global__ void axpby(const T* x, T* y, int64_t n, float x_scale, float y_scale) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    float value = y_scale * to_float(y[i]);
    if (x_scale != 0) value = fmaf(x_scale, to_float(x[i]), value);
    y[i] = from_float<T>(value);
  }
}

__global__ void clear_flag(int32_t* found) { *found = 0; }

template <class T>
__global__ void find_nonfinite(const T* x, int32_t* found, int64_t n) {
  bool bad = false;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const float value = to_float(x[i]);
    bad |= !(fabsf(value) <= 3.4028235e38f);
  }
  if (__any_sync(kAllLanes, bad) && threadIdx.x % kWarp == 0) atomicExch(found, 1);
}

int64_t count(const Copy& k) {
  int64_t n = 1;
  for (int i = 0; i < k.rank; ++i) n *= k.shape[i];
  return n;
}

/// The shape of a copy of at least one dimension, with some of its strides.
template <int N>
StridedShape<N> shape_of(const Copy& k, const std::array<int64_t, 8>* const (&strides)[N]) {
  StridedShape<N> at{.n = count(k), .rank = k.rank};
  for (int d = 0; d < k.rank; ++d) {
    at.shape[d] = k.shape[d];
    for (int i = 0; i < N; ++i) at.strides[i][d] = (*strides[i])[d];
  }
  return at;
}

bool is_wide_float(DType t) { return t == f32 || t == bf16 || t == f16; }

}  // namespace

void run(Cuda, const Copy& call) {
  if (count(call) == 0) return;
  const Copy k = simplified(call);
  const int64_t n = count(k);
  const bool line = k.rank == 1 && k.x_strides[0] == 1 && k.y_strides[0] == 1;
  if (line && k.from == k.to) {
    OLM_CUDA_CHECK(cudaMemcpyAsync(k.y, k.x, size_t(n) * size_of(k.from), cudaMemcpyDeviceToDevice,
                                   static_cast<cudaStream_t>(k.stream.native)));
  } else if (line && is_wide_float(k.from) && is_wide_float(k.to) && is_aligned(k.x, k.y)) {
    visit_cuda_float(k.from, [&]<class From>() {
      visit_cuda_float(k.to, [&]<class To>() {
        launch(convert_line<From, To>, grid_over(ceil_div(n, kVecBetween<From, To>), k.stream),
               in<From>(k.x), out<To>(k.y), n);
      });
    });
  } else {
    require(k.from != f64, "cuda: copy has no f64");
    visit_cuda_any(k.to, [&]<class To>() {
      launch(copy_strided<To>, grid_over(n, k.stream), k.x, k.from, out<To>(k.y),
             shape_of<2>(k, {&k.x_strides, &k.y_strides}));
    });
  }
}

void run(Cuda, const Fill& k) {
  const Copy view = {.rank = k.rank, .shape = k.shape, .y_strides = k.strides};
  const int64_t n = count(view);
  if (n == 0) return;
  const Copy merged = simplified(view);
  // f64, in which steps keep sums in device memory, is filled by its bits.
  const bool bits = k.dtype == f64;
  const int64_t whole = bits ? std::bit_cast<int64_t>(k.value) : k.whole;
  visit_cuda_any(bits ? i64 : k.dtype, [&]<class T>() {
    const T value = is_float(k.dtype) && !bits ? convert<T>(k.value) : convert<T>(whole);
    launch(fill_strided<T>, grid_over(n, k.stream), out<T>(k.y),
           shape_of<1>(merged, {&merged.y_strides}), value);
  });
}

void run(Cuda, const Arange& k) {
  visit_cuda_any(k.dtype,
                 [&]<class T>() { launch(arange<T>, grid_over(k.n, k.stream), out<T>(k.y), k.n); });
}

void run(Cuda, const Axpby& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    launch(axpby<T>, grid_over(k.n, k.stream), in<T>(k.x), out<T>(k.y), k.n, float(k.x_scale),
           float(k.y_scale));
  });
}

void run(Cuda, const FindNonfinite& k) {
  launch(clear_flag, {.grid = 1, .block = 1, .stream = k.stream}, k.found);
  visit_cuda_float(k.dtype, [&]<class T>() {
    launch(find_nonfinite<T>, grid_over(k.n, k.stream), in<T>(k.x), k.found, k.n);
  });
}

}  // namespace olm::kernels
