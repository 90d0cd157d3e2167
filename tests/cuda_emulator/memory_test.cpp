// What kernels do to memory that is not theirs.
#include <csignal>

#include <tests/cuda_emulator/kernels.h>
#include <tests/cuda_emulator/support.h>

using namespace olm;
using namespace olm::cuda_emulator;
using namespace olm::cuda_emulator::test;

namespace {

/// Runs a kernel that goes wrong: the report, or what AddressSanitizer wrote.
std::string defect_text(void (*f)()) {
  if (flavour() == Flavour::address) return run_in_child(f).output;
  const Mode in;
  f();
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(contains(cudaGetErrorString(cudaErrorLaunchFailure), reports().at(0).sentence));
  return report_text();
}

float* device_floats(size_t n) {
  static float* x = nullptr;
  if (x) return x;
  REQUIRE(cudaMalloc(&x, n * sizeof(float)) == cudaSuccess);
  return x;
}

}  // namespace

TEST_SUITE("cuda_emulator/memory") {
  TEST_CASE("a kernel that follows a null pointer is reported, and others run afterwards") {
    const std::string text = defect_text([] {
      read_float(device_floats(64), nullptr);
      cudaDeviceSynchronize();
    });
    const bool reported = contains(text, "reads a null pointer") || contains(text, "null pointer");
    CHECK_MESSAGE(reported, text);
    const Mode in;
    const DeviceArray<float> x(std::vector<float>{1}), y(std::vector<float>{1});
    CHECK(axpy(y, x, 1, 1) == cudaSuccess);
    CHECK(y.values() == std::vector<float>{2});
  }

  TEST_CASE("a kernel that reads past an allocation is found where accesses are watched") {
    if (flavour() == Flavour::plain) return;
    const std::string text = defect_text([] {
      float* x = device_floats(64);
      read_float(x, x + 64);
      cudaDeviceSynchronize();
    });
    const bool found = contains(text, "use-after-poison") || contains(text, "not allocated");
    CHECK_MESSAGE(found, text);
  }

  TEST_CASE("a vector load at an address that is not aligned to it is found") {
    if (flavour() == Flavour::plain) return;
    const std::string text = defect_text([] {
      float* x = device_floats(64);
      read_misaligned(reinterpret_cast<float4*>(x), x);
      cudaDeviceSynchronize();
    });
    const bool found = contains(text, "misaligned address") || contains(text, "not a multiple");
    CHECK_MESSAGE(found, text);
  }

  TEST_CASE("local memory that does not fit into the emulator's stack is reported") {
    if (flavour() != Flavour::plain) return;
    const std::string text = defect_text([] {
      cudaMemset(device_floats(64), 0, 256);
      overflow_stack(reinterpret_cast<int*>(device_floats(64)));
      cudaDeviceSynchronize();
    });
    CHECK_MESSAGE(contains(text, "does not fit into the emulator's stack"), text);
  }

  TEST_CASE("shared memory is full of NaN when a block begins") {
    const Mode in;
    const DeviceArray<float> out(64);
    CHECK(read_shared(out) == cudaSuccess);
    const std::vector<float> got = out.values();
    REQUIRE(got.size() == 64);
    for (const float v : got) CHECK(v != v);
  }

  TEST_CASE("pinned memory is the kernel's and the host's") {
    const Mode in;
    float* pinned = nullptr;
    void* on_device = nullptr;
    REQUIRE(cudaHostAlloc(&pinned, 8, cudaHostAllocMapped) == cudaSuccess);
    REQUIRE(cudaHostGetDevicePointer(&on_device, pinned, 0) == cudaSuccess);
    pinned[0] = 3;
    auto* p = static_cast<float*>(on_device);
    CHECK(read_float(p + 1, p) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(pinned[1] == 3);
    CHECK(cudaFreeHost(pinned) == cudaSuccess);
  }
}
