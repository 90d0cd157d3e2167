#include <olm/autograd/ops/all_to_all_rows.h>

#include <algorithm>
#include <numeric>

#include <olm/autograd/ops/kit_internal.h>

namespace olm {
namespace {

using dist::Counts;

int64_t total(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t(0));
}

void check_counts(const char* name, const Counts& counts, const dist::Comm& comm) {
  require(int64_t(counts.size()) == comm.size(), "all_to_all_rows: wanted ", name, " for ",
          comm.size(), " ranks, got ", counts.size());
  for (size_t r = 0; r < counts.size(); ++r)
    require(counts[r] >= 0, "all_to_all_rows: wanted at least 0 rows ", name, " for rank ", r,
            ", got ", counts[r]);
}

/// Sends rows of x, and waits for those of `shape` that come.
Tensor exchanged(const Tensor& x, const Counts& sent, const Shape& shape, const Counts& received,
                 const dist::Comm& comm) {
  const Tensor y = empty(shape, options_of(x));
  if (x.device() == meta) return y;
  int64_t row = 1;
  for (int i = 1; i < shape.rank(); ++i) row *= shape[i];
  const auto elements = [row](Counts counts) {
    for (int64_t& count : counts) count *= row;
    return counts;
  };
  comm.all_to_all(raw::contiguous(x), elements(sent), y, elements(received)).wait();
  return y;
}

}  // namespace

Tensor all_to_all_rows(const Tensor& x, const Counts& sent, const Counts& received,
                       const dist::Comm& comm) {
  require_rows("all_to_all_rows", x);
  check_counts("sent", sent, comm);
  check_counts("received", received, comm);
  require(total(sent) == x.size(0), "all_to_all_rows: x ", x.shape(), " has ", x.size(0),
          " rows, sent are ", total(sent));
  Shape shape = x.shape();
  shape[0] = total(received);
  const Tensor y = exchanged(x, sent, shape, received, comm);
  return record("all_to_all_rows", y, {x}, [=](const Tensor& dy, Sinks into) -> Grads {
    return {exchanged(dy, received, into[0].shape, sent, comm)};
  });
}

}  // namespace olm
