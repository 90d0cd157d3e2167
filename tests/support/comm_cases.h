#pragma once
// What ranks must be able to do together, on any transport.
#include <functional>
#include <string>
#include <vector>

#include <olm/engine/comm.h>

namespace olm::test {

/// Called by all ranks; throws Error where something is not as it should be.
struct CommCase {
  std::string name;
  std::function<void(const dist::Comm&)> run;
};
const std::vector<CommCase>& comm_cases();
/// Where tensors of cases are that the calling thread runs; cpu at first. Cards have no f64.
void set_case_device(Device device);
/// Numbers of the groups that a rank is in come back to those made later; one of the cases.
void check_group_numbers(const dist::Comm& comm);

}  // namespace olm::test
