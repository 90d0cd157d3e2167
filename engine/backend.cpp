#include <olm/engine/backend_internal.h>

#include <algorithm>
#include <atomic>
#include <charconv>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/cuda/report.h>

namespace olm {
namespace {
std::atomic<int64_t> to_host_count{0};
}  // namespace

#if OLM_CUDA
void synchronize(Device device) {
  if (device.kind == DeviceKind::cuda) cuda_backend::synchronize(device.index);
}

void copy_between_devices(void* to, Device to_device, const void* from, Device from_device,
                          size_t bytes) {
  if (to_device == cpu) ++to_host_count;
  cuda_backend::copy(to, to_device, from, from_device, bytes);
}
#else
void cuda_backend::require_card(int index) {
  fail("device: ", cuda(index), " asked for, but ", why_not(index));
}

// What engine/cuda/report.h says where nothing of CUDA is built.
std::vector<cuda_backend::CardInfo> cuda_backend::cards() { return {}; }
std::string cuda_backend::why_not(int) {
  return "this build has no CUDA; configure one with cmake --preset cuda, or -DOLM_CUDA=ON";
}
std::string cuda_backend::driver_version() { return {}; }
std::string cuda_backend::runtime_version() { return {}; }
std::string cuda_backend::compiled_architectures() { return {}; }
std::string cuda_backend::cublas_lt() { return {}; }
std::string cuda_backend::nccl_library() { return {}; }

std::shared_ptr<dist::detail::Backend> dist::detail::with_cards(std::shared_ptr<Backend> host) {
  return host;
}

void synchronize(Device device) { require_device(device); }

void copy_between_devices(void*, Device to_device, const void*, Device from_device, size_t) {
  require_device(to_device);
  require_device(from_device);
}
#endif

int64_t copies_to_host() { return to_host_count; }

bool cuda_backend::has_kernels_for(std::string_view architectures, int major, int minor) {
  constexpr const char* kBetween = ",; ";
  const int card = 10 * major + minor;
  for (size_t at = 0; (at = architectures.find_first_not_of(kBetween, at)) != std::string::npos;) {
    const size_t end = std::min(architectures.find_first_of(kBetween, at), architectures.size());
    const std::string_view word = architectures.substr(at, end - at);
    at = end;
    int number = 0;
    const char* digits_end = std::from_chars(word.data(), word.data() + word.size(), number).ptr;
    const std::string_view kind = word.substr(size_t(digits_end - word.data()));
    if (number == 0) return true;
    const bool one_card_only = kind.starts_with('a');
    if (one_card_only ? number == card : number <= card) {
      if (!kind.ends_with("-real") || number / 10 == major) return true;
    }
  }
  return false;
}

}  // namespace olm
