#pragma once
// What tests may ask of the CUDA emulator beyond the CUDA runtime's own functions.
//
// OLM_CUDA_EMULATOR in the environment, or configure(), is a list of words with commas between:
//   lazy      cp.async lands at the last legal moment, a stream's work runs when something waits
//             for it (the default); blocks and threads run in order
//   eager     both happen at once
//   seed=N    threads, blocks and streams run in an order drawn from N (N > 0)
//   devices=N memory=M            N cards of M megabytes; 1 of 2048
//   no_driver no_card old_card    a machine without driver, without card, with one of sm_75
//   fail_launch=K                 the K-th launch from here on fails
//   lost=K                        the card is gone after K calls of the runtime
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace olm::cuda_emulator {

/// What kernels and the emulator were compiled for.
enum class Flavour : uint8_t {
  plain,
  address,  ///< AddressSanitizer: memory outside allocations and shared memory is poisoned
  race,     ///< every load and store of a kernel is watched
};
Flavour flavour();

/// A defect that a kernel showed. The first one makes all later calls of the runtime on that device
/// fail with cudaErrorLaunchFailure, whose text ends with the sentence.
struct Report {
  std::string sentence;
  int64_t count = 1;  ///< how often the same kernel showed the same kind of defect
};
std::vector<Report> reports();

/// Counts since the start or clear_statistics().
struct Statistics {
  int64_t launches = 0, blocks = 0, threads = 0;
  int64_t host_to_device_copies = 0, device_to_host_copies = 0, device_to_device_copies = 0;
  int64_t host_to_device_bytes = 0, device_to_host_bytes = 0, device_to_device_bytes = 0;
  int64_t synchronizations = 0;  ///< of streams, events, devices, and by copies that wait
  int64_t allocations = 0;       ///< of device memory
  int64_t peak_bytes = 0;        ///< of device memory, all devices together
  /// Shared memory as ldmatrix uses it: one phase is 8 rows of 16 bytes and takes as many cycles as
  /// its most wanted bank has rows, 1 without bank conflicts.
  int64_t ldmatrix_phases = 0, ldmatrix_cycles = 0;
};
Statistics statistics();
void clear_statistics();

/// Takes the words above in place of those in force; throws std::invalid_argument for an unknown
/// one. Memory and streams live on.
void configure(std::string_view words);
/// The words in force, at first those of the environment.
std::string configuration();
/// Forgets reports and failures, so that every device works again; what was queued is dropped.
void reset();

}  // namespace olm::cuda_emulator
