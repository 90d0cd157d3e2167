#pragma once
// Atomic updates. One thread runs at a time and is never interrupted, so plain updates are atomic;
// the race detector learns what they are. As in CUDA there are overloads for its types only.
#include <cuda_emulator/device_functions.h>
#include <cuda_emulator/launch.h>

namespace olm::cuda_emulator {

template <class T, class F>
OLM_EMULATOR_UNCHECKED T update_atomically(T* memory, F&& updated) {
  note_atomic(memory, sizeof(T));
  const T old = *memory;
  *memory = updated(old);
  return old;
}

}  // namespace olm::cuda_emulator

#define OLM_EMULATED_ATOMIC(name, T, expression)                                                  \
  inline T name(T* memory, T v) {                                                                 \
    return olm::cuda_emulator::update_atomically(memory, [=](T old) -> T { return expression; }); \
  }
#define OLM_EMULATED_COMPARE_AND_SWAP(name, T)                          \
  inline T name(T* memory, T expected, T v) {                           \
    return olm::cuda_emulator::update_atomically(                       \
        memory, [=](T old) -> T { return old == expected ? v : old; }); \
  }
#define OLM_EMULATED_INTEGER_ATOMICS(T)                     \
  OLM_EMULATED_ATOMIC(atomicAdd, T, old + v)                \
  OLM_EMULATED_ATOMIC(atomicSub, T, old - v)                \
  OLM_EMULATED_ATOMIC(atomicExch, T, (void(old), v))        \
  OLM_EMULATED_ATOMIC(atomicMin, T, v < old ? v : old)      \
  OLM_EMULATED_ATOMIC(atomicMax, T, old < v ? v : old)      \
  OLM_EMULATED_ATOMIC(atomicAnd, T, old& v)                 \
  OLM_EMULATED_ATOMIC(atomicOr, T, old | v)                 \
  OLM_EMULATED_ATOMIC(atomicXor, T, old ^ v)                \
  OLM_EMULATED_COMPARE_AND_SWAP(atomicCAS, T)               \
  OLM_EMULATED_ATOMIC(atomicAdd_system, T, old + v)         \
  OLM_EMULATED_ATOMIC(atomicExch_system, T, (void(old), v)) \
  OLM_EMULATED_COMPARE_AND_SWAP(atomicCAS_system, T)

using OlmEmulatedLong = unsigned long long;
OLM_EMULATED_INTEGER_ATOMICS(int)
OLM_EMULATED_INTEGER_ATOMICS(unsigned)
OLM_EMULATED_INTEGER_ATOMICS(OlmEmulatedLong)
OLM_EMULATED_ATOMIC(atomicAdd, float, old + v)
OLM_EMULATED_ATOMIC(atomicAdd, double, old + v)
OLM_EMULATED_ATOMIC(atomicExch, float, (void(old), v))
#undef OLM_EMULATED_INTEGER_ATOMICS
#undef OLM_EMULATED_COMPARE_AND_SWAP
#undef OLM_EMULATED_ATOMIC
