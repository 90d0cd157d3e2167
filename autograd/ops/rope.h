#pragma once
#include <utility>

#include <olm/autograd/tape.h>
#include <olm/kernels/rope.h>

namespace olm {

using kernels::RopePairing;

/// The angles of RoPE as their cosines and sines, [max_position, r/2] each, f32 (or f64 for f64 x).
/// They may be scaled: a pair is then also scaled. Not differentiated.
struct RopeTables {
  Tensor cos, sin;
};

/// Where tokens stand: `positions` i64 [B,T], else `offset` + their place in the sequence. Pair i
/// is dimensions (2i, 2i + 1), or (i, i + r/2) in halves.
struct RopeOptions {
  Tensor positions = {};
  int64_t offset = 0;
  RopePairing pairing = RopePairing::interleaved;
};

/// Rotary position embedding: rotates the pairs (m, n) of each head's first r dimensions by the
/// angle of the token's position and passes the others on; r/2 is the width of the tables:
///   y[m] = x[m] · cos - x[n] · sin      y[n] = x[m] · sin + x[n] · cos
/// Computed in f32 (f64 for f64). x: [B,T,H,Dh]. Throws where x is not of rank 4 and a float dtype;
/// tables are not two of one shape [.., r/2] with r <= Dh, in f32 or acc_dtype(x), on x's device,
/// or require a gradient; positions are not [B,T] of i32 or i64; or a position is outside the
/// tables. Su et al. 2021, arXiv:2104.09864.
OLM_API Tensor rope(const Tensor& x, const RopeTables& tables, const RopeOptions& options = {});

/// rope of a query and a key at the same positions.
OLM_API std::pair<Tensor, Tensor> rope(const Tensor& q, const Tensor& k, const RopeTables& tables,
                                       const RopeOptions& options = {});

}  // namespace olm
