// Optimizer updates over lists of tensors. The list travels as a kernel parameter, in batches that
// fit in 4 KB; every tensor is cut into pieces of kPiece elements, and a block makes one piece, so
// that many small tensors cost as much as one large one. Bound by memory: each tensor is read
// once and written once, 16 bytes at a time. Scalars of the step are read from device memory. The
// norm is a sum of pieces' sums, both in f64, in an order fixed by the tensors' sizes.
#include <olm/kernels/optim_internal.h>
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kPiece = kNormBlock;
constexpr size_t kMaxParameterBytes = 3840;  // of 4096, the rest for other parameters

/// A batch of a list of tensors; piece b of the grid is in the last tensor that starts at or
/// before b.
template <class Tensor>
struct Table {
  static constexpr int kMax = int(kMaxParameterBytes / (sizeof(Tensor) + sizeof(int32_t)));
  Tensor tensors[kMax];
  int32_t starts[kMax] = {};
  int count = 0;
};

struct PieceOf {
  int tensor;
  int64_t begin, end;
};
template <class Tensor>
__device__ inline PieceOf piece_of(const Table<Tensor>& table, int block) {
  int low = 0, high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.starts[middle] <= block)
      low = middle;
    else
      high = middle - 1;
  }
  const int64_t begin = (block - table.starts[low]) * kPiece, n = table.tensors[low].n;
  return {low, begin, begin + kPiece < n ? begin + kPiece : n};
}

/// Calls f(table, its number of pieces) for all tensors that are not empty, in batches.
template <class Tensor, class F>
void for_tables(const Tensor* tensors, int64_t count, F&& f) {
  for (int64_t i = 0; i < count;) {
    Table<Tensor> table;
    int64_t pieces = 0;
    for (; i < count && table.count < table.kMax; ++i) {
      if (tensors[i].n == 0) continue;
      table.tensors[table.count] = tensors[i];
      table.starts[table.count++] = int32_t(pieces);
      pieces += ceil_div(tensors[i].n, kPiece);
    }
    require(pieces < int64_t(1) << 31, "cuda: parameters of an optimizer are too large");
    f(table, pieces);
  }
}

// The norm ----------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kBlock)
    sum_squares(__grid_constant__ const Table<NormTensor> table, double* sums) {
  constexpr int N = kVec<T>;
  const PieceOf at = piece_of(table, int(blockIdx.x));
  const T* x = in<T>(table.tensors[at.tensor].x);
  const bool aligned = is_aligned(x);
  double sum = 0;
  for (int64_t i = at.begin + int64_t(threadIdx.x) * N; i < at.end; i += kBlock * N) {
    float v[N];
    load_floats(v, x + i, aligned && at.end - i >= N, at.end - i);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += double(v[j]) * double(v[j]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(1024) finish_norm(double* norm, const double* sums, int64_t n) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

// Steps, by single threads ------------------------------------------------------------------------

/// A batch of a list of pointers.
template <class T>
struct Pointers {
  static constexpr int kMax = int(kMaxParameterBytes / sizeof(T*));
  const T* at[kMax];
  int count = 0;
};
/// Calls f(pointers, is the first batch, is the last) for a list in batches; once for an empty one.
template <class T, class List, class F>
void for_pointers(const List* list, int64_t count, F&& f) {
  int64_t i = 0;
  do {
    Pointers<T> batch;
    const bool first = i == 0;
    for (; i < count && batch.count < batch.kMax; ++i)
      batch.at[batch.count++] = static_cast<const T*>(list[i]);
    f(batch, first, i == count);
  } while (i < count);
}

__global__ void write_step(StepScalars* s, StepInputs inputs) {
  s->lr = inputs.lr;
  s->gradient_scale = inputs.gradient_scale;
  s->step = inputs.step;
}
__global__ void open_step(BeginStep k) {
  begin_step(*k.scalars, k, k.stream.fault && k.stream.fault->claimed != 0);
}

__global__ void sum_aux(__grid_constant__ const Pointers<float> aux, double* sum, bool first) {
  double total = first ? 0.0 : *sum;
  for (int i = 0; i < aux.count; ++i) total += double(*aux.at[i]);
  *sum = total;
}
__global__ void take_loss(StepScalars* s, const float* loss, const double* aux, double targets,
                          bool accumulate) {
  s->loss = (accumulate ? s->loss : 0.0) + (double(*loss) - *aux) * targets;
  s->aux = (accumulate ? s->aux : 0.0) + *aux * targets;
}

/// loads: [experts + 1], the last is their sum; each batch is added, and the last one moves biases.
__global__ void __launch_bounds__(1024)
    balance(__grid_constant__ const Pointers<int32_t> offsets, long long* loads, float* bias,
            int64_t experts, double rate, bool first, bool last) {
  for (int64_t e = threadIdx.x; e <= experts; e += blockDim.x) {
    long long load = first ? 0 : loads[e];
    for (int i = 0; i < offsets.count; ++i) {
      const int32_t* of = offsets.at[i];
      load += e < experts ? of[e + 1] - of[e] : of[experts];
    }
    loads[e] = load;
  }
  __syncthreads();
  for (int64_t e = threadIdx.x; last && e < experts; e += blockDim.x)
    bias[e] = moved_bias(bias[e], loads[e], loads[experts], experts, rate);
}

// Updates: Factors of a tensor, made once for each block, and one element -------------------------

struct AdamW {
  struct Factors {
    float clip, keep, rate, root;
  };
  double beta1, beta2;
  float b1, b2, c1, c2, eps;
  static constexpr bool first = true, second = true;

  __device__ Factors factors(const StepScalars& s, const OptimTensor& t) const {
    const double rate = s.lr * t.lr_scale, step = double(s.step - t.missed);
    return {float(s.clip), float(1 - rate * t.weight_decay), float(rate / (1 - pow(beta1, step))),
            float(1 / sqrt(1 - pow(beta2, step)))};
  }
  __device__ void operator()(const Factors& f, float& p, float g, float& m, float& v) const {
    g *= f.clip;
    m = fmaf(m, b1, g * c1);
    v = fmaf(v, b2, g * g * c2);
    p = fmaf(-f.rate, m / fmaf(sqrtf(v), f.root, eps), p * f.keep);
  }
};

struct SGD {
  struct Factors {
    float clip, decay, rate;
  };
  float momentum;
  bool nesterov, first;
  static constexpr bool second = false;

  __device__ Factors factors(const StepScalars& s, const OptimTensor& t) const {
    return {float(s.clip), float(t.weight_decay), float(s.lr * t.lr_scale)};
  }
  __device__ void operator()(const Factors& f, float& p, float g, float& m, float&) const {
    g = fmaf(p, f.decay, g * f.clip);
    if (first) {
      m = fmaf(m, momentum, g);
      g = nesterov ? fmaf(m, momentum, g) : m;
    }
    p = fmaf(-f.rate, g, p);
  }
};

struct Lion {
  struct Factors {
    float clip, keep, rate;
  };
  float b1, b2, c1, c2;
  static constexpr bool first = true, second = false;

  __device__ Factors factors(const StepScalars& s, const OptimTensor& t) const {
    const double rate = s.lr * t.lr_scale;
    return {float(s.clip), float(1 - rate * t.weight_decay), float(rate)};
  }
  __device__ void operator()(const Factors& f, float& p, float g, float& m, float&) const {
    g *= f.clip;
    const float blend = fmaf(m, b1, g * c1);
    p = p * f.keep - (blend > 0 ? f.rate : blend < 0 ? -f.rate : 0.0f);
    m = fmaf(m, b2, g * c2);
  }
};

template <class Update>
__global__ void __launch_bounds__(kBlock)
    update_piece(__grid_constant__ const Table<OptimTensor> table, Update update,
                 const StepScalars* scalars) {
  constexpr int N = 4;
  if (scalars->skip) return;  // the whole grid
  const PieceOf at = piece_of(table, int(blockIdx.x));
  const OptimTensor& t = table.tensors[at.tensor];
  auto* of_block = shared<typename Update::Factors>();
  if (threadIdx.x == 0) *of_block = update.factors(*scalars, t);
  __syncthreads();
  const typename Update::Factors factors = *of_block;
  auto *p = out<float>(t.parameter), *m = out<float>(t.first), *v = out<float>(t.second);
  const auto* g = in<float>(t.gradient);
  const bool aligned = is_aligned(p, g, m, v);
  for (int64_t i = at.begin + int64_t(threadIdx.x) * N; i < at.end; i += kBlock * N) {
    const int64_t left = at.end - i;
    const bool whole = aligned && left >= N;
    float pi[N], gi[N], mi[N] = {}, vi[N] = {};
    load_floats(pi, p + i, whole, left);
    load_floats(gi, g + i, whole, left);
    if (update.first) load_floats(mi, m + i, whole, left);
    if (update.second) load_floats(vi, v + i, whole, left);
#pragma unroll
    for (int j = 0; j < N; ++j) update(factors, pi[j], gi[j], mi[j], vi[j]);
    store_floats(p + i, pi, whole, left);
    if (update.first) store_floats(m + i, mi, whole, left);
    if (update.second) store_floats(v + i, vi, whole, left);
  }
}

template <class Update, class Call>
void run_update(const Call& k, const Update& update) {
  require(k.dtype == f32, k.name, ": on cuda parameters must be f32, got ", k.dtype);
  for_tables(k.tensors, k.count, [&](const Table<OptimTensor>& table, int64_t pieces) {
    launch(update_piece<Update>,
           {.grid = pieces,
            .block = kBlock,
            .shared = sizeof(typename Update::Factors),
            .stream = k.stream},
           table, update, k.scalars);
  });
}

/// A launch of one thread.
Launch single(const Stream& stream) { return {.grid = 1, .block = 1, .stream = stream}; }

}  // namespace

void run(Cuda, const SquaredSums& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    int64_t done = 0;
    for_tables(k.tensors, k.count, [&](const Table<NormTensor>& table, int64_t pieces) {
      launch(sum_squares<T>, {.grid = pieces, .block = kBlock, .stream = k.stream}, table,
             k.sums + done);
      done += pieces;
    });
  });
}

void run(Cuda, const NormOfSums& k) {
  launch(finish_norm, {.grid = 1, .block = row_block(k.n), .stream = k.stream}, k.norm, k.sums,
         k.n);
}

void run(Cuda, const WriteStep& k) { launch(write_step, single(k.stream), k.scalars, k.inputs); }

void run(Cuda, const AccumulateLoss& k) {
  require(k.dtype == f32, k.name, ": on cuda losses must be f32, got ", k.dtype);
  const auto aux = k.stream.scratch<double>(1);
  for_pointers<float>(k.aux, k.aux_count, [&](const Pointers<float>& batch, bool first, bool) {
    launch(sum_aux, single(k.stream), batch, aux.get(), first);
  });
  launch(take_loss, single(k.stream), k.scalars, in<float>(k.loss), aux.get(), k.targets,
         k.accumulate);
}

void run(Cuda, const BeginStep& k) { launch(open_step, single(k.stream), k); }

void run(Cuda, const AdamWUpdate& k) {
  run_update(k, AdamW{.beta1 = k.beta1,
                      .beta2 = k.beta2,
                      .b1 = float(k.beta1),
                      .b2 = float(k.beta2),
                      .c1 = float(1 - k.beta1),
                      .c2 = float(1 - k.beta2),
                      .eps = float(k.eps)});
}

void run(Cuda, const SGDUpdate& k) {
  run_update(k,
             SGD{.momentum = float(k.momentum), .nesterov = k.nesterov, .first = k.momentum != 0});
}

void run(Cuda, const LionUpdate& k) {
  run_update(k, Lion{.b1 = float(k.beta1),
                     .b2 = float(k.beta2),
                     .c1 = float(1 - k.beta1),
                     .c2 = float(1 - k.beta2)});
}

void run(Cuda, const ExpertBiasUpdate& k) {
  const auto loads = k.stream.scratch<long long>(size_t(k.experts + 1));
  for_pointers<int32_t>(
      k.offsets, k.count, [&](const Pointers<int32_t>& batch, bool first, bool last) {
        launch(balance, {.grid = 1, .block = row_block(k.experts + 1, 1), .stream = k.stream},
               batch, loads.get(), k.bias, k.experts, k.rate, first, last);
      });
}

}  // namespace olm::kernels
