#pragma once
// What ranks must have in common before they train together.
#include <string>
#include <utility>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/engine/tensor.h>

namespace olm::nn::parallel {

/// Names and values of what ranks must have in common.
using Facts = std::vector<std::pair<std::string, std::string>>;
/// Throws on all ranks, naming the first fact that differs, its values, and who has them.
void require_same_facts(const dist::Comm& comm, const Facts& facts,
                        const char* who = "DataParallel: ");
/// Gives all ranks rank 0's values of the tensors that differ somewhere.
void hand_out(const dist::Comm& comm, const Tensors& tensors);

/// "rank 1", "ranks 1, 2 and 5"; of many the first few.
std::string name_ranks(const std::vector<int>& ranks);

}  // namespace olm::nn::parallel
