// The router of a mixture. A warp takes a token: scores as softmax or sigmoid, then top_k rounds in
// which each lane offers the best of its experts (e = lane, lane + 32, …) and the warp takes the
// largest offer; only the lane that gave it looks again. What is compared are integers that order
// as the contract orders scores. Traffic: logits read once, scores written once; a token's row
// stays in shared memory.
#include <olm/kernels/moe_route.h>
#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/reduce.cuh>
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kMaxWarps = 4;

/// What a token needs to know of the call.
struct Router {
  int32_t* experts = nullptr;
  float *weights = nullptr, *scores = nullptr;
  const float* bias = nullptr;
  int64_t tokens = 0;
  int num_experts = 0, top_k = 0, groups = 1, top_groups = 1;
  bool sigmoid = false, normalize = true;
  float scale = 1, epsilon = 0;
};

/// Integers that order as floats do, -0 as 0 and NaN above all; 0 is below every one of them.
constexpr uint32_t kOut = 0;
__device__ inline uint32_t order_of(float x) {
  if (isnan(x)) return 0xffffffffu;
  const uint32_t bits = std::bit_cast<uint32_t>(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float number_of(uint32_t order) {
  if (order == 0xffffffffu) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(order >> 31 ? order & 0x7fffffffu : ~order);
}

/// An order and an index in one number; of equal orders the lower index is the larger.
using Offer = unsigned long long;
__device__ inline Offer offer(uint32_t order, int index) {
  return Offer(order) << 32 | (0xffffffffu - unsigned(index));
}
__device__ inline int index_of(Offer o) { return int(0xffffffffu - unsigned(o)); }

/// The largest offer of this lane's entries of orders [n].
__device__ inline Offer best_of_lane(const uint32_t* orders, int n) {
  Offer best = 0;
  for (int i = int(threadIdx.x) % kWarp; i < n; i += kWarp)
    if (const Offer own = offer(orders[i], i); own > best) best = own;
  return best;
}

/// Takes the `count` largest of orders [n], in order: calls take(i, rank) in all lanes and leaves
/// kOut in their place.
template <class Take>
__device__ inline void choose(uint32_t* orders, int n, int count, const Take& take) {
  Offer own = best_of_lane(orders, n);
  for (int rank = 0; rank < count; ++rank) {
    const Offer best = warp_max(own);
    const int i = index_of(best);
    take(i, rank);
    if (own != best) continue;
    orders[i] = kOut;
    own = best_of_lane(orders, n);
  }
  __syncwarp();
}

/// Leaves kOut for the experts of all but the best groups. of_group: [groups], of the warp.
__device__ inline void keep_groups(const Router& k, uint32_t* orders, uint32_t* of_group) {
  const int lane = int(threadIdx.x) % kWarp, size = k.num_experts / k.groups;
  for (int g = lane; g < k.groups; g += kWarp) {
    uint32_t first = kOut, second = kOut;
    for (int i = g * size; i < (g + 1) * size; ++i) {
      const uint32_t own = orders[i];
      second = own > first ? first : own > second ? own : second;
      first = own > first ? own : first;
    }
    of_group[g] = size == 1 ? first : order_of(number_of(first) + number_of(second));
  }
  __syncwarp();
  // A group that was taken is marked by kOut: what is left is put out.
  choose(of_group, k.groups, k.top_groups, [](int, int) {});
  for (int e = lane; e < k.num_experts; e += kWarp)
    if (of_group[e / size] != kOut) orders[e] = kOut;
  __syncwarp();
}

/// scores [num_experts] of the warp, given logits.
template <class T>
__device__ inline void compute_scores(const Router& k, const T* logits, float* scores) {
  const int lane = int(threadIdx.x) % kWarp;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float most = -kInfinity, sum = 0;
  for (int e = lane; e < k.num_experts; e += kWarp) {
    const float x = to_float(logits[e]);
    scores[e] = k.sigmoid ? 1.0f / (1.0f + expf(-x)) : x;
    if (x > most) most = x;
  }
  if (k.sigmoid) return;
  most = warp_max(most);
  const bool empty = most == -kInfinity;  // all -inf, whose scores are 0, or NaN
  for (int e = lane; e < k.num_experts; e += kWarp) {
    const float x = scores[e], power = empty ? (isnan(x) ? x : 0.0f) : expf(x - most);
    scores[e] = power;
    sum += power;
  }
  sum = warp_sum(sum);
  const float inverse = empty && sum == 0 ? 0.0f : 1.0f / sum;
  for (int e = lane; e < k.num_experts; e += kWarp) scores[e] *= inverse;
}

/// Shared memory of a warp: scores [num_experts], orders [num_experts], of_group [groups].
template <class T>
__global__ void route(const T* logits, const __grid_constant__ Router k) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  float* scores = shared<float>() + int64_t(warp) * (2 * k.num_experts + k.groups);
  auto* orders = reinterpret_cast<uint32_t*>(scores + k.num_experts);
  const int64_t warps = global_threads() / kWarp;
  for (int64_t token = global_thread() / kWarp; token < k.tokens; token += warps) {
    compute_scores(k, logits + token * k.num_experts, scores);
    for (int e = lane; e < k.num_experts; e += kWarp) {
      k.scores[token * k.num_experts + e] = scores[e];
      orders[e] = order_of(k.bias ? scores[e] + k.bias[e] : scores[e]);
    }
    __syncwarp();
    if (k.top_groups < k.groups) keep_groups(k, orders, orders + k.num_experts);
    int32_t* experts = k.experts + token * k.top_k;
    float sum = 0;
    choose(orders, k.num_experts, k.top_k, [&](int e, int rank) {
      sum += scores[e];
      if (lane == 0) experts[rank] = e;
    });
    const float factor = k.normalize ? k.scale * (1.0f / (sum + k.epsilon)) : k.scale;
    for (int j = lane; j < k.top_k; j += kWarp)
      k.weights[token * k.top_k + j] = factor * scores[experts[j]];
    __syncwarp();  // the warp's memory is used again
  }
}

/// Adds the gradient that reaches scores through the weights to ds [num_experts] of the warp.
__device__ inline void weights_backward(const Router& k, int64_t token, const float* dweights,
                                        float* ds) {
  const float* scores = k.scores + token * k.num_experts;
  const int32_t* experts = k.experts + token * k.top_k;
  const float* dw = dweights + token * k.top_k;
  float norm = 1, lost = 0;  // lost: what each score loses by being part of the sum
  if (k.normalize) {
    float sum = 0;
    for (int j = 0; j < k.top_k; ++j) sum += scores[experts[j]];
    norm = 1.0f / (sum + k.epsilon);
    for (int j = 0; j < k.top_k; ++j) lost += dw[j] * (scores[experts[j]] * norm);
  }
  for (int j = int(threadIdx.x) % kWarp; j < k.top_k; j += kWarp)
    ds[experts[j]] += k.scale * norm * (dw[j] - lost);
  __syncwarp();
}

template <class T>
__global__ void route_backward(T* dlogits, const float* dweights, const float* dscores,
                               const __grid_constant__ Router k) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  float* ds = shared<float>() + int64_t(warp) * k.num_experts;
  const int64_t warps = global_threads() / kWarp;
  for (int64_t token = global_thread() / kWarp; token < k.tokens; token += warps) {
    const float* scores = k.scores + token * k.num_experts;
    const int64_t row = token * k.num_experts;
    for (int e = lane; e < k.num_experts; e += kWarp) ds[e] = dscores ? dscores[row + e] : 0.0f;
    __syncwarp();
    if (dweights) weights_backward(k, token, dweights, ds);
    float dot = 0;
    for (int e = lane; e < k.num_experts && !k.sigmoid; e += kWarp) dot += ds[e] * scores[e];
    dot = warp_sum(dot);
    for (int e = lane; e < k.num_experts; e += kWarp) {
      const float s = scores[e];
      dlogits[row + e] = from_float<T>(k.sigmoid ? ds[e] * (s * (1 - s)) : s * (ds[e] - dot));
    }
    __syncwarp();  // the warp's memory is used again
  }
}

template <class K>
Router router(const K& k) {
  return {.tokens = k.tokens,
          .num_experts = int(k.num_experts),
          .top_k = int(k.top_k),
          .sigmoid = k.scoring == MoEScoring::sigmoid,
          .normalize = k.normalize,
          .scale = float(k.scale),
          .epsilon = float(k.epsilon)};
}

/// Blocks of as many warps, at most kMaxWarps, as have `floats` of shared memory each.
Launch warp_per_token(const char* name, int64_t tokens, int64_t experts, int64_t floats,
                      const Stream& stream) {
  const int64_t bytes = std::max<int64_t>(floats, 1) * int64_t(sizeof(float));
  const int64_t warps = std::min(kMaxWarps, int64_t(kMaxShared) / bytes);
  require(warps > 0, name, ": cuda has no room for ", experts, " experts");
  return {.grid = blocks_for(tokens, warps, 16384),
          .block = warps * kWarp,
          .shared = size_t(warps * bytes),
          .stream = stream};
}

}  // namespace

void run(Cuda, const MoERoute& k) {
  check(k);
  Router r = router(k);
  r.experts = k.experts;
  r.weights = out<float>(k.weights);
  r.scores = out<float>(k.scores);
  r.bias = in<float>(k.bias);
  r.groups = int(k.groups);
  r.top_groups = int(k.top_groups);
  const Launch shape =
      warp_per_token(k.name, k.tokens, k.num_experts, 2 * k.num_experts + k.groups, k.stream);
  visit_cuda_float(k.dtype, [&]<class T>() { launch(route<T>, shape, in<T>(k.logits), r); });
}

void run(Cuda, const MoERouteBackward& k) {
  Router r = router(k);
  r.experts = const_cast<int32_t*>(k.experts);
  r.scores = const_cast<float*>(in<float>(k.scores));
  const Launch shape = warp_per_token(k.name, k.tokens, k.num_experts, k.num_experts, k.stream);
  visit_cuda_float(k.dtype, [&]<class T>() {
    launch(route_backward<T>, shape, out<T>(k.dlogits), in<float>(k.dweights), in<float>(k.dscores),
           r);
  });
}

}  // namespace olm::kernels
