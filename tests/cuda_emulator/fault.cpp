// A kernel's wild access: the handler of the signal puts the OS thread onto a stack of its own, in
// a function that reports and leaves the block. AddressSanitizer has a handler of its own.
#include <tests/cuda_emulator/fault.h>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/memory.h>
#include <tests/cuda_emulator/report.h>

#if defined(__x86_64__)
#include <ucontext.h>
#endif

namespace olm::cuda_emulator {

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
namespace {

constexpr size_t kStack = 64 << 10;
alignas(16) char signal_stack[kStack];
alignas(16) char report_stack[kStack];
const void* address = nullptr;
bool misaligned = false, writes = false;

/// The fibre whose kernel failed is abandoned from another stack: its own may be what is full.
[[noreturn]] void leave_kernel() {
  const auto* p = static_cast<const char*>(address);
  if (running.fiber->stack - p > 0 && running.fiber->stack - p <= 4096)
    fail_block("stack", [&] {
      return std::string("the thread's local memory does not fit into the emulator's stack");
    });
  if (misaligned)
    fail_block("alignment", [&] {
      return std::string("an access at an address that is not aligned to its size, or no address");
    });
  fail_block("address",
             [&] { return std::string(writes ? "writes " : "reads ") + describe_memory(address); });
}

struct sigaction* previous_of(int signal);

void on_signal(int signal, siginfo_t* info, void* context) {
  if (!runs_kernel) {  // not ours: the access is made again, under the handler before this one
    sigaction(signal, previous_of(signal), nullptr);
    return;
  }
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  address = info->si_addr;
  misaligned = info->si_code == SI_KERNEL || signal == SIGBUS;
  writes = registers[REG_ERR] & 2;
  registers[REG_RIP] = reinterpret_cast<greg_t>(&leave_kernel);
  registers[REG_RSP] = reinterpret_cast<greg_t>(report_stack + kStack - 8);  // as after a call
}

struct sigaction* segmentation = nullptr;
struct sigaction* bus = nullptr;
struct sigaction* previous_of(int signal) {
  return signal == SIGBUS ? bus : segmentation;
}

}  // namespace

FaultHandler::FaultHandler() {
  stack_t stack = {};
  stack.ss_sp = signal_stack;
  stack.ss_size = kStack;
  sigaltstack(&stack, &stack_);
  struct sigaction ours = {};
  ours.sa_sigaction = on_signal;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  segmentation = &segmentation_;
  bus = &bus_;
  sigaction(SIGSEGV, &ours, &segmentation_);
  sigaction(SIGBUS, &ours, &bus_);
}

FaultHandler::~FaultHandler() {
  sigaction(SIGSEGV, &segmentation_, nullptr);
  sigaction(SIGBUS, &bus_, nullptr);
  sigaltstack(&stack_, nullptr);
}
#else
FaultHandler::FaultHandler() {}
FaultHandler::~FaultHandler() {}
#endif

}  // namespace olm::cuda_emulator
