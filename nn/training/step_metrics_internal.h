#pragma once
// What layers report in a step, put together from the micro-batches of all ranks.
#include <string>
#include <vector>

#include <olm/nn/module.h>

namespace olm::nn {

/// What layers reported in one micro-batch.
struct MicroBatchMetrics {
  int64_t targets = 0;
  Metrics metrics = {};
};

/// Those of this rank's micro-batches as bytes; without `with_routing` without records of routers,
/// and nothing is read from the device.
std::string write_metrics(Module& model, const std::vector<MicroBatchMetrics>& mine,
                          bool with_routing);
/// The metrics of a step from those of its micro-batches, in order: all records of routers, and
/// values, where several report one their mean over targets.
Metrics merge_metrics(std::vector<MicroBatchMetrics> all);
/// Likewise from what write_metrics() gave on each rank.
Metrics merge_metrics(Module& model, const std::vector<std::string>& notes);

}  // namespace olm::nn
