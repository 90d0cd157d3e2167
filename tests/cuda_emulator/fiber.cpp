#include <tests/cuda_emulator/fiber.h>

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !OLM_EMULATOR_UCONTEXT
// Saves what the calling convention preserves, then continues on the other stack.
extern "C" void olm_emulator_switch(void** save, void* to);
asm(R"(
.text
.globl olm_emulator_switch
.type olm_emulator_switch, @function
olm_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size olm_emulator_switch, .-olm_emulator_switch
)");
#endif

namespace olm::cuda_emulator {
namespace {

constexpr size_t kPage = 4096;
Fiber* switched_from = nullptr;

}  // namespace

Fiber* make_fiber() {
  void* memory = mmap(nullptr, kStackSize + kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kPage, PROT_NONE);
  auto* fiber = new Fiber;
  fiber->stack = static_cast<char*>(memory) + kPage;
  fiber->stack_size = kStackSize;
  return fiber;
}

void prepare(Fiber& fiber, int index, void (*entry)()) {
  fiber.fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack, fiber.stack_size);
#endif
#if !OLM_EMULATOR_UCONTEXT
  // Tops at the same offset in all pages would fall into the same few lines of the L1 cache.
  const size_t offset = size_t(index % 32) * 128;
  auto** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_size - offset) - 2;
  *--top = nullptr;  // the return address of entry, which aligns the stack as a call does
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  (void)index;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.stack_size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
}

void enter_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  const void* stack = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &size);
  switched_from->stack = static_cast<char*>(const_cast<void*>(stack));
  switched_from->stack_size = size;
#endif
}

void switch_fiber(Fiber& from, Fiber& to, bool left) {
  switched_from = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(left ? nullptr : &from.fake_stack, to.stack, to.stack_size);
#else
  (void)left;
#endif
#if !OLM_EMULATOR_UCONTEXT
  olm_emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* stack = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(from.fake_stack, &stack, &size);
  switched_from->stack = static_cast<char*>(const_cast<void*>(stack));
  switched_from->stack_size = size;
#endif
}

}  // namespace olm::cuda_emulator
