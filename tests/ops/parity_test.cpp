// Every op that PyTorch has too, against what PyTorch computes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/ops/cumsum.h>
#include <olm/autograd/ops/embedding.h>
#include <olm/autograd/ops/flash_attention.h>
#include <olm/autograd/ops/gated.h>
#include <olm/autograd/ops/index.h>
#include <olm/autograd/ops/linear.h>
#include <olm/autograd/ops/linear_cross_entropy.h>
#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/ops/norm.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/rope.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/softmax.h>
#include <olm/autograd/ops/sort.h>
#include <olm/autograd/ops/view.h>
#include <olm/autograd/ops/where.h>
#include <olm/engine/raw.h>
#include <tests/support/parity.h>

using namespace olm;
using namespace olm::test;

namespace {

const char* const kFile = "ops.safetensors";

ParityTable arithmetic() {
  return {
      {"add", [](auto& in) { return in[0] + in[1]; }},
      {"add_broadcast", [](auto& in) { return in[0] + in[1]; }},
      {"sub_broadcast", [](auto& in) { return in[0] - in[1]; }},
      {"mul", [](auto& in) { return in[0] * in[1]; }},
      {"mul_broadcast", [](auto& in) { return in[0] * in[1]; }},
      {"div_broadcast", [](auto& in) { return in[0] / in[1]; }},
      {"pow_broadcast", [](auto& in) { return pow(in[0], in[1]); }},
      {"add_number", [](auto& in) { return in[0] + 1.5; }},
      {"number_sub", [](auto& in) { return 2.5 - in[0]; }},
      {"mul_number", [](auto& in) { return in[0] * -0.75; }},
      {"div_number", [](auto& in) { return in[0] / 3.0; }},
      {"number_div", [](auto& in) { return 2.0 / in[0]; }},
      {"negate", [](auto& in) { return -in[0]; }},
      {"maximum", [](auto& in) { return maximum(in[0], in[1]); }},
      {"minimum", [](auto& in) { return minimum(in[0], in[1]); }},
      {"maximum_broadcast", [](auto& in) { return maximum(in[0], in[1]); }},
      {"where", [](auto& in) { return where(in[0], in[1], in[2]); }},
      {"clamp", [](auto& in) { return clamp(in[0], -0.5, 0.75); }},
      {"eq", [](auto& in) { return eq(in[0], in[1]); }},
      {"ne", [](auto& in) { return ne(in[0], in[1]); }},
      {"lt", [](auto& in) { return lt(in[0], in[1]); }},
      {"le", [](auto& in) { return le(in[0], in[1]); }},
      {"gt", [](auto& in) { return gt(in[0], in[1]); }},
      {"ge", [](auto& in) { return ge(in[0], in[1]); }},
  };
}

ParityTable pointwise() {
  return {
      {"abs", [](auto& in) { return abs(in[0]); }},
      {"sign", [](auto& in) { return sign(in[0]); }},
      {"square", [](auto& in) { return square(in[0]); }},
      {"reciprocal", [](auto& in) { return reciprocal(in[0]); }},
      {"exp", [](auto& in) { return exp(in[0]); }},
      {"log", [](auto& in) { return log(in[0]); }},
      {"log1p", [](auto& in) { return log1p(in[0]); }},
      {"sqrt", [](auto& in) { return sqrt(in[0]); }},
      {"rsqrt", [](auto& in) { return rsqrt(in[0]); }},
      {"pow_cube", [](auto& in) { return pow(in[0], 3); }},
      {"pow_fraction", [](auto& in) { return pow(in[0], -1.5); }},
      {"sin", [](auto& in) { return sin(in[0]); }},
      {"cos", [](auto& in) { return cos(in[0]); }},
      {"erf", [](auto& in) { return erf(in[0]); }},
      {"tanh", [](auto& in) { return tanh(in[0]); }},
      {"sigmoid", [](auto& in) { return sigmoid(in[0]); }},
      {"relu", [](auto& in) { return relu(in[0]); }},
      {"relu_squared", [](auto& in) { return relu_squared(in[0]); }},
      {"leaky_relu", [](auto& in) { return leaky_relu(in[0], 0.02); }},
      {"elu", [](auto& in) { return elu(in[0], 1.25); }},
      {"selu", [](auto& in) { return selu(in[0]); }},
      {"gelu", [](auto& in) { return gelu(in[0]); }},
      {"gelu_tanh", [](auto& in) { return gelu_tanh(in[0]); }},
      {"silu", [](auto& in) { return silu(in[0]); }},
      {"mish", [](auto& in) { return mish(in[0]); }},
      {"softplus", [](auto& in) { return softplus(in[0]); }},
      {"softplus_beta", [](auto& in) { return softplus(in[0], 2, 15); }},
      {"swiglu", [](auto& in) { return swiglu(in[0]); }},
      {"geglu", [](auto& in) { return geglu(in[0]); }},
      {"reglu", [](auto& in) { return reglu(in[0]); }},
      {"liglu", [](auto& in) { return liglu(in[0]); }},
      {"glu", [](auto& in) { return glu(in[0]); }},
  };
}

ParityTable reductions() {
  const ReduceOptions keep{.keepdim = true};
  return {
      {"sum_all", {.length = 105}, [](auto& in) { return sum(in[0]); }},
      {"sum_dim", [](auto& in) { return sum(in[0], 1); }},
      {"sum_dims_keepdim",
       {.length = 21},
       [=](auto& in) {
         return sum(in[0], {0, 2}, keep);
       }},
      {"mean_all", {.length = 105, .cancelling = 1}, [](auto& in) { return mean(in[0]); }},
      {"mean_dims",
       {.length = 15},
       [](auto& in) {
         return mean(in[0], {0, 1});
       }},
      {"max_dim", [](auto& in) { return max(in[0], -1); }},
      {"max_all", [](auto& in) { return max(in[0]); }},
      {"max_ties", [](auto& in) { return max(in[0], 1); }},
      {"min_dims_keepdim",
       [=](auto& in) {
         return min(in[0], {0, 1}, keep);
       }},
      {"var_dim", [](auto& in) { return var(in[0], -1, {.correction = 0}); }},
      {"var_unbiased_dims",
       {.length = 21},
       [](auto& in) {
         return var(in[0], {0, 2}, {.keepdim = true});
       }},
      {"logsumexp_dim", [](auto& in) { return logsumexp(in[0], 1); }},
      {"logsumexp_dims",
       {.length = 21},
       [=](auto& in) {
         return logsumexp(in[0], {0, 2}, keep);
       }},
      {"argmax_dim", [](auto& in) { return argmax(in[0], 1); }},
      {"argmin_dim", [](auto& in) { return argmin(in[0], 0); }},
      {"argmax_keepdim", [=](auto& in) { return argmax(in[0], -1, keep); }},
      {"cumsum", [](auto& in) { return cumsum(in[0], 1); }},
      {"cumsum_last", [](auto& in) { return cumsum(in[0], -1); }},
      {"topk", [](auto& in) { return topk(in[0], 3).values; }},
      {"topk_indices", [](auto& in) { return topk(in[0], 3, 1).indices; }},
      {"sort", [](auto& in) { return sort(in[0], 1).values; }},
      {"sort_descending", [](auto& in) { return sort(in[0], -1, true).values; }},
      {"argsort", [](auto& in) { return argsort(in[0], 0); }},
      {"argsort_ties", [](auto& in) { return argsort(in[0], -1, true); }},
  };
}

ParityTable products() {
  const auto product = [](auto& in) { return matmul(in[0], in[1]); };
  const auto affine = [](auto& in) { return linear(in[0], in[1], in[2]); };
  return {
      {"matmul", product},
      {"matmul_batched", product},
      {"matmul_broadcast", product},
      {"matmul_vector_matrix", product},
      {"matmul_matrix_vector", product},
      {"matmul_dot", product},
      {"matmul_transposed",
       [](auto& in) { return matmul(transpose(in[0], -1, -2), transpose(in[1], -1, -2)); }},
      {"linear", affine},
      {"linear_without_bias", [](auto& in) { return linear(in[0], in[1]); }},
      {"linear_vector", affine},
      {"linear_gelu_residual",
       [](auto& in) {
         return linear(in[0], in[1], in[2], {.activation = Activation::gelu, .residual = in[3]});
       }},
      {"linear_two_weights",
       [](auto& in) {
         return cat(linear(in[0], Tensors{in[1], in[3]}, Tensors{in[2], in[4]}), -1);
       }},
  };
}

/// The parts in reverse order.
Tensor backwards(Tensors parts, int64_t dim) {
  std::reverse(parts.begin(), parts.end());
  return cat(parts, dim);
}

ParityTable views() {
  return {
      {"view",
       [](auto& in) {
         return view(in[0], {3, -1});
       }},
      {"reshape",
       [](auto& in) {
         return reshape(transpose(in[0], 0, 1), {4, 6});
       }},
      {"transpose", [](auto& in) { return transpose(in[0], 0, -1); }},
      {"flatten", [](auto& in) { return flatten(in[0], 1, 2); }},
      {"squeeze", [](auto& in) { return squeeze(in[0], 1); }},
      {"squeeze_all", [](auto& in) { return squeeze(in[0]); }},
      {"unsqueeze", [](auto& in) { return unsqueeze(in[0], -1); }},
      {"split",
       [](auto& in) {
         return backwards(split(in[0], {2, 3}, 1), 1);
       }},
      {"chunk", [](auto& in) { return backwards(chunk(in[0], 3, -1), -1); }},
      {"contiguous", [](auto& in) { return contiguous(transpose(in[0], 0, 1)); }},
  };
}

ParityTable movement() {
  return {
      {"select", [](auto& in) { return select(in[0], 1, -2); }},
      {"slice", [](auto& in) { return slice(in[0], 1, 1, 5, 2); }},
      {"cat", [](auto& in) { return cat(in, 1); }},
      {"stack", [](auto& in) { return stack(in, -1); }},
      {"expand",
       [](auto& in) {
         return expand(in[0], {4, 3, 5});
       }},
      {"permute",
       [](auto& in) {
         return permute(in[0], {2, 0, 1});
       }},
      {"embedding", [](auto& in) { return embedding(in[0], in[1]); }},
      {"gather", [](auto& in) { return gather(in[0], 1, in[1]); }},
      {"index_select", [](auto& in) { return index_select(in[0], 1, in[1]); }},
      {"scatter_add", [](auto& in) { return scatter_add(in[0], 1, in[1], in[2]); }},
      {"one_hot", [](auto& in) { return one_hot(in[0], 6); }},
      {"masked_fill", [](auto& in) { return masked_fill(in[0], in[1], -2.5); }},
      {"tril", [](auto& in) { return tril(in[0], 1); }},
      {"triu", [](auto& in) { return triu(in[0], -1); }},
  };
}

/// Angles of positions 0 … t - 1 for heads of size d, of the dtype and on the device of `beside`.
RopeTables angles(int64_t t, int64_t d, const Tensor& beside) {
  std::vector<double> cosines, sines;
  for (int64_t p = 0; p < t; ++p)
    for (int64_t i = 0; i < d; i += 2) {
      const double angle = double(p) * std::pow(10000.0, -double(i) / double(d));
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
  const auto table = [&](const std::vector<double>& x) {
    return raw::to(raw::cast(from_host(x, {t, d / 2}), beside.dtype()), beside.device());
  };
  return {.cos = table(cosines), .sin = table(sines)};
}

ParityTable norms() {
  // A row's gradient is the difference of terms of size 1.
  return {
      {"softmax", [](auto& in) { return softmax(in[0]); }},
      {"softmax_dim", [](auto& in) { return softmax(in[0], 1); }},
      {"log_softmax", [](auto& in) { return log_softmax(in[0]); }},
      {"log_softmax_dim", [](auto& in) { return log_softmax(in[0], 0); }},
      {"layer_norm",
       {.length = 33, .cancelling = 1},
       [](auto& in) { return layer_norm(in[0], in[1], in[2], 1e-5); }},
      {"layer_norm_plain",
       {.length = 33, .cancelling = 1},
       [](auto& in) { return layer_norm(in[0], {}, {}, 1e-5); }},
      {"rms_norm",
       {.length = 33, .cancelling = 1},
       [](auto& in) { return rms_norm(in[0], in[1], 1e-5); }},
      {"add_layer_norm",
       {.length = 33, .cancelling = 1},
       [](auto& in) { return add_layer_norm(in[0], in[1], in[2], in[3], 1e-5).y; }},
      {"add_rms_norm",
       {.length = 33, .cancelling = 1},
       [](auto& in) { return add_rms_norm(in[0], in[1], in[2], 1e-6).y; }},
      {"rope", [](auto& in) { return rope(in[0], angles(9, 8, in[0])); }},
  };
}

ParityTable losses() {
  return {
      {"cross_entropy", {.length = 21}, [](auto& in) { return cross_entropy(in[0], in[1]); }},
      {"cross_entropy_ignore",
       {.length = 21},
       [](auto& in) { return cross_entropy(in[0], in[1]); }},
      {"cross_entropy_smoothing",
       {.length = 21},
       [](auto& in) { return cross_entropy(in[0], in[1], {.label_smoothing = 0.1}); }},
      {"cross_entropy_sum",
       {.length = 21},
       [](auto& in) { return cross_entropy(in[0], in[1], {.reduction = Reduction::sum}); }},
      {"cross_entropy_none",
       [](auto& in) {
         return cross_entropy(in[0], in[1], {.label_smoothing = 0.2, .reduction = Reduction::none});
       }},
      {"linear_cross_entropy",
       {.length = 21},
       [](auto& in) { return linear_cross_entropy(in[0], in[1], in[2]); }},
      {"linear_cross_entropy_softcap",
       {.length = 21},
       [](auto& in) {
         return linear_cross_entropy(in[0], in[1], in[3], {.bias = in[2], .softcap = 2.5});
       }},
  };
}

/// Attention of the first three inputs; `extra`, if given, is the option that the fourth is.
ParityRow::Op attend(FlashAttentionOptions options,
                     Tensor FlashAttentionOptions::*extra = nullptr) {
  return [=](auto& in) {
    FlashAttentionOptions o = options;
    if (extra) o.*extra = in[3];
    return flash_attention(in[0], in[1], in[2], o);
  };
}

ParityTable attention() {
  using O = FlashAttentionOptions;
  return {
      {"attention", attend({})},
      {"attention_causal", attend({.causal = true})},
      {"attention_causal_queries", attend({.causal = true})},
      {"attention_gqa", attend({.causal = true})},
      {"attention_scale", attend({.scale = 0.3})},
      {"attention_value_dim", attend({})},
      {"attention_bool_mask", attend({}, &O::mask)},
      {"attention_added_mask", attend({}, &O::mask)},
      {"attention_added_mask_broadcast", attend({}, &O::mask)},
      {"attention_window", attend({.causal = true, .window = 3})},
      {"attention_softcap", attend({.causal = true, .softcap = 1.5})},
      {"attention_alibi", attend({.causal = true}, &O::slopes)},
      {"attention_sink", attend({.causal = true}, &O::sink)},
      {"attention_documents", attend({.causal = true}, &O::documents)},
  };
}

}  // namespace

TEST_SUITE("ops/parity") {
  TEST_CASE("every case of the fixtures is computed") {
    check_complete(kFile, {arithmetic(), pointwise(), reductions(), products(), views(), movement(),
                           norms(), losses(), attention()});
  }
  TEST_CASE("arithmetic and comparisons") { check_parity(kFile, arithmetic()); }
  TEST_CASE("functions of each element") { check_parity(kFile, pointwise()); }
  TEST_CASE("reductions, running sums and order") { check_parity(kFile, reductions()); }
  TEST_CASE("matrix products") { check_parity(kFile, products()); }
  TEST_CASE("views") { check_parity(kFile, views()); }
  TEST_CASE("parts and indices") { check_parity(kFile, movement()); }
  TEST_CASE("norms, softmax and RoPE") { check_parity(kFile, norms()); }
  TEST_CASE("losses") { check_parity(kFile, losses()); }
  TEST_CASE("attention") { check_parity(kFile, attention()); }
}
