#pragma once
// What the kernels of grouped GEMM know of its groups, in device memory: pointers of each, which
// the host has as lists, and tiles of rows, which only the device can cut.
#include <olm/kernels/grouped_gemm.h>
#include <olm/kernels/cuda/gemm/epilogue.cuh>
#include <olm/kernels/cuda/gemm/epilogue_backward.cuh>
#include <olm/kernels/cuda/group_rows.cuh>

namespace olm::kernels::cuda_grouped {

using cuda_gemm::Group;

/// Some rows of a group, or none.
struct Tile {
  int32_t group = 0, first = 0, rows = 0;
};

/// Queues the upload of `groups` entries made by group_of(i) to `to`, as kernel arguments.
inline constexpr int kGroupsPerLaunch = 100;  // 3200 of at most 4096 bytes of arguments
struct SomeGroups {
  Group entries[kGroupsPerLaunch];
};
void upload(const SomeGroups& groups, int count, Group* to, const Stream& stream);
template <class GroupOf>
void upload_groups(int64_t groups, Group* to, const Stream& stream, const GroupOf& group_of) {
  for (int64_t begin = 0; begin < groups; begin += kGroupsPerLaunch) {
    const int count = int(std::min<int64_t>(kGroupsPerLaunch, groups - begin));
    SomeGroups some = {};
    for (int i = 0; i < count; ++i) some.entries[i] = group_of(begin + i);
    upload(some, count, to + begin, stream);
  }
}

/// At most so many tiles of `size` rows have the groups, wherever their offsets lie.
inline int64_t max_tiles(int64_t rows, int64_t groups, int64_t size) {
  return rows / size + std::min(groups, rows);
}
/// Queues the cutting of each group into tiles of `size` rows, in order; those left over of
/// max_tiles have no rows.
void list_tiles(const GroupedGemm& g, int64_t size, Tile* tiles);

/// Sizes and pointers that all groups share.
struct Call {
  const void *a = nullptr, *b = nullptr;  // b: by_depth
  DType a_dtype = f32, b_dtype = f32;
  const Group* groups = nullptr;
  const Tile* tiles = nullptr;  // not by_depth
  const int32_t* offsets = nullptr;
  int64_t group_count = 0, rows = 0, n = 0, k = 0;
  cuda_gemm::Epilogue epilogue = {};  // c, bias and accumulate of each group are its own
  bool transpose_b = false;
  bool vectors_a = false, vectors_b = false;  // 16 bytes at a time
  Faults faults = {};
};

/// The epilogue of a tile of rows of C.
__device__ inline cuda_gemm::Epilogue epilogue_of(const Call& g, const Tile& tile) {
  cuda_gemm::Epilogue e = g.epilogue;
  e.bias = g.groups[tile.group].bias;
  return e;
}
/// That of the gradient of a group's matrix.
__device__ inline cuda_gemm::Epilogue epilogue_of(const Call& g, const Group& group) {
  cuda_gemm::Epilogue e = g.epilogue;
  e.c = group.c;
  e.accumulate = group.accumulate;
  return e;
}
__device__ inline const void* advance(const void* p, DType t, int64_t elements) {
  return in<char>(p) + elements * (t == DType::f32 ? 4 : 2);
}

/// f32, or dtypes that do not meet in one of 16 bits: tiles of multiply-adds.
void run_simt(const GroupedGemm& g, Call call);
/// `T` is the dtype of 16 bits in which tensor cores multiply.
void run_mma(const GroupedGemm& g, Call call, DType t);

}  // namespace olm::kernels::cuda_grouped
