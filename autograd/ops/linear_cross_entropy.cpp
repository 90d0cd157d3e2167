#include <olm/autograd/ops/linear_cross_entropy.h>

#include <algorithm>

#include <olm/autograd/ops/cross_entropy_internal.h>
#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/gemm.h>
#include <olm/kernels/linear_cross_entropy.h>

namespace olm {
namespace {

using kernels::Gemm;

/// How the logits of a chunk of tokens lie on a device: about `elements` of them, so that they stay
/// in the CPU's L3 or take 256 MiB of a GPU, but at least kMinChunk tokens, for GEMM; rows start
/// at multiples of `row_multiple` elements, tokens come in multiples of `token_multiple`.
struct ChunkRule {
  int64_t elements = int64_t(1) << 22, row_multiple = 1, token_multiple = 1;
};
constexpr int64_t kMinChunk = 256;

ChunkRule chunk_rule(DeviceKind device) {
  if (device != DeviceKind::cuda) return {};
  return {.elements = int64_t(1) << 26, .row_multiple = 64, .token_multiple = 128};
}

/// Tokens per chunk: as even as the rule allows.
int64_t chunk_size(const ChunkRule& rule, int64_t tokens, int64_t row_length) {
  const int64_t fits = rule.elements / std::max<int64_t>(row_length, 1);
  const int64_t most = std::max(kMinChunk, fits / rule.token_multiple * rule.token_multiple);
  const int64_t chunks = std::max<int64_t>(kernels::ceil_div(tokens, most), 1);
  return kernels::round_up(kernels::ceil_div(tokens, chunks), rule.token_multiple);
}

/// The head as kernels see it, and where its gradients (for dy = 1) gather: in acc_dtype, undefined
/// where not wanted.
struct Head {
  Tensor x = {}, weight = {}, bias = {}, targets = {}, scale = {};
  Tensor dx = {}, dweight = {}, dbias = {};
  double softcap = 0;
  kernels::CrossEntropyTerms terms = {};
  bool differentiated() const { return dx.defined() || dweight.defined() || dbias.defined(); }
};

void compute_logits(const Head& h, const Tensor& x, const Tensor& logits) {
  run(x.device().kind, Gemm{.a_dtype = x.dtype(),
                            .b_dtype = h.weight.dtype(),
                            .c_dtype = logits.dtype(),
                            .a = x.data(),
                            .b = h.weight.data(),
                            .c = logits.mutable_data(),
                            .transpose_b = true,
                            .m = x.size(0),
                            .n = h.weight.size(0),
                            .k = x.size(1),
                            .ldc = logits.stride(0),
                            .bias = data_or_null(h.bias),
                            .bias_dtype = h.bias.defined() ? h.bias.dtype() : f32,
                            .stream = stream_of(x)});
}

/// Adds the chunk's part to dweight and dbias, and writes its rows of dx.
void gather_gradients(const Head& h, int64_t begin, const Tensor& x, const Tensor& dlogits) {
  const int64_t classes = dlogits.size(1);
  if (h.dx.defined()) {
    const Tensor dx = raw::slice(h.dx, 0, begin, begin + x.size(0));
    run(x.device().kind, Gemm{.a_dtype = dlogits.dtype(),
                              .b_dtype = h.weight.dtype(),
                              .c_dtype = dx.dtype(),
                              .a = dlogits.data(),
                              .b = h.weight.data(),
                              .c = dx.mutable_data(),
                              .m = x.size(0),
                              .n = x.size(1),
                              .k = classes,
                              .lda = dlogits.stride(0),
                              .stream = stream_of(x)});
  }
  if (h.dweight.defined())
    run(x.device().kind, Gemm{.a_dtype = dlogits.dtype(),
                              .b_dtype = x.dtype(),
                              .c_dtype = h.dweight.dtype(),
                              .a = dlogits.data(),
                              .b = x.data(),
                              .c = h.dweight.mutable_data(),
                              .transpose_a = true,
                              .m = classes,
                              .n = x.size(1),
                              .k = x.size(0),
                              .lda = dlogits.stride(0),
                              .accumulate = begin > 0,
                              .stream = stream_of(x)});
  if (h.dbias.defined())
    run(x.device().kind, kernels::GemmEpilogueBackward{.dtype = dlogits.dtype(),
                                                       .dy = dlogits.data(),
                                                       .dbias = h.dbias.mutable_data(),
                                                       .rows = dlogits.size(0),
                                                       .cols = classes,
                                                       .dy_stride = dlogits.stride(0),
                                                       .accumulate = begin > 0,
                                                       .stream = stream_of(x)});
}

/// One chunk: logits, losses, gradients.
void run_chunk(const Head& h, int64_t begin, int64_t end, const Tensor& losses,
               const Tensor& logits_memory, const Tensor& dlogits_memory) {
  const int64_t rows = end - begin, classes = h.weight.size(0);
  const auto part = [&](const Tensor& memory) {
    return raw::slice(raw::slice(memory, 0, 0, rows), 1, 0, classes);
  };
  const Tensor x = raw::slice(h.x, 0, begin, end), logits = part(logits_memory);
  const Tensor dlogits = h.differentiated() ? part(dlogits_memory) : Tensor();
  compute_logits(h, x, logits);
  run(x.device().kind,
      kernels::CrossEntropyChunk{.dtype = h.differentiated() ? dlogits.dtype() : logits.dtype(),
                                 .target_dtype = h.targets.dtype(),
                                 .losses = raw::slice(losses, 0, begin, end).mutable_data(),
                                 .dlogits = h.differentiated() ? dlogits.mutable_data() : nullptr,
                                 .logits = logits.mutable_data(),
                                 .targets = raw::slice(h.targets, 0, begin, end).data(),
                                 .scale = h.scale.data(),
                                 .rows = rows,
                                 .cols = classes,
                                 .logits_stride = logits.stride(0),
                                 .dlogits_stride = h.differentiated() ? dlogits.stride(0) : 0,
                                 .softcap = h.softcap,
                                 .terms = h.terms,
                                 .stream = stream_of(x)});
  if (h.differentiated()) gather_gradients(h, begin, x, dlogits);
}

/// Runs all chunks; returns the losses [tokens].
Tensor run_chunks(const Head& h) {
  const ChunkRule rule = chunk_rule(h.x.device().kind);
  const int64_t tokens = h.x.size(0);
  const int64_t length = kernels::round_up(h.weight.size(0), rule.row_multiple);
  const int64_t size = chunk_size(rule, tokens, length);
  const TensorOptions acc = acc_options(h.x);
  const Tensor losses = empty({tokens}, acc), logits = empty({size, length}, acc);
  // f16 would lose small gradients, which no factor has lifted yet.
  const bool narrow = h.x.dtype() == bf16;
  const Tensor dlogits =
      narrow && h.differentiated() ? empty({size, length}, {bf16, acc.device}) : logits;
  const int64_t end = h.x.device() == meta ? std::min(size, tokens) : tokens;  // no values: one
  for (int64_t begin = 0; begin < end; begin += size)
    run_chunk(h, begin, std::min(begin + size, tokens), losses, logits, dlogits);
  if (tokens == 0)
    for (const Tensor& t : {h.dweight, h.dbias})
      if (t.defined()) raw::fill_(t, 0);
  return losses;
}

void check(const Tensor& x, const Tensor& weight, const LinearCrossEntropyOptions& options) {
  const char* op = "linear_cross_entropy";
  check_linear(op, x, weight, options.bias);
  require(options.softcap >= 0, op, ": wanted softcap 0 or above, got ", options.softcap);
  require(options.loss.reduction != Reduction::none, op,
          ": the losses of single tokens are not kept; wanted mean or sum");
}

bool differentiates(const Tensor& t) { return t.defined() && grad_enabled() && requires_grad(t); }

/// dy · gradient in the shape and dtype of the input.
Tensor scaled(const Tensor& gradient, const Tensor& dy, const Sink& into) {
  if (!into.needed || !gradient.defined()) return {};
  const ParamGrad result(into, into.dtype, gradient);
  run(gradient.device().kind, kernels::ScaleGradient{.dtype = into.dtype,
                                                     .y = result.data(),
                                                     .x = gradient.data(),
                                                     .factor = dy.data(),
                                                     .n = gradient.numel(),
                                                     .accumulate = result.accumulates(),
                                                     .stream = stream_of(gradient)});
  return result.result();
}

}  // namespace

Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets,
                            const LinearCrossEntropyOptions& options) {
  const Tensor tc = loss::checked_targets("linear_cross_entropy", x, targets, options.loss);
  check(x, weight, options);
  const Tensor& bias = options.bias;
  const int64_t tokens = tc.numel(), classes = weight.size(0);
  const TensorOptions acc = acc_options(x);
  Head h{.x = raw::view(raw::contiguous(x), {tokens, x.size(-1)}),
         .weight = raw::contiguous(weight),
         .bias = contiguous_if_defined(bias),
         .targets = raw::view(tc, {tokens}),
         .scale = loss::scale(tc, classes, options.loss, acc),
         .softcap = options.softcap,
         .terms = loss::terms(options.loss)};
  if (differentiates(x)) h.dx = empty({tokens, x.size(-1)}, acc);
  if (differentiates(weight)) h.dweight = empty(weight.shape(), acc);
  if (differentiates(bias)) h.dbias = empty({classes}, acc);
  const Tensor result = loss::total(run_chunks(h), h.scale);
  return record(
      "linear_cross_entropy", result, {x, weight, bias},
      [dx = h.dx, dweight = h.dweight, dbias = h.dbias](const Tensor& dy, Sinks into) -> Grads {
        return {scaled(dx, dy, into[0]), scaled(dweight, dy, into[1]), scaled(dbias, dy, into[2])};
      });
}

}  // namespace olm
