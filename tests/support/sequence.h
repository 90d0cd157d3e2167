#pragma once
// Sequences in pieces.
#include <initializer_list>

#include <olm/engine/raw.h>
#include <olm/nn/module.h>

namespace olm::test {

/// Tokens [begin, end) of x [B,T,…].
inline Tensor tokens(const Tensor& x, int64_t begin, int64_t end) {
  return raw::contiguous(raw::slice(x, 1, begin, end));
}

/// x through the layer in pieces of the given lengths, with a cache.
inline Tensor in_pieces(nn::Module& layer, const Tensor& x,
                        std::initializer_list<int64_t> lengths) {
  const NoGrad guard;
  nn::KVCache cache(x.size(1));
  nn::Context ctx{.cache = &cache};
  const Tensor y = empty_like(x);
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    cache.begin();
    const Tensor piece = layer.forward(tokens(x, begin, begin + length), ctx);
    raw::copy_(raw::slice(y, 1, begin, begin + length), piece);
    cache.advance(length);
    begin += length;
  }
  return y;
}

}  // namespace olm::test
