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
