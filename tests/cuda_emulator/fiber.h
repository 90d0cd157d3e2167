#pragma once
// Fibres: stacks between which one OS thread switches.
#include <cstddef>

// OLM_EMULATOR_UCONTEXT asks for the portable switch, which other machines have anyway.
#if !defined(__x86_64__) && !defined(OLM_EMULATOR_UCONTEXT)
#define OLM_EMULATOR_UCONTEXT 1
#endif
#if OLM_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace olm::cuda_emulator {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
inline constexpr size_t kStackSize = 256 << 10;  // instrumented frames are larger
#else
inline constexpr bool kAddressSanitizer = false;
inline constexpr size_t kStackSize = 64 << 10;
#endif

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;  ///< its lowest byte
  size_t stack_size = 0;
  void* fake_stack = nullptr;  ///< AddressSanitizer's
#if OLM_EMULATOR_UCONTEXT
  ucontext_t context;
#endif
  bool holds(const void* p) const {
    return size_t(static_cast<const char*>(p) - stack) < stack_size;
  }
};

/// A fibre with a stack of its own and a guard page below it.
Fiber* make_fiber();
/// Makes the fibre, number `index`, begin at `entry`, which never returns.
void prepare(Fiber& fiber, int index, void (*entry)());
/// Runs `to` until something switches back to `from`. A `from` that is `left` is not resumed.
void switch_fiber(Fiber& from, Fiber& to, bool left = false);
/// To be called first thing by an entry.
void enter_fiber();

}  // namespace olm::cuda_emulator
