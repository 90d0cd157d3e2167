#pragma once
// Rows that go from rank to rank.
#include <olm/autograd/tape.h>
#include <olm/engine/comm.h>

namespace olm {

/// Exchanges rows: of x the first sent[0] rows go to rank 0, the next sent[1] to rank 1, …; y is
/// what the ranks sent here, in their order. Backward takes gradients the same way back. Both are
/// operations of all ranks of `comm`, in the same order on each: a rank takes part where it has no
/// row to send or to receive, and records where any of them does.
///   x: [Σ sent, ...], of the same dtype and row size on all ranks    y: [Σ received, ...]
/// received[r] is what rank r has as sent[rank]. Throws, on this rank alone, where counts do not
/// fit x or the ranks. On meta nothing travels.
OLM_API Tensor all_to_all_rows(const Tensor& x, const dist::Counts& sent,
                               const dist::Counts& received, const dist::Comm& comm);

}  // namespace olm
