#include <olm/engine/cuda/report.h>

#include <cuda_runtime.h>

#include <olm/engine/cuda/nccl_internal.h>
#include <olm/kernels/base/error.h>
#include <olm/kernels/cuda/cublas_lt.h>

namespace olm::cuda_backend {
namespace {

std::string version_text(int version) {
  return version <= 0 ? ""
                      : std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// How many cards there are; the runtime's word for it where it cannot tell.
int count_cards(cudaError_t& status) {
  int count = 0;
  status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::string driver_problem() {
  const std::string driver = driver_version();
  if (driver.empty()) return "this machine has no NVIDIA driver";
  return "the NVIDIA driver of this machine is for CUDA " + driver +
         ", which is too old for the CUDA " + runtime_version() + " of this build";
}

}  // namespace

std::vector<CardInfo> cards() {
  std::vector<CardInfo> all;
  cudaError_t status = cudaSuccess;
  const int count = count_cards(status);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties = {};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    all.push_back({.name = properties.name,
                   .major = properties.major,
                   .minor = properties.minor,
                   .memory = properties.totalGlobalMem});
  }
  return all;
}

std::string why_not(int index) {
  cudaError_t status = cudaSuccess;
  const int count = count_cards(status);
  if (status == cudaErrorInsufficientDriver) return driver_problem();
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
    return "this machine has no NVIDIA card";
  if (status != cudaSuccess) return std::string("the driver says: ") + cudaGetErrorString(status);
  if (index < 0 || index >= count)
    return detail::concat("this machine has ", count, count == 1 ? " card" : " cards",
                          ", numbered from 0");
  cudaDeviceProp properties = {};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess)
    return std::string("the driver says: ") + cudaGetErrorString(error);
  if (!has_kernels_for(OLM_CUDA_ARCHS, properties.major, properties.minor))
    return detail::concat("the ", properties.name, " has compute capability ", properties.major,
                          ".", properties.minor, "; this build has kernels for ", OLM_CUDA_ARCHS);
  return {};
}

std::string driver_version() {
  int version = 0;
  cudaDriverGetVersion(&version);
  return version_text(version);
}

std::string runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return version_text(version);
}

std::string compiled_architectures() { return OLM_CUDA_ARCHS; }

std::string cublas_lt() {
  const std::string path = kernels::cublas_lt_path();
  return path.empty() ? "missing: " + kernels::cublas_lt_why_not() : path;
}

std::string nccl_library() {
  const std::string path = nccl::path();
  if (path.empty()) return "missing: " + nccl::why_not();
  int version = 0;
  nccl::functions().get_version(&version);
  return detail::concat(path, ", version ", version / 10000, ".", version / 100 % 100, ".",
                        version % 100);
}

}  // namespace olm::cuda_backend
