#pragma once
// Attention that never holds a matrix of all queries by all keys.
#include <olm/autograd/tape.h>
#include <olm/engine/random.h>

namespace olm {

/// Which keys a query attends and what is done to scores. The position of query row i is
/// i + offset; keys count from 0.
struct FlashAttentionOptions {
  bool causal = false;  ///< keys at most at the query's position
  int64_t offset = 0;   ///< keys before the first query, such as those of a cache
  int64_t window = 0;   ///< keys less than this far from the query; 0: all
  double scale = 0;     ///< of q·k; 0: 1/√Dqk
  double softcap = 0;   ///< s → softcap · tanh(s / softcap); 0: none
  Tensor slopes = {};   ///< ALiBi [H]: s -= slope · distance; gets no gradient
  Tensor sink = {};     ///< [H]: a score in every softmax that has no value
  /// Broadcasts to [B,H,T,S]: boolean (true attends), or of a float dtype and added to the scores.
  Tensor mask = {};
  Tensor documents = {};      ///< ids [B,T]: queries attend keys of their own document
  Tensor key_documents = {};  ///< ids [B,S]; `documents` if undefined
  Tensor key_lengths = {};    ///< [B]: keys from there on are padding
  double dropout = 0;         ///< probability with which a weight is dropped; needs `rng`
  Generator* rng = nullptr;
};

/// Attention of queries on keys and values, head by head:
///   y[b,i,h] = Σ_j softmax_j(scale · q[b,i,h] · k[b,j,h'] …) v[b,j,h']      h' = h / (H / Hkv)
/// q: [B,T,H,Dqk], k: [B,S,Hkv,Dqk], v: [B,S,Hkv,Dv], any strides; y: [B,T,H,Dv]. Scores go
/// through scale, softcap, slopes, mask, softmax and dropout, in that order. A query with nothing
/// to attend gives 0 and passes no gradient. What a query may not attend (padding, later tokens,
/// other documents, what a mask takes away) leaves no trace in its output or gradients, even where
/// it is NaN or infinite. Gradients reach q, k, v, a float mask and the sink.
/// Throws where q, k and v are not of rank 4, of one float dtype and on one device; batch, Dqk or
/// the rows and heads of k and v differ; H is no multiple of Hkv; the mask does not broadcast, or
/// is of integers; ids or lengths are not of the shapes above, or do not fit i32; key_documents
/// come without documents; slopes require a gradient; window or softcap is negative, the dropout
/// outside [0,1] or without rng.
/// Dao, FlashAttention-2, 2023, arXiv:2307.08691.
OLM_API Tensor flash_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                               const FlashAttentionOptions& options = {});

}  // namespace olm
