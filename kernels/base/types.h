#pragma once
// Element types, device kinds, and the stream a kernel runs on.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iosfwd>

#include <olm/kernels/base/error.h>

#if defined(__CUDACC__)
#define OLM_HD __host__ __device__
#else
#define OLM_HD
#endif

namespace olm {

/// Element type of a tensor. `f64` exists on the CPU only: it is the oracle of the tests.
enum class DType : uint8_t { f32, bf16, f16, f64, i32, i64, boolean };
inline constexpr DType f32 = DType::f32, bf16 = DType::bf16, f16 = DType::f16, f64 = DType::f64,
                       i32 = DType::i32, i64 = DType::i64, boolean = DType::boolean;

constexpr size_t size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::boolean:
      return 1;
  }
  return 0;
}
constexpr bool is_float(DType t) {
  return t == DType::f32 || t == DType::bf16 || t == DType::f16 || t == DType::f64;
}
/// The type in which sums over elements of `t` are kept: f64 for f64, f32 for the other floats.
constexpr DType acc_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }
OLM_API const char* name_of(DType t);
OLM_API std::ostream& operator<<(std::ostream&, DType);

/// bfloat16 as stored: the upper half of an IEEE binary32. Conversion rounds to nearest even and
/// keeps NaN.
struct bfloat16_t {
  uint16_t bits = 0;
  bfloat16_t() = default;
  OLM_HD explicit bfloat16_t(float v) : bits(round(v)) {}
  OLM_HD explicit operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }

 private:
  OLM_HD static uint16_t round(float v) {
    const uint32_t u = std::bit_cast<uint32_t>(v);
    if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40u);  // quiet NaN
    return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

/// IEEE binary16 as stored. Conversion rounds to nearest even and keeps NaN.
struct float16_t {
  uint16_t bits = 0;
  float16_t() = default;
  OLM_HD explicit float16_t(float v) : bits(round(v)) {}
  OLM_HD explicit operator float() const {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0) {
      const float value = float(fraction) * 0x1p-24f;
      return sign ? -value : value;
    }
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  }

 private:
  OLM_HD static uint16_t round(float v) {
    const uint32_t u = std::bit_cast<uint32_t>(v);
    const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u)  // NaN
      return uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to infinity
    if (magnitude < 0x38800000u) {  // subnormal half: let the float adder round
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return uint16_t(sign | (rounded >> 13));
  }
};

namespace detail {
template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bfloat16_t> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<float16_t> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::boolean;
};
}  // namespace detail

/// C++ type of sums over T (see acc_dtype), and the DType of a C++ type.
template <class T>
using acc_t = typename detail::AccOf<T>::type;
template <class T>
inline constexpr DType dtype_of = detail::DTypeOf<T>::value;

/// Where memory lives and work is done. `meta` has shapes but no memory.
enum class DeviceKind : uint8_t { cpu, cuda, meta };
OLM_API std::ostream& operator<<(std::ostream&, DeviceKind);

namespace kernels {

/// Lends temporary memory to kernels; each device's allocator is one.
class OLM_API ScratchSource {
 public:
  virtual void* take(size_t bytes) = 0;
  virtual void give_back(void* memory) noexcept = 0;

 protected:
  ~ScratchSource() = default;
};

/// Temporary memory for the duration of a kernel call; converts to a pointer.
template <class T>
class Scratch {
 public:
  Scratch(ScratchSource& source, size_t n)
      : source_(source), data_(static_cast<T*>(source.take(n * sizeof(T)))) {}
  ~Scratch() { source_.give_back(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }
  T* get() const { return data_; }

 private:
  ScratchSource& source_;
  T* data_;
};

/// The scratch of a Stream that was given none: plain aligned memory of the C++ runtime.
OLM_API ScratchSource& plain_scratch();

struct DeviceFault;

/// The queue a kernel runs on (`native` is a cudaStream_t, unused on the CPU), its scratch memory,
/// and what belongs to the device: where kernels report a bad index, and a number in device memory
/// from which the offsets of random numbers count (null: from 0), so that a launch that is recorded
/// once draws anew each time that it is replayed.
struct Stream {
  void* native = nullptr;
  ScratchSource* source = nullptr;
  DeviceFault* fault = nullptr;
  const uint64_t* rng_base = nullptr;
  template <class T>
  Scratch<T> scratch(size_t n) const {
    return Scratch<T>(source ? *source : plain_scratch(), n);
  }
};

/// Typed views of the untyped pointers in kernel structs.
template <class T>
OLM_HD const T* in(const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
OLM_HD T* out(void* p) {
  return static_cast<T*>(p);
}
template <class T>
OLM_HD const T* row(const void* p, int64_t r, int64_t cols) {
  return static_cast<const T*>(p) + r * cols;
}
template <class T>
OLM_HD T* row_out(void* p, int64_t r, int64_t cols) {
  return static_cast<T*>(p) + r * cols;
}

}  // namespace kernels
}  // namespace olm
