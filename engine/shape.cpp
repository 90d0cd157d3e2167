#include <olm/engine/shape.h>

#include <algorithm>
#include <ostream>

namespace olm {

Shape::Shape(std::span<const int64_t> dims) : rank_(int(dims.size())) {
  require(dims.size() <= size_t(kMaxRank), "shape: at most ", kMaxRank, " dimensions, got ",
          dims.size());
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int64_t d : *this)
    require(!__builtin_mul_overflow(n, d, &n), "shape: ", *this, " has too many elements");
  return n;
}

void Shape::push_back(int64_t size) { insert(rank_, size); }

void Shape::insert(int at, int64_t size) {
  require(rank_ < kMaxRank, "shape: at most ", kMaxRank, " dimensions, ", *this, " has no room");
  for (int i = rank_; i > at; --i) dims_[i] = dims_[i - 1];
  dims_[at] = size;
  ++rank_;
}

void Shape::erase(int at) {
  for (int i = at; i + 1 < rank_; ++i) dims_[i] = dims_[i + 1];
  dims_[--rank_] = 0;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int i = 0; i < shape.rank(); ++i) out << (i ? "," : "") << shape[i];
  return out << ']';
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

int normalize_dim(const char* op, int64_t dim, int rank) {
  const int64_t d = dim < 0 ? dim + rank : dim;
  require(d >= 0 && d < rank, op, ": dimension ", dim, " is out of range for rank ", rank);
  return int(d);
}

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  const Shape& longer = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  Shape result = longer;
  const int shift = longer.rank() - shorter.rank();
  for (int i = 0; i < shorter.rank(); ++i) {
    const int64_t x = longer[i + shift], y = shorter[i];
    require(x == y || x == 1 || y == 1, op, ": shapes ", a, " and ", b, " do not broadcast");
    result[i + shift] = x == 1 ? y : x;
  }
  return result;
}

Shape infer_shape(const char* op, const Shape& wanted, int64_t numel) {
  Shape result = wanted;
  int unknown = -1;
  int64_t known = 1;
  for (int i = 0; i < wanted.rank(); ++i) {
    if (wanted[i] == -1) {
      require(unknown < 0, op, ": only one dimension may be -1, got ", wanted);
      unknown = i;
    } else {
      require(wanted[i] >= 0, op, ": sizes cannot be negative, got ", wanted);
      require(!__builtin_mul_overflow(known, wanted[i], &known), op, ": ", wanted,
              " has too many elements");
    }
  }
  if (unknown >= 0) {
    require(known > 0 && numel % known == 0, op, ": ", numel, " elements do not fit ", wanted);
    result[unknown] = numel / known;
  }
  require(result.numel() == numel, op, ": ", numel, " elements do not fit ", wanted);
  return result;
}

}  // namespace olm
