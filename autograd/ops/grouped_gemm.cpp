#include <olm/autograd/ops/grouped_gemm.h>

#include <algorithm>
#include <memory>
#include <optional>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/grouped_gemm.h>

namespace olm {
namespace {

using kernels::GroupedGemm;
using kernels::GroupedGemmEpilogueBackward;
using Pointers = std::vector<const void*>;

void check_groups(const Tensor& x, const Tensors& weights, const Tensors& biases,
                  const Tensor& offsets) {
  require(x.rank() == 2, "grouped_linear: wanted x [R,in], got ", x.shape());
  require(!weights.empty(), "grouped_linear: wanted the weight of at least one group");
  require(biases.empty() || biases.size() == weights.size(), "grouped_linear: got ", weights.size(),
          " weights and ", biases.size(), " biases");
  for (size_t e = 0; e < weights.size(); ++e) {
    check_linear("grouped_linear", x, weights[e], biases.empty() ? Tensor() : biases[e]);
    require(weights[e].shape() == weights[0].shape(), "grouped_linear: weight ", e, " is ",
            weights[e].shape(), ", the first one ", weights[0].shape());
    require_same_dtype("grouped_linear", weights[e], weights[0]);
    if (biases.empty()) continue;
    require(biases[e].defined(), "grouped_linear: bias ", e, " is not defined");
    require_same_dtype("grouped_linear", biases[e], biases[0]);
  }
  const Shape wanted{int64_t(weights.size()) + 1};
  require(offsets.defined() && offsets.dtype() == i32 && offsets.shape() == wanted,
          "grouped_linear: wanted offsets i32 ", wanted, " for ", weights.size(), " groups");
  require_same_device("grouped_linear", x, offsets);
}

/// Which groups have rows, and so give their parameters a gradient. It is read where that costs
/// nothing: elsewhere, so that the host need not wait for the device, each counts as having some,
/// and parameters of one without rows get the zeros that the kernel then writes.
std::vector<char> groups_with_rows(const Tensor& offsets, int64_t rows) {
  const auto groups = size_t(offsets.numel() - 1);
  std::vector<char> has_rows(groups, 1);
  if (offsets.device().kind != DeviceKind::cpu) return has_rows;
  const int32_t* o = offsets.data<int32_t>();
  require(o[0] == 0 && o[groups] == rows, "grouped_linear: wanted offsets from 0 to the ", rows,
          " rows of x, got ", o[0], " to ", o[groups]);
  for (size_t e = 0; e < groups; ++e) has_rows[e] = o[e + 1] > o[e];
  return has_rows;
}

/// The parameters of all groups.
struct Parameters {
  std::vector<Saved> tensors;

  explicit Parameters(const Tensors& all) {
    for (const Tensor& t : all) tensors.push_back(saved(raw::contiguous(t)));
  }
  Pointers pointers() const {
    Pointers result;
    for (const Saved& t : tensors) result.push_back(t.get().data());
    return result;
  }
  DType dtype() const { return tensors.empty() ? f32 : tensors[0].get().dtype(); }
};

/// Where the gradients of one parameter of each group go: nowhere for a group without rows.
class GroupGrads {
 public:
  GroupGrads(Sinks into, const std::vector<char>& has_rows, DType dtype)
      : grads_(into.size()), accumulates_(new bool[into.size()]()), pointers_(into.size()) {
    for (size_t e = 0; e < into.size(); ++e) {
      if (!has_rows[e] || !into[e].needed) continue;
      grads_[e].emplace(into[e], dtype);
      pointers_[e] = grads_[e]->data();
      accumulates_[e] = grads_[e]->accumulates();
      any_ = true;
    }
  }
  bool any() const { return any_; }
  /// Both null where no gradient is needed, as of biases where there are none.
  void* const* pointers() const { return any_ ? pointers_.data() : nullptr; }
  const bool* accumulates() const { return any_ ? accumulates_.get() : nullptr; }
  void append_to(Grads& all) const {
    for (const auto& grad : grads_) all.push_back(grad ? grad->result() : Tensor());
  }

 private:
  std::vector<std::optional<ParamGrad>> grads_;
  std::unique_ptr<bool[]> accumulates_;
  std::vector<void*> pointers_;
  bool any_ = false;
};

/// dz = dy · act'(z), and the gradients of biases.
Tensor epilogue_gradient(const Tensor& dy, const Tensor& z, Activation activation,
                         const Tensor& offsets, const GroupGrads& dbias) {
  const bool bare = activation == Activation::none;
  if (bare && !dbias.any()) return dy;
  const Tensor dz = bare ? dy : empty_like(dy);
  run(dy.device().kind, GroupedGemmEpilogueBackward{.dtype = dy.dtype(),
                                                    .dy = dy.data(),
                                                    .z = bare ? nullptr : z.data(),
                                                    .dz = bare ? nullptr : dz.mutable_data(),
                                                    .dbias_list = dbias.pointers(),
                                                    .accumulate = dbias.accumulates(),
                                                    .offsets = device_data<int32_t>(offsets),
                                                    .groups = offsets.numel() - 1,
                                                    .rows = dy.size(0),
                                                    .cols = dy.size(1),
                                                    .activation = activation,
                                                    .stream = stream_of(dy)});
  return dz;
}

/// dx = dz · W_e by groups.
Tensor input_gradient(const Tensor& dz, const Parameters& weights, const Tensor& offsets,
                      const Sink& into) {
  const Tensor dx = empty_if_needed(into);
  if (!dx.defined()) return dx;
  const Pointers list = weights.pointers();
  run(dz.device().kind, GroupedGemm{.a_dtype = dz.dtype(),
                                    .b_dtype = weights.dtype(),
                                    .c_dtype = dx.dtype(),
                                    .a = dz.data(),
                                    .b_list = list.data(),
                                    .c = dx.mutable_data(),
                                    .offsets = device_data<int32_t>(offsets),
                                    .groups = offsets.numel() - 1,
                                    .rows = dz.size(0),
                                    .n = dx.size(1),
                                    .k = dz.size(1),
                                    .stream = stream_of(dz)});
  return dx;
}

/// dW_e = dzᵀ · x over the rows of each group, in the weights' dtype.
void weight_gradients(const Tensor& dz, const Tensor& x, DType dtype, const Tensor& offsets,
                      const GroupGrads& dw) {
  if (!dw.any()) return;
  run(dz.device().kind, GroupedGemm{.a_dtype = dz.dtype(),
                                    .b_dtype = x.dtype(),
                                    .c_dtype = dtype,
                                    .a = dz.data(),
                                    .b = x.data(),
                                    .c_list = dw.pointers(),
                                    .by_depth = true,
                                    .offsets = device_data<int32_t>(offsets),
                                    .groups = offsets.numel() - 1,
                                    .rows = dz.size(0),
                                    .n = x.size(1),
                                    .k = dz.size(1),
                                    .accumulate = dw.accumulates(),
                                    .stream = stream_of(dz)});
}

bool any_requires_grad(const Tensors& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), requires_grad);
}

}  // namespace

Tensor grouped_linear(const Tensor& x, const Tensors& weights, const Tensors& biases,
                      const Tensor& offsets_in, Activation activation) {
  check_groups(x, weights, biases, offsets_in);
  const Tensor xc = raw::contiguous(x), offsets = raw::contiguous(offsets_in);
  const std::vector<char> has_rows = groups_with_rows(offsets, x.size(0));
  const Parameters ws(weights), bs(biases);
  const int64_t out = weights[0].size(0);
  Tensors inputs{x};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  inputs.insert(inputs.end(), biases.begin(), biases.end());
  const Tensor y = empty({x.size(0), out}, options_of(x));
  const bool keep = activation != Activation::none && grad_enabled() && any_requires_grad(inputs);
  const Tensor z = keep ? empty_like(y) : Tensor();
  const Pointers weight_list = ws.pointers(), bias_list = bs.pointers();
  run(x.device().kind, GroupedGemm{.a_dtype = x.dtype(),
                                   .b_dtype = ws.dtype(),
                                   .c_dtype = x.dtype(),
                                   .a = xc.data(),
                                   .b_list = weight_list.data(),
                                   .c = y.mutable_data(),
                                   .transpose_b = true,
                                   .offsets = device_data<int32_t>(offsets),
                                   .groups = int64_t(weights.size()),
                                   .rows = x.size(0),
                                   .n = out,
                                   .k = x.size(1),
                                   .bias_list = biases.empty() ? nullptr : bias_list.data(),
                                   .bias_dtype = bs.dtype(),
                                   .activation = activation,
                                   .preactivation = memory_or_null(z),
                                   .stream = stream_of(x)});

  return record("grouped_linear", y, inputs,
                [=, x = saved(xc), o = saved(offsets)](const Tensor& dy, Sinks into) -> Grads {
                  const Tensor& offsets = o.get();
                  const size_t groups = ws.tensors.size();
                  const GroupGrads dw(into.subspan(1, groups), has_rows, ws.dtype());
                  const GroupGrads dbias(into.subspan(1 + groups), has_rows, acc_dtype(dy.dtype()));
                  const Tensor dz =
                      epilogue_gradient(raw::contiguous(dy), z, activation, offsets, dbias);
                  Grads grads{input_gradient(dz, ws, offsets, into[0])};
                  weight_gradients(dz, x.get(), ws.dtype(), offsets, dw);
                  dw.append_to(grads);
                  dbias.append_to(grads);
                  return grads;
                });
}

}  // namespace olm
