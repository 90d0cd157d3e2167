#pragma once
#include <optional>

#include <olm/autograd/tape.h>

namespace olm {

/// What embedding makes of the rows.
struct EmbeddingOptions {
  std::optional<DType> dtype = {};  ///< of the result; the table's own if not given
};

/// Rows of a table by id: y[..., :] = weight[ids[...], :], converted to the wanted dtype.
///   ids: [...] of i32 or i64    weight: [V, D]    y: [..., D]
/// The gradient of the table is summed in the order of the ids and added straight into the gradient
/// so far. Throws if an id is outside [0, V), naming the id and its position.
OLM_API Tensor embedding(const Tensor& ids, const Tensor& weight, EmbeddingOptions options = {});

}  // namespace olm
