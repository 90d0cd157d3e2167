#pragma once
// Attention by tiles with online softmax: no matrix of all queries by all keys is ever held.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// What forward and backward of attention share: sizes, which keys a query attends, and what is
/// done to scores. For query row i, at position p = i + offset, and key j, in this order:
///   s = scale · q·k     s = softcap · tanh(s / softcap)     s -= slope[h] · |p - j|     s += mask
///   w = softmax over attended keys (and the sink, a score that has no value)     w dropped out
/// A query attends key j unless one of these says no: causal (j <= p), window (|p - j| < window),
/// key_lengths (j < length of the batch row), documents (equal ids), a boolean mask (true attends).
/// A query that attends nothing has output 0 and passes no gradient. What a query may not attend
/// leaves no trace in its output, nor in any gradient between the two, even where it is NaN or
/// infinite; keys that no query attends, such as padding, so get gradients of 0.
struct Attention {
  DType dtype = f32;  ///< of q, k, v, the output and their gradients
  int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0;
  int64_t dim = 0, value_dim = 0;  ///< of queries and keys, of values
  double scale = 1;
  bool causal = false;
  int64_t offset = 0, window = 0;  ///< window 0: none
  double softcap = 0;              ///< 0: none
  const void* slopes = nullptr;    ///< ALiBi, [heads] in acc_dtype
  const void* sink = nullptr;      ///< [heads] in acc_dtype
  const void* mask = nullptr;      ///< boolean, or a float dtype that is added
  DType mask_dtype = boolean;
  int64_t mask_strides[4] = {};  ///< of batch row, head, query, key; 0 repeats
  const int32_t *query_documents = nullptr, *key_documents = nullptr;  ///< [batch, queries|keys]
  const int32_t* key_lengths = nullptr;                                ///< [batch]
  /// Weight (b, h, i, j) is kept where to_uniform of word base + dropout_offset + ((b · heads + h)
  /// · queries + i) · keys' + j of the Philox stream of `seed` is at least `dropout`, and then
  /// divided by 1 - dropout. base is the number at stream.rng_base, the same forward and backward.
  /// keys' is keys rounded up to a multiple of 4, as base and dropout_offset are.
  double dropout = 0;
  uint64_t seed = 0, dropout_offset = 0;
};

/// Rows of heads, [batch, rows, heads, dim], the last dimension dense; strides in elements. Key and
/// value head of query head h is h / (heads / kv_heads).
struct HeadRows {
  const void* data = nullptr;
  int64_t batch = 0, row = 0, head = 0;
};
struct HeadRowsOut {
  void* data = nullptr;
  int64_t batch = 0, row = 0, head = 0;
};

/// Attention (Vaswani et al. 2017, arXiv:1706.03762; by tiles: Dao 2023, arXiv:2307.08691).
///   y[b,i,h] = Σ_j w[b,h,i,j] · v[b,j,h']
/// q, k: rows of `dim`; v, y: rows of `value_dim`. For backward, [batch, heads, queries] in
/// acc_dtype: row_max, a score near the row's largest, in whatever unit the device keeps scores,
/// and row_log_sum, log Σ_j e^(s - row_max) (-inf for no keys). Two numbers, since scores of 10^8
/// leave no digits for the logarithm in their sum. y_low, of y's dtype, null or with the strides of
/// y: what rounding took from y.
struct FlashAttentionForward {
  static constexpr const char* name = "flash_attention forward";
  Attention attention = {};
  HeadRows q = {}, k = {}, v = {};
  HeadRowsOut y = {};
  void *y_low = nullptr, *row_max = nullptr, *row_log_sum = nullptr;
  Stream stream = {};
};
OLM_API void run(Cpu, const FlashAttentionForward&);
OLM_API void run(Cuda, const FlashAttentionForward&);

/// Gradients of FlashAttentionForward from dy, its inputs and its results; weights are computed
/// again by tiles. Those whose pointer is null are not wanted. dmask (in acc_dtype) is laid out by
/// dmask_strides, 0 where the mask was repeated and gradients are summed. dsink: [heads] in
/// acc_dtype. y_low may be null; dq and dk of bf16 and f16 are then less exact where values have a
/// large mean.
struct FlashAttentionBackward {
  static constexpr const char* name = "flash_attention backward";
  Attention attention = {};
  HeadRows q = {}, k = {}, v = {}, y = {}, dy = {};
  const void *y_low = nullptr, *row_max = nullptr, *row_log_sum = nullptr;
  HeadRowsOut dq = {}, dk = {}, dv = {};
  void* dmask = nullptr;
  int64_t dmask_strides[4] = {};
  void* dsink = nullptr;
  bool accumulate_dsink = false;  ///< add to what is there
  Stream stream = {};
};
OLM_API void run(Cpu, const FlashAttentionBackward&);
OLM_API void run(Cuda, const FlashAttentionBackward&);

}  // namespace olm::kernels
