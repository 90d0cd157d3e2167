#pragma once
// From a DType at run time to a C++ type: the one switch, used inside a backend.
#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// Calls `f.template operator()<T>()` with the C++ type of a float dtype.
template <class F>
decltype(auto) visit_float(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f.template operator()<float>();
    case DType::bf16:
      return f.template operator()<bfloat16_t>();
    case DType::f16:
      return f.template operator()<float16_t>();
    case DType::f64:
      return f.template operator()<double>();
    default:
      fail("expected a float dtype, got ", t);
  }
}

/// As visit_float, for i32 and i64: the dtypes of ids and indices.
template <class F>
decltype(auto) visit_index(DType t, F&& f) {
  switch (t) {
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::i64:
      return f.template operator()<int64_t>();
    default:
      fail("expected i32 or i64, got ", t);
  }
}

/// As visit_float, for every dtype.
template <class F>
decltype(auto) visit_any(DType t, F&& f) {
  switch (t) {
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::i64:
      return f.template operator()<int64_t>();
    case DType::boolean:
      return f.template operator()<bool>();
    default:
      return visit_float(t, f);
  }
}

}  // namespace olm::kernels
