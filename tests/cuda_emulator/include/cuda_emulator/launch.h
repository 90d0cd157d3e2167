#pragma once
// Launching a kernel: its arguments are copied, and the call waits in the stream until something
// waits for it.
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include <cuda_emulator/runtime_api.h>

#if defined(__SANITIZE_THREAD__)  // the instrumentation is about kernels, not about their call
#define OLM_EMULATOR_UNCHECKED __attribute__((no_sanitize("thread"), noinline))
#else
#define OLM_EMULATOR_UNCHECKED
#endif

namespace olm::cuda_emulator {

/// A kernel with the arguments of one launch.
class KernelCall {
 public:
  virtual ~KernelCall() = default;
  /// Runs the body of one thread.
  virtual void run() const = 0;
  virtual size_t size() const = 0;
};

template <class... P>
class KernelCallOf final : public KernelCall {
 public:
  explicit KernelCallOf(void (*kernel)(P...), P... arguments)
      : kernel_(kernel), arguments_(arguments...) {
    static_assert((std::is_trivially_copyable_v<P> && ...), "kernels take plain values");
    static_assert((sizeof(P) + ... + size_t(0)) <= 4096, "kernels take at most 4 KB of arguments");
  }
  OLM_EMULATOR_UNCHECKED void run() const override { run_with(std::index_sequence_for<P...>()); }
  size_t size() const override { return sizeof(*this); }

 private:
  template <size_t... I>
  OLM_EMULATOR_UNCHECKED void run_with(std::index_sequence<I...>) const {
    kernel_(std::get<I>(arguments_)...);
  }
  void (*kernel_)(P...);
  std::tuple<P...> arguments_;
};

/// Queues the call; `kernel` identifies it.
cudaError_t enqueue_launch(const cudaLaunchConfig_t& config, const void* kernel,
                           std::unique_ptr<const KernelCall> call);

}  // namespace olm::cuda_emulator

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...),
                               A&&... arguments) {
  return olm::cuda_emulator::enqueue_launch(
      *config, reinterpret_cast<const void*>(kernel),
      std::make_unique<olm::cuda_emulator::KernelCallOf<P...>>(
          kernel, static_cast<P>(std::forward<A>(arguments))...));
}
