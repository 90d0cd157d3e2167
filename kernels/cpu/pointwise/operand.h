#pragma once
// Operands of pointwise kernels on the CPU: whatever their strides, loops see rows in a line.
#include <olm/kernels/pointwise.h>

#include <algorithm>

namespace olm::kernels {

constexpr int64_t kPointwiseChunk = 1024;   // elements a loop handles at once, in L1
constexpr int64_t kPointwiseGrain = 16384;  // elements that make a range of work

inline int64_t count(int rank, const int64_t* shape) {
  int64_t n = 1;
  for (int i = 0; i < rank; ++i) n *= shape[i];
  return n;
}

/// An operand indexed by the flat index of the result. Dimensions that can be walked as one are
/// joined, so most operands end with one dimension.
template <class T>
class Operand {
 public:
  Operand(const Strided& operand, int rank, const int64_t* shape)
      : data_(static_cast<const T*>(operand.data)) {
    for (int i = 0; i < rank; ++i) {
      if (shape[i] == 1) continue;
      const int64_t stride = operand.strides[i];
      if (rank_ > 0 && strides_[rank_ - 1] == stride * shape[i]) {
        shape_[rank_ - 1] *= shape[i];
        strides_[rank_ - 1] = stride;
      } else {
        shape_[rank_] = shape[i];
        strides_[rank_++] = stride;
      }
    }
    if (rank_ == 0) shape_[rank_++] = 1;
  }

  /// Elements [begin, begin + n) in the order of the result: where they lie if they lie in a line,
  /// else copied to `buffer`.
  const T* fetch(int64_t begin, int64_t n, T* buffer) const {
    if (rank_ == 1 && (strides_[0] == 1 || shape_[0] == 1)) return data_ + begin;
    int64_t index[8], rest = begin, offset = 0;
    for (int i = rank_ - 1; i >= 0; --i) {
      index[i] = rest % shape_[i];
      rest /= shape_[i];
      offset += index[i] * strides_[i];
    }
    const int last = rank_ - 1;
    for (int64_t done = 0; done < n;) {
      const int64_t run = std::min(n - done, shape_[last] - index[last]);
      copy_run(data_ + offset, strides_[last], run, buffer + done);
      done += run;
      index[last] += run;
      offset += run * strides_[last];
      for (int i = last; i > 0 && index[i] == shape_[i]; --i) {
        index[i] = 0;
        ++index[i - 1];
        offset += strides_[i - 1] - shape_[i] * strides_[i];
      }
    }
    return buffer;
  }

 private:
  static void copy_run(const T* from, int64_t stride, int64_t n, T* to) {
    if (stride == 1)
      std::copy_n(from, n, to);
    else if (stride == 0)
      std::fill_n(to, n, *from);
    else
      for (int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
  }

  const T* data_;
  int rank_ = 0;
  int64_t shape_[8] = {}, strides_[8] = {};
};

}  // namespace olm::kernels
