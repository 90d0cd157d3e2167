// The host's side of the emulated runtime: states of the machine, laziness, order, errors.
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include <tests/cuda_emulator/kernels.h>
#include <tests/cuda_emulator/support.h>

using namespace olm;
using namespace olm::cuda_emulator;
using namespace olm::cuda_emulator::test;

namespace {

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    REQUIRE(cudaStreamCreateWithFlags(&handle_, flags) == cudaSuccess);
  }
  ~Stream() { cudaStreamDestroy(handle_); }
  operator cudaStream_t() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

class Pinned {
 public:
  explicit Pinned(size_t n) { REQUIRE(cudaHostAlloc(&data_, n * sizeof(float), 0) == cudaSuccess); }
  ~Pinned() { cudaFreeHost(data_); }
  operator float*() const { return data_; }

 private:
  float* data_ = nullptr;
};

}  // namespace

TEST_SUITE("cuda_emulator/runtime") {
  TEST_CASE("a machine without driver and one without card answer as CUDA does") {
    int count = -1, version = -1;
    {
      const Mode in("no_driver");
      CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
      CHECK(cudaDriverGetVersion(&version) == cudaSuccess);
      CHECK(version == 0);
      void* p = nullptr;
      CHECK(cudaMalloc(&p, 16) == cudaErrorInsufficientDriver);
      CHECK(cudaGetLastError() == cudaErrorInsufficientDriver);
      CHECK(cudaGetLastError() == cudaSuccess);
    }
    const Mode in("no_card");
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    CHECK(std::string(cudaGetErrorName(cudaErrorNoDevice)) == "cudaErrorNoDevice");
    CHECK(std::string(cudaGetErrorString(cudaErrorNoDevice)) ==
          "no CUDA-capable device is detected");
  }

  TEST_CASE("cards are as many and as old as asked for, and an old one runs no kernels") {
    int count = 0;
    cudaDeviceProp p = {};
    {
      const Mode in("devices=3,memory=100");
      CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
      CHECK(count == 3);
      CHECK(cudaGetDeviceProperties(&p, 2) == cudaSuccess);
      CHECK(std::string(p.name) == "emulated sm_80 card");
      CHECK(p.major * 10 + p.minor == 80);
      CHECK(p.totalGlobalMem == size_t(100) << 20);
      CHECK(cudaSetDevice(3) == cudaErrorInvalidDevice);
    }
    const Mode in("old_card");
    CHECK(cudaGetDeviceProperties(&p, 0) == cudaSuccess);
    CHECK(p.major * 10 + p.minor == 75);
    const DeviceArray<float> x(4);
    CHECK(axpy(x, x, 1, 4) == cudaErrorNoKernelImageForDevice);
  }

  TEST_CASE("an unknown word is refused with the ones there are") {
    CHECK_THROWS_WITH_AS(configure("lazy,quick"),
                         doctest::Contains("there is no \"quick\"; there are lazy, eager"),
                         std::invalid_argument);
    CHECK_THROWS_AS(configure("seed=x"), std::invalid_argument);
    CHECK_THROWS_AS(configure("devices=0"), std::invalid_argument);
  }

  TEST_CASE("a wrong word in the environment is the error of every call") {
    const char* words = std::getenv("OLM_CUDA_EMULATOR");
    if (words && std::string(words) == "slow") {  // in the child
      int count = 0;
      CHECK(cudaGetDeviceCount(&count) == cudaErrorInitializationError);
      CHECK(contains(cudaGetErrorString(cudaErrorInitializationError), "there is no \"slow\""));
      return;
    }
    const Ending ending = run_in_child([] {
      setenv("OLM_CUDA_EMULATOR", "slow", 1);
      execl("/proc/self/exe", "tests", "--test-case=a wrong word in the environment*", nullptr);
      _exit(1);
    });
    CHECK(ending.status == 0);
  }

  TEST_CASE("the words in force can be asked for and put back") {
    const std::string before = configuration();
    {
      const Mode in("eager,seed=4");
      CHECK(configuration() == "eager,seed=4");
    }
    CHECK(configuration() == before);
  }

  TEST_CASE("memory is bounded, and freed memory can be had again") {
    const Mode in("memory=8");
    const size_t before = [] {
      size_t free = 0, total = 0;
      CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess);
      CHECK(total == size_t(8) << 20);
      return free;
    }();
    void *p = nullptr, *q = nullptr;
    CHECK(cudaMalloc(&p, 5 << 20) == cudaSuccess);
    CHECK(cudaMalloc(&q, 5 << 20) == cudaErrorMemoryAllocation);
    CHECK(q == nullptr);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaFree(p) == cudaSuccess);
    CHECK(cudaMalloc(&q, 5 << 20) == cudaSuccess);
    CHECK(cudaFree(q) == cudaSuccess);
    CHECK(cudaFree(q) == cudaErrorInvalidValue);
    size_t free = 0, total = 0;
    CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess);
    CHECK(free == before);
  }

  TEST_CASE("new device memory and new pinned memory are full of NaN") {
    const Mode in;
    const DeviceArray<float> x(100);
    for (const float v : x.values()) CHECK(v != v);
    const Pinned pinned(10);
    CHECK(pinned[9] != pinned[9]);
  }

  TEST_CASE("an upload reads pageable memory at the call, pinned memory when it runs") {
    const Mode in("lazy");
    const Stream stream;
    const DeviceArray<float> x(1), y(1);
    const Pinned pinned(1);
    float pageable = 1;
    pinned[0] = 1;
    CHECK(cudaMemcpyAsync(x, &pageable, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    CHECK(cudaMemcpyAsync(y, pinned, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    pageable = pinned[0] = 2;
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(x.values() == std::vector<float>{1});
    CHECK(y.values() == std::vector<float>{2});
  }

  TEST_CASE("a stream that does not block runs only when something waits for it") {
    const Mode in("lazy");
    const Stream stream;
    const DeviceArray<float> x(std::vector<float>{1, 2, 3}), y(std::vector<float>{10, 10, 10});
    CHECK(axpy(y, x, 2, 3, stream) == cudaSuccess);
    CHECK(y.values() == std::vector<float>{10, 10, 10});  // the null stream does not wait for it
    CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
    CHECK(cudaStreamQuery(stream) == cudaSuccess);
    CHECK(y.values() == std::vector<float>{12, 14, 16});
    CHECK(cudaGetLastError() == cudaSuccess);
  }

  TEST_CASE("the null stream waits for blocking streams, and they for it") {
    const Mode in("lazy");
    const Stream stream(cudaStreamDefault);
    const DeviceArray<float> x(std::vector<float>{1}), y(std::vector<float>{10});
    CHECK(axpy(y, x, 2, 1, stream) == cudaSuccess);
    CHECK(axpy(y, y, 1, 1) == cudaSuccess);
    CHECK(axpy(y, x, 1, 1, stream) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(y.values() == std::vector<float>{25});
  }

  TEST_CASE("events order streams and tell the time between them") {
    for (const char* mode : {"lazy", "eager", "seed=1", "seed=2"}) {
      const Mode in(mode);
      const Stream first, second;
      const DeviceArray<float> x(std::vector<float>{1}), y(std::vector<float>{0});
      cudaEvent_t begin = nullptr, middle = nullptr;
      CHECK(cudaEventCreate(&begin) == cudaSuccess);
      CHECK(cudaEventCreate(&middle) == cudaSuccess);
      CHECK(cudaEventRecord(begin, first) == cudaSuccess);
      CHECK(axpy(y, x, 3, 1, first) == cudaSuccess);
      CHECK(cudaEventRecord(middle, first) == cudaSuccess);
      CHECK(axpy(y, x, 100, 1, first) == cudaSuccess);
      CHECK(cudaStreamWaitEvent(second, middle) == cudaSuccess);
      const Pinned out(1);
      CHECK(cudaMemcpyAsync(out, y, 4, cudaMemcpyDeviceToHost, second) == cudaSuccess);
      CHECK(cudaStreamSynchronize(second) == cudaSuccess);
      CHECK((out[0] == 3 || (std::string(mode) != "lazy" && out[0] == 103)));
      float milliseconds = -1;
      CHECK(cudaEventElapsedTime(&milliseconds, begin, middle) == cudaSuccess);
      CHECK(milliseconds >= 0);
      CHECK(cudaEventDestroy(begin) == cudaSuccess);
      CHECK(cudaEventDestroy(middle) == cudaSuccess);
      CHECK(cudaEventQuery(middle) == cudaErrorInvalidResourceHandle);
      CHECK(cudaStreamSynchronize(first) == cudaSuccess);
    }
  }

  TEST_CASE("the launch that is to fail fails, and the device with it until it is reset") {
    const Mode in("fail_launch=2");
    const DeviceArray<float> x(std::vector<float>{1});
    CHECK(axpy(x, x, 1, 1) == cudaSuccess);
    CHECK(axpy(x, x, 1, 1) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    CHECK(axpy(x, x, 1, 1) == cudaErrorLaunchFailure);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
    CHECK(contains(cudaGetErrorString(cudaErrorLaunchFailure), "OLM_CUDA_EMULATOR asks for it"));
    reset();
    CHECK(x.values() == std::vector<float>{2});
  }

  TEST_CASE("a card that is lost is unavailable from then on") {
    const Mode in("lost=2");
    int device = 0;
    CHECK(cudaGetDevice(&device) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaErrorDevicesUnavailable);
    CHECK(cudaGetDevice(&device) == cudaErrorDevicesUnavailable);
  }

  TEST_CASE("launches and copies that CUDA refuses are refused") {
    const Mode in;
    const DeviceArray<float> x(4);
    float host[4] = {};
    CHECK(axpy(x, x, 1, 0) == cudaErrorInvalidConfiguration);
    CHECK(count_odd(nullptr, 2048) == cudaErrorInvalidConfiguration);
    CHECK(cudaMemcpy(x, host, 17, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(host, host, 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidMemcpyDirection);
    CHECK(cudaMemset(host, 0, 4) == cudaErrorInvalidValue);
    CHECK(use_shared(50 << 10, false) == cudaErrorInvalidValue);
    CHECK(use_shared(200 << 10, true) == cudaErrorInvalidValue);
    CHECK(use_shared(99 << 10, true) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(use_shared(100 << 10, true) == cudaErrorLaunchFailure);
    CHECK(contains(report_text(),
                   "kernel empty_kernel asks for 102400 bytes of shared memory; "
                   "every card has 101376"));
  }

  TEST_CASE("copies, launches and synchronisations are counted") {
    const Mode in;
    const DeviceArray<float> x(std::vector<float>{1, 2}), y(std::vector<float>{0, 0});
    clear_statistics();
    CHECK(axpy(y, x, 1, 2) == cudaSuccess);
    CHECK(cudaMemcpyAsync(x, y, 8, cudaMemcpyDefault) == cudaSuccess);
    CHECK(x.values() == std::vector<float>{1, 2});
    const Statistics s = statistics();
    CHECK(s.launches == 1);
    CHECK(s.threads == 256);
    CHECK(s.device_to_device_copies == 1);
    CHECK(s.device_to_host_copies == 1);
    CHECK(s.device_to_host_bytes == 8);
    CHECK(s.host_to_device_copies == 0);
  }

  TEST_CASE("several host threads may call at once") {
    const Mode in;
    std::vector<std::thread> threads;
    std::vector<float> results(4);
    for (size_t t = 0; t < results.size(); ++t)
      threads.emplace_back([&results, t] {
        float *x = nullptr, one = 1;
        cudaStream_t stream = nullptr;
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        cudaMalloc(&x, sizeof(float));
        cudaMemcpyAsync(x, &one, sizeof(float), cudaMemcpyHostToDevice, stream);
        for (size_t i = 0; i <= t; ++i) axpy(x, x, 1, 1, stream);
        cudaMemcpyAsync(&results[t], x, sizeof(float), cudaMemcpyDeviceToHost, stream);
        cudaStreamDestroy(stream);
        cudaFree(x);
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(results == std::vector<float>{2, 4, 8, 16});
    CHECK(report_text() == "");
  }
}
