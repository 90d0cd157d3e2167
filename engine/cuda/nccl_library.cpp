#include <olm/engine/cuda/nccl_internal.h>

#include <type_traits>

#include <olm/kernels/base/shared_library.h>

#if __has_include(<nccl.h>)
#include <nccl.h>
#endif

namespace olm::cuda_backend::nccl {

#if __has_include(<nccl.h>) && NCCL_VERSION_CODE >= 21400
// Where the build finds NCCL's header, it is held against what is declared here.
namespace {

/// Whether two types are passed to a function in the same way.
template <class A, class B>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>)
    return std::is_function_v<std::remove_pointer_t<A>> ==
           std::is_function_v<std::remove_pointer_t<B>>;
  else if constexpr (std::is_enum_v<A> || std::is_enum_v<B>)
    return std::is_enum_v<A> && std::is_enum_v<B> && sizeof(A) == sizeof(B);
  else if constexpr (std::is_class_v<A> && std::is_class_v<B>)
    return sizeof(A) == sizeof(B) && std::is_trivially_copyable_v<B>;
  else
    return std::is_same_v<A, B>;
}
template <class R, class... A, class S, class... B>
constexpr bool alike(R (*)(A...), S (*)(B...)) {
  if constexpr (sizeof...(A) != sizeof...(B))
    return false;
  else
    return alike<R, S>() && (alike<A, B>() && ...);
}

constexpr Functions kNone;
constexpr ncclConfig_t kInitial = NCCL_CONFIG_INITIALIZER;
static_assert(alike(kNone.get_version, decltype (&ncclGetVersion)()));
static_assert(alike(kNone.get_unique_id, decltype (&ncclGetUniqueId)()));
static_assert(alike(kNone.init_rank, decltype (&ncclCommInitRankConfig)()));
static_assert(alike(kNone.finalize, decltype (&ncclCommFinalize)()));
static_assert(alike(kNone.destroy, decltype (&ncclCommDestroy)()));
static_assert(alike(kNone.abort, decltype (&ncclCommAbort)()));
static_assert(alike(kNone.get_async_error, decltype (&ncclCommGetAsyncError)()));
static_assert(alike(kNone.get_error_string, decltype (&ncclGetErrorString)()));
static_assert(alike(kNone.get_last_error, decltype (&ncclGetLastError)()));
static_assert(alike(kNone.group_start, decltype (&ncclGroupStart)()));
static_assert(alike(kNone.group_end, decltype (&ncclGroupEnd)()));
static_assert(alike(kNone.send, decltype (&ncclSend)()));
static_assert(alike(kNone.receive, decltype (&ncclRecv)()));
static_assert(alike(kNone.all_reduce, decltype (&ncclAllReduce)()));
static_assert(std::is_same_v<Handle, ncclComm_t> && sizeof(UniqueId) == sizeof(ncclUniqueId));
static_assert(int(Status::success) == ncclSuccess && int(Status::in_progress) == ncclInProgress &&
              int(Status::invalid_argument) == ncclInvalidArgument &&
              int(Status::invalid_usage) == ncclInvalidUsage);
static_assert(int(Type::u8) == ncclUint8 && int(Type::i32) == ncclInt32 &&
              int(Type::i64) == ncclInt64 && int(Type::f16) == ncclFloat16 &&
              int(Type::f32) == ncclFloat32 && int(Type::f64) == ncclFloat64 &&
              int(Type::bf16) == ncclBfloat16 && int(Reduction::sum) == ncclSum);
static_assert(offsetof(Config, size) == offsetof(ncclConfig_t, size) &&
              offsetof(Config, magic) == offsetof(ncclConfig_t, magic) &&
              offsetof(Config, version) == offsetof(ncclConfig_t, version) &&
              offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking) &&
              Config().magic == kInitial.magic && Config().version == NCCL_VERSION(2, 14, 0));

}  // namespace
#endif

namespace {

const LoadedFunctions<Functions>& loaded() {
  static const auto once = load_functions<Functions>(
      {.title = "NCCL", .variable = "OLM_NCCL", .names = {"libnccl.so.2"}});
  return once;
}

}  // namespace

std::string path() { return loaded().library.path; }
std::string why_not() { return loaded().library.why_not; }

const Functions& functions() {
  require(loaded().library.why_not.empty(), "ranks on cuda: ", loaded().library.why_not);
  return loaded().functions;
}

}  // namespace olm::cuda_backend::nccl
