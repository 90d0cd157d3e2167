#include <olm/kernels/cuda/launch.cuh>

#include <cstdlib>
#include <cstring>

namespace olm::kernels {

bool waits_after_launch() {
  static const bool waits = [] {
    const char* value = std::getenv("OLM_SYNC");
    return value && std::strcmp(value, "1") == 0;
  }();
  return waits;
}

cudaLaunchConfig_t configure(const Launch& shape) {
  constexpr int64_t kMaxX = 0x7fffffff, kMaxYZ = 65535, kMaxThreads = 1024;
  require(shape.grid > 0 && shape.grid <= kMaxX && shape.grid_y > 0 && shape.grid_y <= kMaxYZ &&
              shape.grid_z > 0 && shape.grid_z <= kMaxYZ,
          "cuda: a grid of ", shape.grid, " x ", shape.grid_y, " x ", shape.grid_z,
          " blocks is too large to launch");
  require(shape.block > 0 && shape.block <= kMaxThreads, "cuda: a block has 1 to ", kMaxThreads,
          " threads, got ", shape.block);
  require(shape.shared <= kMaxShared, "cuda: a block has at most ", kMaxShared,
          " bytes of shared memory, got ", shape.shared);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(shape.grid), unsigned(shape.grid_y), unsigned(shape.grid_z));
  config.blockDim = dim3(unsigned(shape.block));
  config.dynamicSmemBytes = shape.shared + kReduceBytes;
  config.stream = static_cast<cudaStream_t>(shape.stream.native);
  return config;
}

}  // namespace olm::kernels
