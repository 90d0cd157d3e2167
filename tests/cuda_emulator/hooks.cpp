// What the compiler calls for the loads and stores of code that is built with -fsanitize=thread.
// That sanitizer's runtime is not linked; outside kernels these do what the program meant and no
// more.
#if OLM_EMULATOR_RACE
#include <cstddef>
#include <cstdint>

#include <tests/cuda_emulator/watch.h>

using olm::cuda_emulator::watch;
using olm::cuda_emulator::watch_aligned;

#define OLM_EMULATED_ACCESS(n)                                          \
  void __tsan_read##n(void* p) { watch_aligned(p, n, false); }          \
  void __tsan_write##n(void* p) { watch_aligned(p, n, true); }          \
  void __tsan_volatile_read##n(void* p) { watch_aligned(p, n, false); } \
  void __tsan_volatile_write##n(void* p) { watch_aligned(p, n, true); } \
  void __tsan_unaligned_read##n(void* p) { watch(p, n, false); }        \
  void __tsan_unaligned_write##n(void* p) { watch(p, n, true); }

// Atomics of the C++ library: host code has them, kernels do not.
#define OLM_EMULATED_RMW(bits, T, name)                           \
  T __tsan_atomic##bits##_fetch_##name(volatile T* p, T v, int) { \
    return __atomic_fetch_##name(p, v, __ATOMIC_SEQ_CST);         \
  }
#define OLM_EMULATED_CAS(bits, T, strength, weak)                                                 \
  int __tsan_atomic##bits##_compare_exchange_##strength(volatile T* p, T* expected, T v, int,     \
                                                        int) {                                    \
    return __atomic_compare_exchange_n(p, expected, v, weak, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
#define OLM_EMULATED_ATOMICS(bits, T)                         \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {    \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);              \
  }                                                           \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                 \
  }                                                           \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);       \
  }                                                           \
  OLM_EMULATED_RMW(bits, T, add)                              \
  OLM_EMULATED_RMW(bits, T, sub)                              \
  OLM_EMULATED_RMW(bits, T, and)                              \
  OLM_EMULATED_RMW(bits, T, or)                               \
  OLM_EMULATED_RMW(bits, T, xor)                              \
  OLM_EMULATED_RMW(bits, T, nand)                             \
  OLM_EMULATED_CAS(bits, T, strong, false)                    \
  OLM_EMULATED_CAS(bits, T, weak, true)

extern "C" {
OLM_EMULATED_ACCESS(1)
OLM_EMULATED_ACCESS(2)
OLM_EMULATED_ACCESS(4)
OLM_EMULATED_ACCESS(8)
OLM_EMULATED_ACCESS(16)
OLM_EMULATED_ATOMICS(8, uint8_t)
OLM_EMULATED_ATOMICS(16, uint16_t)
OLM_EMULATED_ATOMICS(32, uint32_t)
OLM_EMULATED_ATOMICS(64, uint64_t)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
void __tsan_read_range(void* p, size_t bytes) { watch(p, bytes, false); }
void __tsan_write_range(void* p, size_t bytes) { watch(p, bytes, true); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
}
#endif
