#pragma once
// The width inside feed-forward networks.
#include <cmath>
#include <optional>

#include <olm/kernels/base/error.h>

namespace olm::nn {

/// `hidden_dim`, or where it is empty `times` · embed_dim rounded down. Throws naming `layer` for
/// sizes that are not above 0, or so large that products of them leave int64.
inline int64_t hidden_width(const char* layer, int64_t embed_dim,
                            const std::optional<int64_t>& hidden_dim, double times) {
  constexpr int64_t most = int64_t(1) << 40;
  const double hidden = hidden_dim ? double(*hidden_dim) : std::floor(times * double(embed_dim));
  require(embed_dim > 0 && hidden > 0, layer, ": wanted sizes above 0, got embed_dim ", embed_dim,
          " and hidden_dim ", hidden);
  require(embed_dim <= most && hidden <= double(most), layer, ": wanted sizes of at most ", most,
          ", got embed_dim ", embed_dim, " and hidden_dim ", hidden);
  return int64_t(hidden);
}

}  // namespace olm::nn
