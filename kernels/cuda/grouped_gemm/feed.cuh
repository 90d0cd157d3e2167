#pragma once
// One operand of a tile on its way to tensor cores: from global memory to shared memory, kDepth of
// the depth at a time, and from there to fragments. In shared memory it lies as it does in global
// memory, in rows of chunks of 8 elements (16 bytes) whose order within a row is permuted, so that
// the 8 rows of ldmatrix are in different banks.
#include <olm/kernels/cuda/gemm/quad.cuh>
#include <olm/kernels/cuda/launch.cuh>

namespace olm::kernels::cuda_grouped {

inline constexpr int kDepth = 32;  // of a stage

/// An operand as a tile sees it: kExtent of its side of C, from `origin` on, and all of the depth.
struct Source {
  const void* data = nullptr;
  DType dtype = f32;
  int64_t ld = 0;  ///< elements between rows
  int64_t origin = 0, side = 0, depth = 0;
  bool vectors = false;  ///< rows begin at multiples of 16 bytes
};

/// `in_depth`: rows run along the depth; else along the side of C. `async`: elements are T already
/// and rows begin at multiples of 16 bytes, so that they are copied by cp.async; else they pass
/// through registers, where they are rounded to T.
template <class T, int kExtent, bool in_depth, bool async, int kThreads>
class Feed {
 public:
  static constexpr int kRowChunks = (in_depth ? kDepth : kExtent) / 8;
  static constexpr int kStage = kExtent * kDepth;  ///< elements

  __device__ explicit Feed(const Source& source) : source_(source) {}

  /// Starts the copy of the depth from k0 on.
  __device__ void copy(T* stage, int64_t k0) const {
    if constexpr (async) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const Chunk at = chunk(c, k0);
        const T* from = in<T>(source_.data) + (at.count > 0 ? at.offset : 0);
        cp_async16(stage + at.place, from, at.count > 0);
      }
    }
  }

  /// Loads it to registers; put() rounds it to the stage.
  __device__ void fetch(int64_t k0) {
    if constexpr (!async) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const Chunk at = chunk(c, k0);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int left = at.count - 4 * half;
          cuda_gemm::load_quad(source_.data, source_.dtype, at.offset + 4 * half, source_.vectors,
                               left < 0   ? 0
                               : left < 4 ? left
                                          : 4,
                               held_[c][half]);
        }
      }
    }
  }
  __device__ void put(T* stage) const {
    if constexpr (!async) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const auto& h = held_[c];
        store_vec(reinterpret_cast<uint32_t*>(stage + chunk(c, 0).place),
                  Vec<uint32_t, 4>{pack2<T>(h[0][0], h[0][1]), pack2<T>(h[0][2], h[0][3]),
                                   pack2<T>(h[1][0], h[1][1]), pack2<T>(h[1][2], h[1][3])});
      }
    }
  }

  /// The fragment of A for rows i + [0, 16) and depth k + [0, 16) of the stage.
  __device__ static void load_a(const T* stage, int i, int k, uint32_t (&a)[4]) {
    const int lane = int(threadIdx.x) % 32, r = lane % 8, upper = lane / 8 % 2, right = lane / 16;
    if constexpr (in_depth)
      ldmatrix_x4<false>(a, stage + place(i + r + 8 * upper, k / 8 + right));
    else
      ldmatrix_x4<true>(a, stage + place(k + r + 8 * right, i / 8 + upper));
  }
  /// Those of B for columns j + [0, 8) (b[0], b[1]) and j + [8, 16) (b[2], b[3]).
  __device__ static void load_b(const T* stage, int j, int k, uint32_t (&b)[4]) {
    const int lane = int(threadIdx.x) % 32, r = lane % 8, lower = lane / 8 % 2, next = lane / 16;
    if constexpr (in_depth)
      ldmatrix_x4<false>(b, stage + place(j + r + 8 * next, k / 8 + lower));
    else
      ldmatrix_x4<true>(b, stage + place(k + r + 8 * lower, j / 8 + next));
  }

 private:
  static constexpr int kChunks = kStage / 8 / kThreads;
  static_assert(kChunks * kThreads * 8 == kStage && kRowChunks >= 4);

  /// Where a chunk lies in global memory and in the stage, and how many of its elements there are.
  struct Chunk {
    int64_t offset;
    int place, count;
  };

  /// Elements before a chunk of a row. Rows of 64 bytes have the permutation of their pair.
  __device__ static int place(int row, int chunk) {
    const int key = kRowChunks == 4 ? row / 2 % 4 : row % 8;
    return (row * kRowChunks + (chunk ^ key)) * 8;
  }
  __device__ Chunk chunk(int c, int64_t k0) const {
    const int index = c * kThreads + int(threadIdx.x);
    const int row = index / kRowChunks, column = index % kRowChunks;
    const int64_t i = source_.origin + (in_depth ? row : column * 8);
    const int64_t k = k0 + (in_depth ? column * 8 : row);
    const int64_t left = in_depth ? (i < source_.side ? source_.depth - k : 0)
                                  : (k < source_.depth ? source_.side - i : 0);
    return {.offset = in_depth ? i * source_.ld + k : k * source_.ld + i,
            .place = place(row, column),
            .count = int(left < 0   ? 0
                         : left < 8 ? left
                                    : 8)};
  }

  Source source_;
  float held_[async ? 1 : kChunks][2][4];
};

}  // namespace olm::kernels::cuda_grouped
