#pragma once
// Reading and adding along one dimension by index. Tensors are seen as [outer, size, inner], where
// `size` is the dimension that indices choose from; the indices are i32 or i64. An index outside
// [0, size) is an error that names the index, its position, and the size: the CPU throws it, other
// devices report it (Stream::fault) and leave out what it would read or write.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// Whole rows by index: y[o, j, :] = x[o, index[j], :], converted where the float dtypes differ.
///   x: [outer, size, inner] of x_dtype    index: [count]    y: [outer, count, inner] of `dtype`
/// `op` is who a message about a wrong index names.
struct IndexSelect {
  static constexpr const char* name = "index_select";
  const char* op = name;
  DType dtype = f32, x_dtype = f32, index_dtype = i64;
  void* y = nullptr;
  const void* x = nullptr;
  const void* index = nullptr;
  int64_t outer = 0, size = 0, count = 0, inner = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const IndexSelect&);
OLM_API void run(Cuda, const IndexSelect&);

/// The transpose of IndexSelect: y[o, index[j], :] += src[o, j, :], summed in an order
/// fixed by sizes and indices.
///   src: [outer, count, inner] of `dtype`    y: [outer, size, inner] of acc_dtype(dtype), set to
///   zero first unless `accumulate`
struct IndexAdd {
  static constexpr const char* name = "index_add";
  DType dtype = f32, index_dtype = i64;
  void* y = nullptr;
  const void* src = nullptr;
  const void* index = nullptr;
  int64_t outer = 0, size = 0, count = 0, inner = 0;
  bool accumulate = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const IndexAdd&);
OLM_API void run(Cuda, const IndexAdd&);

/// Single elements by index: y[o, j, i] = x[o, index[o, j, i], i].
///   x: [outer, size, inner], y: [outer, count, inner] of `dtype` (any)    index: like y
struct Gather {
  static constexpr const char* name = "gather";
  DType dtype = f32, index_dtype = i64;
  void* y = nullptr;
  const void* x = nullptr;
  const void* index = nullptr;
  int64_t outer = 0, size = 0, count = 0, inner = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const Gather&);
OLM_API void run(Cuda, const Gather&);

/// The transpose of Gather: y[o, index[o, j, i], i] += src[o, j, i], summed in an order
/// fixed by sizes and indices.
///   src: [outer, count, inner] of `dtype`    index: like src    y: [outer, size, inner] of
///   acc_dtype(dtype), added to
struct ScatterAdd {
  static constexpr const char* name = "scatter_add";
  DType dtype = f32, index_dtype = i64;
  void* y = nullptr;
  const void* src = nullptr;
  const void* index = nullptr;
  int64_t outer = 0, size = 0, count = 0, inner = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const ScatterAdd&);
OLM_API void run(Cuda, const ScatterAdd&);

/// y[n, c] = 1 where index[n] is c, else 0.
///   index: [count]    y: [count, size] of `dtype` (any)
struct OneHot {
  static constexpr const char* name = "one_hot";
  DType dtype = i64, index_dtype = i64;
  void* y = nullptr;
  const void* index = nullptr;
  int64_t size = 0, count = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const OneHot&);
OLM_API void run(Cuda, const OneHot&);

}  // namespace olm::kernels
