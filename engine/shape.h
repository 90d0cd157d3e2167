#pragma once
// Shapes, strides and dimension arithmetic.
#include <array>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <vector>

#include <olm/kernels/base/error.h>

namespace olm {

inline constexpr int kMaxRank = 8;

/// Up to eight integers, held inline: a shape, strides, or a list of dimensions.
class OLM_API Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  Shape(const std::vector<int64_t>& dims) : Shape(std::span(dims)) {}
  /// Throws for more than kMaxRank numbers, as all constructors do.
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  int64_t back() const { return dims_[rank_ - 1]; }
  std::span<const int64_t> span() const { return {begin(), size_t(rank_)}; }
  /// Product of all sizes; 1 for rank 0.
  int64_t numel() const;
  void push_back(int64_t size);
  void insert(int at, int64_t size);
  void erase(int at);
  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a.dims_[i] != b.dims_[i]) return false;
    return true;
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// Prints `[4,128,768]`.
OLM_API std::ostream& operator<<(std::ostream&, const Shape&);

/// Row-major strides of `shape`, in elements.
OLM_API Shape contiguous_strides(const Shape& shape);
/// `dim` counted from the front; negative counts from the back. Throws naming `op` if out of range.
OLM_API int normalize_dim(const char* op, int64_t dim, int rank);
/// The shape both broadcast to by the usual rules. Throws naming `op` if they do not.
OLM_API Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);
/// `wanted` with its single -1 replaced so that it holds `numel` elements. Throws naming `op`.
OLM_API Shape infer_shape(const char* op, const Shape& wanted, int64_t numel);

}  // namespace olm
