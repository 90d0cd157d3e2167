#include <olm/kernels/base/types.h>

#include <new>
#include <ostream>

namespace olm {

const char* name_of(DType t) {
  switch (t) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::boolean:
      return "bool";
  }
  return "unknown dtype";
}

std::ostream& operator<<(std::ostream& out, DType t) { return out << name_of(t); }

std::ostream& operator<<(std::ostream& out, DeviceKind kind) {
  switch (kind) {
    case DeviceKind::cpu:
      return out << "cpu";
    case DeviceKind::cuda:
      return out << "cuda";
    case DeviceKind::meta:
      return out << "meta";
  }
  return out << "unknown device";
}

float16_t::float16_t(float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN
    bits = uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  } else if (magnitude >= 0x477ff000u) {  // rounds to infinity
    bits = uint16_t(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // subnormal half: let the float adder round
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    bits = uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  } else {
    const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    bits = uint16_t(sign | (rounded >> 13));
  }
}

float16_t::operator float() const {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent == 0) {
    const float value = float(fraction) * 0x1p-24f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

namespace kernels {
namespace {
class PlainScratch final : public ScratchSource {
 public:
  void* take(size_t bytes) override { return ::operator new(bytes, std::align_val_t(64)); }
  void give_back(void* memory) noexcept override {
    ::operator delete(memory, std::align_val_t(64));
  }
};
}  // namespace

ScratchSource& plain_scratch() {
  static PlainScratch source;
  return source;
}

}  // namespace kernels
}  // namespace olm
