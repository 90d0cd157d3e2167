#pragma once
// NCCL, which carries tensors between cards. It is no dependency of the build: its functions are
// declared here as its C interface has them since 2.14, and the library is looked for when it is
// first wanted.
#include <cuda_runtime.h>

#include <cstddef>
#include <string>

struct ncclComm;

namespace olm::cuda_backend::nccl {

enum class Status : int { success = 0, invalid_argument = 4, invalid_usage = 5, in_progress = 7 };
enum class Type : int { u8 = 1, i32 = 2, i64 = 4, f16 = 6, f32 = 7, f64 = 8, bf16 = 9 };
enum class Reduction : int { sum = 0 };

struct UniqueId {
  char bytes[128];
};
using Handle = ncclComm*;

/// As of 2.14; later versions know older ones by `version`.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
};

struct Functions {
  Status (*get_version)(int* version) = nullptr;
  Status (*get_unique_id)(UniqueId* id) = nullptr;
  Status (*init_rank)(Handle* comm, int ranks, UniqueId id, int rank, Config* config) = nullptr;
  Status (*finalize)(Handle comm) = nullptr;
  Status (*destroy)(Handle comm) = nullptr;
  Status (*abort)(Handle comm) = nullptr;
  Status (*get_async_error)(Handle comm, Status* status) = nullptr;
  const char* (*get_error_string)(Status status) = nullptr;
  const char* (*get_last_error)(Handle comm) = nullptr;
  Status (*group_start)() = nullptr;
  Status (*group_end)() = nullptr;
  Status (*send)(const void* data, size_t count, Type type, int peer, Handle comm,
                 cudaStream_t stream) = nullptr;
  Status (*receive)(void* data, size_t count, Type type, int peer, Handle comm,
                    cudaStream_t stream) = nullptr;
  Status (*all_reduce)(const void* from, void* to, size_t count, Type type, Reduction reduction,
                       Handle comm, cudaStream_t stream) = nullptr;
};

/// Calls f(name, function) for each of them.
template <class F>
void for_each_function(Functions& nccl, F&& f) {
  f("ncclGetVersion", nccl.get_version);
  f("ncclGetUniqueId", nccl.get_unique_id);
  f("ncclCommInitRankConfig", nccl.init_rank);
  f("ncclCommFinalize", nccl.finalize);
  f("ncclCommDestroy", nccl.destroy);
  f("ncclCommAbort", nccl.abort);
  f("ncclCommGetAsyncError", nccl.get_async_error);
  f("ncclGetErrorString", nccl.get_error_string);
  f("ncclGetLastError", nccl.get_last_error);
  f("ncclGroupStart", nccl.group_start);
  f("ncclGroupEnd", nccl.group_end);
  f("ncclSend", nccl.send);
  f("ncclRecv", nccl.receive);
  f("ncclAllReduce", nccl.all_reduce);
}

/// Throws one sentence where the library is missing.
const Functions& functions();
/// The file that was loaded; empty where there is none.
std::string path();
/// Where it was looked for in vain, without a full stop; empty where it was found.
std::string why_not();

}  // namespace olm::cuda_backend::nccl
