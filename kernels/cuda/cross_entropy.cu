// Cross-entropy: a block makes a row of logits, which is read once forward (maximum and sum of
// exponentials together) and once backward. Blocks go on over the rows. The number of targets and
// the sum of losses are made by one block each, losses in f64, in an order fixed by `rows`.
#include <olm/kernels/cuda/cross_entropy.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kMaxThreads = 512, kMaxRowBlocks = 1 << 16;

__global__ void __launch_bounds__(1024)
    cross_entropy_scale(float* scale, LossTerms terms, int64_t rows, bool mean, Faults faults) {
  unsigned long long valid = 0;
  for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) {
    const int64_t t = terms.target(r);
    if (t != terms.ignore_index && faults.check(t, r, terms.cols)) ++valid;
  }
  valid = block_sum(valid);
  if (threadIdx.x == 0) *scale = !mean ? 1.0f : valid > 0 ? float(1.0 / double(valid)) : 0.0f;
}

__global__ void __launch_bounds__(1024)
    cross_entropy_total(float* total, const float* losses, const float* scale, int64_t rows) {
  double sum = 0;
  for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) sum += double(losses[r]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = float(sum * double(*scale));
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads)
    cross_entropy_forward(float* losses, float* row_max, float* row_log_sum, const T* logits,
                          LossTerms terms, int64_t rows) {
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int64_t t = terms.target(r);
    float loss = 0;
    RowLse lse{0, 0};
    if (!terms.is_ignored(t)) loss = cross_entropy_row(logits + r * terms.cols, terms, t, lse);
    if (threadIdx.x != 0) continue;
    losses[r] = loss;
    row_max[r] = lse.maximum;
    row_log_sum[r] = lse.log_sum;
  }
}

template <class T>
struct BackwardRows {
  T* dlogits;
  const float *dy, *scale;
  const T* logits;
  const float *row_max, *row_log_sum;
  int64_t rows;
  bool one_dy;
};

template <class T>
__global__ void __launch_bounds__(kMaxThreads)
    cross_entropy_backward(BackwardRows<T> k, LossTerms terms) {
  for (int64_t r = blockIdx.x; r < k.rows; r += gridDim.x) {
    const int64_t t = terms.target(r);
    T* dlogits = k.dlogits + r * terms.cols;
    if (terms.is_ignored(t)) {
      clear_row(dlogits, terms.cols);
      continue;
    }
    const float dy = k.dy[k.one_dy ? 0 : r] * (k.scale ? *k.scale : 1.0f);
    const LossGradient gradient(terms, {k.row_max[r], k.row_log_sum[r]}, dy, 0);
    cross_entropy_row_backward(k.logits + r * terms.cols, terms, t, gradient, dlogits);
  }
}

/// One block over all rows.
Launch one_block(int64_t rows, const Stream& stream) {
  return {.grid = 1, .block = row_block(rows), .stream = stream};
}
template <class T>
Launch row_blocks(int64_t rows, int64_t cols, const Stream& stream) {
  return {.grid = blocks_for(rows, 1, kMaxRowBlocks),
          .block = loss_block<T>(cols, kMaxThreads),
          .stream = stream};
}

}  // namespace

void run(Cuda, const CrossEntropyScale& k) {
  const CrossEntropyTerms terms{.ignore_index = k.ignore_index};
  launch(cross_entropy_scale, one_block(k.rows, k.stream), out<float>(k.scale),
         loss_terms(terms, k.targets, k.target_dtype, k.classes), k.rows, k.mean,
         Faults("cross_entropy", k.stream));
}

void run(Cuda, const CrossEntropyTotal& k) {
  launch(cross_entropy_total, one_block(k.rows, k.stream), out<float>(k.total), in<float>(k.losses),
         in<float>(k.scale), k.rows);
}

void run(Cuda, const CrossEntropyForward& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    launch(cross_entropy_forward<T>, row_blocks<T>(k.rows, k.cols, k.stream), out<float>(k.losses),
           out<float>(k.row_max), out<float>(k.row_log_sum), in<T>(k.logits),
           loss_terms(k.terms, k.targets, k.target_dtype, k.cols), k.rows);
  });
}

void run(Cuda, const CrossEntropyBackward& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    const BackwardRows<T> rows{.dlogits = out<T>(k.dlogits),
                               .dy = in<float>(k.dy),
                               .scale = in<float>(k.scale),
                               .logits = in<T>(k.logits),
                               .row_max = in<float>(k.row_max),
                               .row_log_sum = in<float>(k.row_log_sum),
                               .rows = k.rows,
                               .one_dy = k.one_dy};
    launch(cross_entropy_backward<T>, row_blocks<T>(k.rows, k.cols, k.stream), rows,
           loss_terms(k.terms, k.targets, k.target_dtype, k.cols));
  });
}

}  // namespace olm::kernels
