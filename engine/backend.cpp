#include <olm/engine/backend.h>

#include <atomic>

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

void synchronize(Device device) { require_device(device); }

void copy_between_devices(void*, Device to_device, const void*, Device from_device, size_t) {
  require_device(to_device);
  require_device(from_device);
}
#endif

int64_t copies_to_host() { return to_host_count; }

}  // namespace olm
