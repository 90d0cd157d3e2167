// The emulator's NCCL: what a schedule shows of streams that do not wait for each other, and what
// it refuses.
#include <cstring>
#include <thread>

#include <olm/engine/cuda/nccl_internal.h>
#include <tests/cuda_emulator/kernels.h>
#include <tests/cuda_emulator/support.h>

namespace nccl = olm::cuda_backend::nccl;
using namespace olm;
using namespace olm::cuda_emulator;
using namespace olm::cuda_emulator::test;
using nccl::Status;

namespace {

constexpr int64_t kCount = 100;

nccl::Handle joined(int rank, int size, const nccl::UniqueId& id, Status& status) {
  const nccl::Functions& f = nccl::functions();
  nccl::Handle comm = nullptr;
  nccl::Config config;
  status = f.init_rank(&comm, size, id, rank, &config);
  while (status == Status::in_progress) {
    std::this_thread::yield();
    if (f.get_async_error(comm, &status) != Status::success) break;
  }
  return comm;
}

/// What streams do not wait for.
struct Plan {
  bool waits_for_input = true, waits_for_result = true;
  bool keeps_input = true;  ///< what is sent is overwritten only when it has been
};

/// Two ranks give each other x = rank + 1, which a kernel has made of zeros, and double what comes.
/// What rank 0 has in the end, 4 if all is well.
float exchanged(const Plan& plan) {
  nccl::UniqueId id;
  REQUIRE(nccl::functions().get_unique_id(&id) == Status::success);
  std::vector<float> results(2);
  const auto rank = [&](int r) {
    const nccl::Functions& f = nccl::functions();
    cudaSetDevice(r);
    Status status = Status::success;
    const nccl::Handle comm = joined(r, 2, id, status);
    cudaStream_t compute = nullptr, communicate = nullptr;
    cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&communicate, cudaStreamNonBlocking);
    cudaEvent_t ready = nullptr, done = nullptr;
    cudaEventCreate(&ready);
    cudaEventCreate(&done);
    {
      const std::vector<float> zeros(kCount, 0), addend(kCount, float(r + 1));
      const DeviceArray<float> x(zeros), y(zeros), one(addend), sum(zeros);
      axpy(x, one, 1, kCount, compute);
      cudaEventRecord(ready, compute);
      if (plan.waits_for_input) cudaStreamWaitEvent(communicate, ready, 0);
      f.group_start();
      f.send(x, kCount, nccl::Type::f32, 1 - r, comm, communicate);
      f.receive(y, kCount, nccl::Type::f32, 1 - r, comm, communicate);
      f.group_end();
      cudaEventRecord(done, communicate);
      if (!plan.keeps_input) cudaMemsetAsync(x, 0, kCount * sizeof(float), compute);
      if (plan.waits_for_result) cudaStreamWaitEvent(compute, done, 0);
      axpy(sum, y, 2, kCount, compute);
      if (!plan.waits_for_input) cudaStreamSynchronize(communicate);
      cudaStreamSynchronize(compute);
      results[size_t(r)] = sum.values()[kCount - 1];
      cudaStreamSynchronize(communicate);
    }
    cudaStreamDestroy(communicate);
    f.destroy(comm);
  };
  std::thread other(rank, 1);
  rank(0);
  other.join();
  return results[0];
}

}  // namespace

TEST_SUITE("cuda_emulator/nccl") {
  TEST_CASE("streams that wait for each other exchange under every schedule") {
    for (const char* words : {"lazy", "eager", "seed=1", "seed=2", "eager,seed=3"}) {
      CAPTURE(words);
      const Mode in(std::string(words) + ",devices=2");
      CHECK(exchanged({}) == 4);
    }
  }

  TEST_CASE("planted: a kernel reads what has not arrived") {
    const Mode in("lazy,devices=2");
    CHECK(exchanged({.waits_for_result = false}) != 4);
  }

  TEST_CASE("planted: what no kernel has made yet is sent") {
    const Mode in("lazy,devices=2");
    CHECK(exchanged({.waits_for_input = false}) != 4);
  }

  TEST_CASE("planted: what is being sent is overwritten") {
    const Mode in("lazy,devices=2");
    CHECK(exchanged({.keeps_input = false}) != 4);
  }

  TEST_CASE("messages of other sizes than wanted, host memory and a shared card are errors") {
    const nccl::Functions& f = nccl::functions();
    nccl::UniqueId id;
    const Mode in("devices=2");
    for (const bool shared : {true, false}) {
      REQUIRE(f.get_unique_id(&id) == Status::success);
      std::string sentence;
      const auto rank = [&](int r) {
        cudaSetDevice(shared ? 0 : r);
        Status status = Status::success;
        const nccl::Handle comm = joined(r, 2, id, status);
        CHECK(status == (shared ? Status::invalid_usage : Status::success));
        if (!shared) {
          const DeviceArray<float> x(std::vector<float>(8, 1));
          float host = 0;
          if (r == 0) {
            CHECK(f.send(&host, 1, nccl::Type::f32, 1, comm, nullptr) == Status::invalid_argument);
            f.receive(x, 8, nccl::Type::f32, 1, comm, nullptr);
            CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
            sentence = cudaGetErrorString(cudaErrorLaunchFailure);
            reset();
          } else {
            f.send(x, 4, nccl::Type::f32, 0, comm, nullptr);
            CHECK(cudaDeviceSynchronize() == cudaSuccess);
          }
        }
        f.destroy(comm);
      };
      std::thread other(rank, 1);
      rank(0);
      other.join();
      if (!shared)
        CHECK(sentence ==
              "unspecified launch failure: rank 1 sends 16 bytes where rank 0 receives 32");
    }
  }
}
