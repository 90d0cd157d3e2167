#include <numeric>
#include <set>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/raw.h>

#include "tests/support/comm_cases.h"

namespace olm::test {

using dist::Comm;

namespace {

std::set<int64_t> used_numbers(const Comm& comm) {
  const std::vector<int64_t> numbers = comm.backend()->used_numbers();
  return {numbers.begin(), numbers.end()};
}

}  // namespace

void check_group_numbers(const Comm& comm) {
  std::vector<int> all(size_t(comm.size()));
  std::iota(all.begin(), all.end(), 0);
  if (comm.size() == 1) return;
  for (int i = 0; i < 40; ++i) comm.group(all);
  const int64_t most = *used_numbers(comm).rbegin();
  require(most < 20, "group: 40 that were dropped took ", most, " numbers");
  const std::set<int64_t> before = used_numbers(comm);
  Comm group = comm.group(all);
  std::set<int64_t> number = used_numbers(comm);
  for (const int64_t other : before) number.erase(other);
  require(number.size() == 1, "group: wanted a new number, got ", number.size());
  const Tensor x = ones({3});
  dist::Work work;
  if (comm.rank() == 0) {
    work = group.all_reduce(x);
    group = Comm();
    require(used_numbers(comm).count(*number.begin()) == 1,
            "group: an operation under way lost its number");
  }
  comm.barrier();
  if (comm.rank() > 0) work = group.all_reduce(x);
  work.wait();
  require(to_host<float>(x) == std::vector<float>(3, float(comm.size())),
          "group: a sum is not that of all ranks");
}

}  // namespace olm::test
