// The programs of one warp, by name. Each lane reads its words and writes its words; they only move
// data and call what is to be shown.
#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/vec.cuh>

#include <cstring>

#include "conform.h"

namespace olm::conform {
namespace {

using namespace kernels;

constexpr unsigned kAll = 0xffffffffu;

__device__ inline float as_float(uint32_t word) { return std::bit_cast<float>(word); }
__device__ inline uint32_t as_word(float value) { return std::bit_cast<uint32_t>(value); }

/// 16 bytes of shared memory, as lanes copy them.
__device__ inline uint32_t* slot(int i) { return shared<uint32_t>() + 4 * i; }

/// Every lane copies 16 bytes over a known pattern and reads those that another lane copied.
template <bool every>
struct CopyAsync {
  static constexpr int in = 5, out = 4;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t* aligned) {
    const int lane = int(threadIdx.x);
    for (int i = 0; i < 4; ++i) slot(lane)[i] = 0xa5a5a5a5u;
    __syncwarp();
    cp_async16(slot(lane ^ 1), aligned, every || words[4] % 2 == 1);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    for (int i = 0; i < 4; ++i) result[i] = slot((lane + 7) % kLanes)[i];
  }
};

/// Two groups; the first is read while the second may be under way.
struct CopyGroups {
  static constexpr int in = 8, out = 8;
  __device__ static void run(const uint32_t*, uint32_t* result, const uint32_t* aligned) {
    const int lane = int(threadIdx.x);
    for (int group = 0; group < 2; ++group) {
      cp_async16(slot(group * kLanes + lane), aligned + 4 * group, true);
      cp_async_commit();
    }
    cp_async_wait<1>();
    for (int i = 0; i < 4; ++i) result[i] = slot(lane)[i];
    cp_async_wait<0>();
    for (int i = 0; i < 4; ++i) result[4 + i] = slot(kLanes + lane)[i];
  }
};

/// Lane l stores row l and gives the address of row (5·l + 3) mod 32.
template <bool transpose>
struct LoadMatrices {
  static constexpr int in = 4, out = 4;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    const int lane = int(threadIdx.x);
    for (int i = 0; i < 4; ++i) slot(lane)[i] = words[i];
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4<transpose>(r, slot((5 * lane + 3) % kLanes));
    for (int i = 0; i < 4; ++i) result[i] = r[i];
  }
};

/// a, b and d of the lane, in this order.
template <class T>
struct Multiply {
  static constexpr int in = 10, out = 4;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    const uint32_t a[4] = {words[0], words[1], words[2], words[3]}, b[2] = {words[4], words[5]};
    float d[4] = {as_float(words[6]), as_float(words[7]), as_float(words[8]), as_float(words[9])};
    if constexpr (std::is_same_v<T, float>)
      mma_m16n8k8_tf32(d, a, b);
    else
      mma_m16n8k16<T>(d, a, b);
    for (int i = 0; i < 4; ++i) result[i] = as_word(d[i]);
  }
};

struct Exp2 {
  static constexpr int in = 4, out = 4;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    for (int i = 0; i < out; ++i) result[i] = as_word(exp2_approx(as_float(words[i])));
  }
};

template <class T>
struct Pack {
  static constexpr int in = 8, out = 4;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    for (int i = 0; i < out; ++i)
      result[i] = pack2<T>(as_float(words[2 * i]), as_float(words[2 * i + 1]));
  }
};

struct Widen {
  static constexpr int in = 4, out = 8;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    for (int i = 0; i < out; ++i) {
      float16_t x;
      x.bits = uint16_t(words[i / 2] >> (i % 2 * 16));
      result[i] = as_word(widen_f16(x));
    }
  }
};

/// T rounded from two floats at a time, one by one.
template <class T>
struct Round {
  static constexpr int in = 8, out = 4;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    for (int i = 0; i < out; ++i)
      result[i] = uint32_t(from_float<T>(as_float(words[2 * i])).bits) |
                  uint32_t(from_float<T>(as_float(words[2 * i + 1])).bits) << 16;
  }
};

struct Shuffles {
  static constexpr int in = 2, out = 7;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    const uint32_t value = words[0];
    const int lane = int(threadIdx.x), source = int(words[1] % kLanes);
    result[0] = __shfl_sync(kAll, value, source);
    result[1] = __shfl_xor_sync(kAll, value, 5);
    result[2] = __shfl_up_sync(kAll, value, 3);
    result[3] = __shfl_down_sync(kAll, value, 7);
    if (lane < kLanes / 2)
      result[4] = __shfl_sync(0x0000ffffu, value, source % 16);
    else
      result[4] = __shfl_sync(0xffff0000u, value, 16 + source % 16);
    const double wide = __shfl_xor_sync(kAll, double(value), 16);
    result[5] = uint32_t(wide);
    result[6] = as_word(__shfl_sync(kAll, as_float(value & 0x3fffffffu), 31 - lane));
  }
};

struct Votes {
  static constexpr int in = 1, out = 7;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    const uint32_t value = words[0];
    result[0] = __ballot_sync(kAll, value & 1);
    result[1] = __any_sync(kAll, value % 41 == 0) != 0;
    result[2] = __all_sync(kAll, value % 41 != 1) != 0;
    if (threadIdx.x < kLanes / 2)
      result[3] = __ballot_sync(0x0000ffffu, value & 2);
    else
      result[3] = __ballot_sync(0xffff0000u, value & 2);
    result[4] = __match_any_sync(kAll, value % 5);
    result[5] = __match_any_sync(kAll, value % 1000);
    result[6] = __match_any_sync(kAll, 7u);
  }
};

struct Bits {
  static constexpr int in = 1, out = 3;
  __device__ static void run(const uint32_t* words, uint32_t* result, const uint32_t*) {
    result[0] = uint32_t(__popc(words[0]));
    result[1] = uint32_t(__ffs(int(words[0])));
    result[2] = uint32_t(__clz(int(words[0])));
  }
};

/// A lane's words come one after another; `aligned` has them again at multiples of 16 bytes.
template <class Program>
__global__ void one_warp(const uint32_t* words, const uint32_t* aligned, uint32_t* result) {
  constexpr int kPitch = (Program::in + 3) / 4 * 4;
  const int64_t lane = global_thread();
  Program::run(words + lane * Program::in, result + lane * Program::out, aligned + lane * kPitch);
}

/// Device memory with a copy of host memory.
class Memory {
 public:
  explicit Memory(const Words& host) : bytes_(host.size() * sizeof(uint32_t)) {
    OLM_CUDA_CHECK(cudaMalloc(&memory_, bytes_));
    OLM_CUDA_CHECK(cudaMemcpy(memory_, host.data(), bytes_, cudaMemcpyHostToDevice));
  }
  ~Memory() { cudaFree(memory_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint32_t* get() const { return static_cast<uint32_t*>(memory_); }
  Words to_host() const {
    Words host(bytes_ / sizeof(uint32_t));
    OLM_CUDA_CHECK(cudaMemcpy(host.data(), memory_, bytes_, cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  void* memory_ = nullptr;
  size_t bytes_;
};

Words padded(const Words& words, int each, int pitch) {
  Words result(words.size() / size_t(each) * size_t(pitch));
  for (size_t i = 0; i < words.size(); ++i)
    result[i / size_t(each) * size_t(pitch) + i % size_t(each)] = words[i];
  return result;
}

template <class Program>
Words run(const Case& c, const Words& in) {
  require(c.in == Program::in && c.out == Program::out, c.name, ": kernels.cu has ", Program::in,
          " words in and ", Program::out, " out, conform.cpp ", c.in, " and ", c.out);
  const Memory words(in), aligned(padded(in, c.in, (c.in + 3) / 4 * 4)),
      result(Words(size_t(kWarps) * kLanes * size_t(c.out), 0xdeadbeefu));
  launch(one_warp<Program>, {.grid = kWarps, .block = kLanes, .shared = 2 * kLanes * 16},
         words.get(), aligned.get(), result.get());
  OLM_CUDA_CHECK(cudaDeviceSynchronize());
  return result.to_host();
}

struct Row {
  const char* name;
  Words (*run)(const Case& c, const Words& in);
};
constexpr Row kRows[] = {
    {"cp_async16", run<CopyAsync<true>>},
    {"cp_async16_zeros", run<CopyAsync<false>>},
    {"cp_async_groups", run<CopyGroups>},
    {"ldmatrix_x4", run<LoadMatrices<false>>},
    {"ldmatrix_x4_transposed", run<LoadMatrices<true>>},
    {"mma_m16n8k16_bf16", run<Multiply<bfloat16_t>>},
    {"mma_m16n8k16_f16", run<Multiply<float16_t>>},
    {"mma_m16n8k8_tf32", run<Multiply<float>>},
    {"mma_m16n8k8_tf32_of_f32", run<Multiply<float>>},
    {"exp2_approx", run<Exp2>},
    {"pack2_bf16", run<Pack<bfloat16_t>>},
    {"pack2_f16", run<Pack<float16_t>>},
    {"widen_f16", run<Widen>},
    {"round_to_bf16", run<Round<bfloat16_t>>},
    {"round_to_f16", run<Round<float16_t>>},
    {"shuffles", run<Shuffles>},
    {"votes", run<Votes>},
    {"bits", run<Bits>},
};

}  // namespace

Words on_device(const Case& c, const Words& in) {
  for (const Row& row : kRows)
    if (std::strcmp(row.name, c.name) == 0) return row.run(c, in);
  fail("kernels.cu has no case ", c.name);
}

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count > 0 ? "" : "there is no card";
}

std::string device_name() {
  cudaDeviceProp properties = {};
  OLM_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  return properties.name;
}

}  // namespace olm::conform
