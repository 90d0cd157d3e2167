#pragma once
// Which kernels attend, and the ways to ask for one of them.
#include <olm/kernels/cuda/flash_attention/problem.cuh>

namespace olm::kernels::cuda_attention {

/// general: FFMA, the whole contract. decode: the same for few queries and many keys, whose keys
/// are split over blocks. mma: tensor cores, for bf16 and f16, common head sizes, and no mask.
enum class Path : int { general, decode, mma };

/// The path that run() takes; it follows from the call's sizes, strides and options alone.
OLM_API Path plan(const FlashAttentionForward& f);
OLM_API Path plan(const FlashAttentionBackward& f);

/// By one path. Throws where it does not have what is asked for.
OLM_API void run(Path path, const FlashAttentionForward& f);
OLM_API void run(Path path, const FlashAttentionBackward& f);

/// Rows of the decoding kernel's tile, and keys of each of its splits: fixed, so that what a row
/// gets does not depend on the batch around it.
inline constexpr int64_t kDecodeRows = 8;
inline constexpr int64_t kSplitKeys = 256;

void general_forward(const FlashAttentionForward& f, const Problem& p);
void decode_forward(const FlashAttentionForward& f, const Problem& p);
void mma_forward(const FlashAttentionForward& f, const Problem& p);

/// Per query row [batch, heads, queries], in device memory: see RowStats.
struct AllStats {
  const float *max = nullptr, *log2_sum = nullptr, *delta = nullptr;
};
/// Makes them from the results of the forward; each of the three has a place for every row.
void row_stats(const FlashAttentionBackward& f, float* max, float* log2_sum, float* delta);
void general_backward(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats);
void mma_backward(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats);
/// dmask and dsink, where they are wanted: by FFMA on every path.
void mask_gradient(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats);
void sink_gradient(const FlashAttentionBackward& f, const Problem& p, const AllStats& stats);

}  // namespace olm::kernels::cuda_attention
