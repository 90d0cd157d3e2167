#pragma once
// What layers report in a step, put together from the micro-batches of all ranks.
#include <string>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/nn/module.h>

namespace olm::nn {

/// What layers reported in one micro-batch.
struct MicroBatchMetrics {
  int64_t targets = 0;
  Metrics metrics = {};
};

/// The metrics of a step from those of this rank's micro-batches: records of routers in the order
/// of micro-batches over all ranks, and values, where several report one their mean over targets.
/// Collective. Without `with_routing` records of other ranks are left out, and nothing is read from
/// the device.
Metrics gather_metrics(Module& model, std::vector<MicroBatchMetrics> mine, bool with_routing,
                       const dist::Comm& comm);

}  // namespace olm::nn
