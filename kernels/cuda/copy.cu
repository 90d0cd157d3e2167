// Copies with conversion, filling, y = a·x + b·y, and the search for NaN and infinity: all bound by
// memory. One thread makes one element, or 16 bytes where everything lies in a line; threads go on
// over the grid. Traffic: each element of x read once, each of y written once (axpby also reads y).
#include <olm/kernels/base/convert.h>
#include <olm/kernels/copy.h>
#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/reduce.cuh>
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kBlock = 256;

/// Where element i of a shape lies in two strided views of it.
struct StridedPair {
  int rank = 0;
  int64_t shape[8] = {}, x_strides[8] = {}, y_strides[8] = {};
};
struct Offsets {
  int64_t x, y;
};
__device__ inline Offsets offsets_of(const StridedPair& at, int64_t i) {
  Offsets offsets{0, 0};
  for (int d = at.rank - 1; d >= 0; --d) {
    const int64_t index = i % at.shape[d];
    i /= at.shape[d];
    offsets.x += index * at.x_strides[d];
    offsets.y += index * at.y_strides[d];
  }
  return offsets;
}

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
__global__ void copy_strided(const void* x, DType from, To* y, StridedPair at, int64_t n) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const Offsets offsets = offsets_of(at, i);
    y[offsets.y] = load_as<To>(x, from, offsets.x);
  }
}

/// Both in a line: 8 elements to a thread.
template <class From, class To>
__global__ void convert_line(const From* x, To* y, int64_t n) {
  constexpr int kWide = int(16 / std::max(sizeof(From), sizeof(To)));
  const int64_t whole = n / kWide;
  for (int64_t i = global_thread(); i < whole; i += global_threads()) {
    const Vec<From, kWide> a = load_vec<From, kWide>(x + i * kWide);
    Vec<To, kWide> b;
#pragma unroll
    for (int j = 0; j < kWide; ++j) b.v[j] = from_float<To>(to_float(a.v[j]));
    store_vec(y + i * kWide, b);
  }
  const int64_t rest = whole * kWide + global_thread();
  if (rest < n) y[rest] = from_float<To>(to_float(x[rest]));
}

template <class T>
__global__ void fill_strided(T* y, StridedPair at, T value, int64_t n) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) y[offsets_of(at, i).y] = value;
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

StridedPair pair_of(const Copy& k) {
  StridedPair at{.rank = k.rank};
  for (int i = 0; i < k.rank; ++i) {
    at.shape[i] = k.shape[i];
    at.x_strides[i] = k.x_strides[i];
    at.y_strides[i] = k.y_strides[i];
  }
  return at;
}

Launch pointwise_launch(int64_t n, const Stream& stream) {
  return {.grid = blocks_for(n, kBlock), .block = kBlock, .stream = stream};
}

bool is_wide_float(DType t) { return t == f32 || t == bf16 || t == f16; }
bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void run(Cuda, const Copy& call) {
  if (count(call) == 0) return;
  const Copy k = simplified(call);
  const int64_t n = count(k);
  const bool line = k.rank == 1 && k.x_strides[0] == 1 && k.y_strides[0] == 1;
  if (line && k.from == k.to) {
    OLM_CUDA_CHECK(cudaMemcpyAsync(k.y, k.x, size_t(n) * size_of(k.from), cudaMemcpyDeviceToDevice,
                                   static_cast<cudaStream_t>(k.stream.native)));
  } else if (line && is_wide_float(k.from) && is_wide_float(k.to) && is_aligned(k.x) &&
             is_aligned(k.y)) {
    visit_cuda_float(k.from, [&]<class From>() {
      visit_cuda_float(k.to, [&]<class To>() {
        launch(convert_line<From, To>, pointwise_launch(n, k.stream), in<From>(k.x), out<To>(k.y),
               n);
      });
    });
  } else {
    require(k.from != f64, "cuda: copy has no f64");
    visit_cuda_any(k.to, [&]<class To>() {
      launch(copy_strided<To>, pointwise_launch(n, k.stream), k.x, k.from, out<To>(k.y), pair_of(k),
             n);
    });
  }
}

void run(Cuda, const Fill& k) {
  const Copy view = {.rank = k.rank, .shape = k.shape, .y_strides = k.strides};
  const int64_t n = count(view);
  if (n == 0) return;
  const Copy merged = simplified(view);
  visit_cuda_any(k.dtype, [&]<class T>() {
    const T value = is_float(k.dtype) ? convert<T>(k.value) : convert<T>(k.whole);
    launch(fill_strided<T>, pointwise_launch(n, k.stream), out<T>(k.y), pair_of(merged), value, n);
  });
}

void run(Cuda, const Arange& k) {
  visit_cuda_any(k.dtype, [&]<class T>() {
    launch(arange<T>, pointwise_launch(k.n, k.stream), out<T>(k.y), k.n);
  });
}

void run(Cuda, const Axpby& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    launch(axpby<T>, pointwise_launch(k.n, k.stream), in<T>(k.x), out<T>(k.y), k.n,
           float(k.x_scale), float(k.y_scale));
  });
}

void run(Cuda, const FindNonfinite& k) {
  launch(clear_flag, {.grid = 1, .block = 1, .stream = k.stream}, k.found);
  visit_cuda_float(k.dtype, [&]<class T>() {
    launch(find_nonfinite<T>, pointwise_launch(k.n, k.stream), in<T>(k.x), k.found, k.n);
  });
}

}  // namespace olm::kernels
