#pragma once
// What ranks tell each other at the end of a step, in one message on the host.
#include <string>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/nn/optim.h>

namespace olm::nn::parallel {

/// The loss of a micro-batch, with the losses that are a part of it.
struct MicroBatchLoss {
  double loss = 0;
  std::vector<double> aux = {};
  int64_t targets = 0;
};

struct StepNews {
  std::vector<MicroBatchLoss> losses = {};  ///< of the rank's micro-batches, in order
  std::vector<bool> present = {};           ///< of each parameter: it has a gradient
  std::vector<double> sums = {};            ///< of squares, of the blocks that the rank owns
  std::string note = {};
};

std::string pack(const StepNews& news);
/// Throws for what pack() did not make.
StepNews unpack(const std::string& bytes);
/// Bytes that a rank sends to others where it gives so many to Comm::all_gather.
int64_t gathered_bytes(size_t bytes, int ranks);

}  // namespace olm::nn::parallel
