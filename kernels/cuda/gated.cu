// Gated linear units: y = value · act(gate), and their gradient. A thread makes up to 16 bytes of a
// row, each tensor is read once and written once: bound by memory. Threads go on over the grid.
#include <olm/kernels/gated.h>
#include <olm/kernels/cuda/activation.cuh>
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels {
namespace {

/// A piece of a row.
struct Piece {
  int64_t row, col, left;
};
template <int N>
__device__ inline Piece piece_of(int64_t i, int64_t pieces, int64_t hidden) {
  const Division at = divide(i, pieces);
  return {at.quotient, at.remainder * N, hidden - at.remainder * N};
}

template <class Act, class T>
__global__ void __launch_bounds__(kGridBlock)
    gated_forward(T* y, const T* x, int64_t rows, int64_t hidden, bool aligned) {
  constexpr int N = kVec<T>;
  const int64_t pieces = ceil_div(hidden, N);
  for (int64_t i = global_thread(); i < rows * pieces; i += global_threads()) {
    const Piece at = piece_of<N>(i, pieces, hidden);
    const T* from = x + at.row * 2 * hidden + at.col;
    float value[N], gate[N];
    load_floats(value, from, aligned, at.left);
    load_floats(gate, from + hidden, aligned, at.left);
#pragma unroll
    for (int j = 0; j < N; ++j) value[j] *= Act().f(gate[j]);
    store_floats(y + at.row * hidden + at.col, value, aligned, at.left);
  }
}

template <class Act, class T>
__global__ void __launch_bounds__(kGridBlock)
    gated_backward(T* dx, const T* dy, const T* x, int64_t rows, int64_t hidden, bool aligned) {
  constexpr int N = kVec<T>;
  const int64_t pieces = ceil_div(hidden, N);
  for (int64_t i = global_thread(); i < rows * pieces; i += global_threads()) {
    const Piece at = piece_of<N>(i, pieces, hidden);
    const T* from = x + at.row * 2 * hidden + at.col;
    float value[N], gate[N], g[N];
    load_floats(value, from, aligned, at.left);
    load_floats(gate, from + hidden, aligned, at.left);
    load_floats(g, dy + at.row * hidden + at.col, aligned, at.left);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float slope = value[j] * activation_gradient(Act(), gate[j]);
      value[j] = g[j] * Act().f(gate[j]);
      gate[j] = g[j] * slope;
    }
    T* to = dx + at.row * 2 * hidden + at.col;
    store_floats(to, value, aligned, at.left);
    store_floats(to + hidden, gate, aligned, at.left);
  }
}

template <class T>
Launch launch_of(int64_t rows, int64_t hidden, const Stream& stream) {
  return grid_over(rows * ceil_div(hidden, kVec<T>), stream, 1 << 16);
}

/// Calls f.template operator()<Act, T>().
template <class Kernel, class F>
void visit_gated(const Kernel& k, F&& f) {
  visit_activation(k.activation, [&]<class Act>(Act) {
    visit_cuda_float(k.dtype, [&]<class T>() { f.template operator()<Act, T>(); });
  });
}

}  // namespace

void run(Cuda, const GatedForward& k) {
  visit_gated(k, [&]<class Act, class T>() {
    launch(gated_forward<Act, T>, launch_of<T>(k.rows, k.hidden, k.stream), out<T>(k.y), in<T>(k.x),
           k.rows, k.hidden, is_vectorizable<T>(k.hidden, k.y, k.x));
  });
}

void run(Cuda, const GatedBackward& k) {
  visit_gated(k, [&]<class Act, class T>() {
    launch(gated_backward<Act, T>, launch_of<T>(k.rows, k.hidden, k.stream), out<T>(k.dx),
           in<T>(k.dy), in<T>(k.x), k.rows, k.hidden,
           is_vectorizable<T>(k.hidden, k.dx, k.dy, k.x));
  });
}

}  // namespace olm::kernels
