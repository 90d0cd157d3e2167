#pragma once
// From the options of RoPE to the frequencies of its pairs, and the rows of tables by position.
#include <vector>

#include <olm/nn/embeddings.h>

namespace olm::nn {

/// What the rotation of a set of pairs is made from.
struct Rotation {
  int64_t dim = 0;  ///< rotated dimensions
  double base = 0;
  int64_t max_seq_len = 0;
  RopeScalingOptions scaling = {};

  int64_t original() const { return scaling.original_max_seq_len.value_or(max_seq_len); }
  /// scaling_factor, or where that is empty how much longer sequences are than trained ones.
  double stretch() const {
    return scaling.scaling_factor.value_or(double(max_seq_len) / double(original()));
  }
  double factor() const { return scaling.scaling_factor.value_or(1); }
  bool is(const char* type) const { return scaling.scaling_type.value_or("none") == type; }

  /// Throws where the options do not fit each other.
  void check() const;
  /// Which frequencies hold at a length in use: equal numbers for equal ones.
  int64_t variant(int64_t length) const;
  bool varies() const { return variant(max_seq_len) != 0; }
  /// The angle of one position, for each pair, in f32 as PyTorch implementations compute it, so
  /// that equal weights give equal results.
  std::vector<float> frequencies(int64_t length) const;
  /// What cosines and sines are multiplied by.
  double attention_factor() const;
  /// What latent attention multiplies its scores by.
  double latent_score_factor() const;
  /// What xpos multiplies pair j of a query at a position by; a key's by one over it.
  double decay(int64_t position, int64_t pair) const;
};

/// The positions that the rows of a table are for: 0, 1, …, or those listed.
struct TableRows {
  int64_t count = 0;
  const int64_t* listed = nullptr;
  int64_t operator[](int64_t row) const { return listed ? listed[row] : row; }
};
/// The positions of ctx [B,T] as contiguous i64 where a table of these alone is far smaller than
/// one of the first `length`; else undefined.
Tensor sparse_positions(const Tensor& x, const Context& ctx, int64_t length);

}  // namespace olm::nn
