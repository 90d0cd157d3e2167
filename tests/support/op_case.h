#pragma once
// What tests and benchmarks say about an op: one description for both, free of either's framework.
#include <algorithm>
#include <concepts>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <olm/engine/random.h>
#include <olm/engine/raw.h>

namespace olm::test {

/// How a kernel uses memory: the streams it reads and writes for each element.
enum class Traffic : uint8_t {
  read,    ///< reads one
  copy,    ///< reads one, writes another
  axpy,    ///< reads two, writes one of them
  update,  ///< reads four, writes three of them, as AdamW does
};

/// What one call does at least: floating-point operations, and bytes that no kernel can avoid, each
/// input read once and each result written once.
struct Cost {
  double flop = 0, bytes = 0;
  Traffic traffic = Traffic::copy;
  bool gemm = false;       ///< the operations are those of GEMM
  double working_set = 0;  ///< bytes that are gone through again and again; 0: `bytes`
  double tokens = 0;       ///< what else to count by the second; 0: nothing
};

/// Of a forward that records nothing, and of a forward with its backward.
struct Costs {
  Cost forward = {}, both = {};
};

/// Results from inputs. Made from a function that returns one Tensor, or Tensors.
class OpFunction {
 public:
  OpFunction() = default;
  template <class F>
  requires(!std::same_as<F, OpFunction> && std::invocable<const F&, const Tensors&>) OpFunction(F f)
      : call_([f = std::move(f)](const Tensors& inputs) {
          if constexpr (std::same_as<std::invoke_result_t<const F&, const Tensors&>, Tensor>)
            return Tensors{f(inputs)};
          else
            return f(inputs);
        }) {}
  Tensors operator()(const Tensors& inputs) const { return call_(inputs); }
  explicit operator bool() const { return bool(call_); }

 private:
  std::function<Tensors(const Tensors&)> call_;
};

/// What every op is asked.
enum class Question : uint8_t {
  gradients,         ///< do they match central differences?
  values,            ///< do dtypes, layouts and sizes agree with f64?
  instruction_sets,  ///< does each of them agree with f64?
  threads,           ///< does any number of them give the same bits?
  meta,              ///< have results there the shapes and dtypes they have on the CPU?
};

/// An op with its inputs, what it computes, and what it costs.
struct OpCase {
  std::string name;
  /// What `inputs` is called with; -1 stands for the awkward size n.
  Shape shape = {-1};
  /// Inputs in f32, or of integers or booleans. Float ones are differentiated unless `fixed`.
  std::function<Tensors(Generator&, const Shape&)> inputs = [](Generator& g, const Shape& shape) {
    return Tensors{randn(shape, g)};
  };
  OpFunction op = {};
  /// The same out of simpler ops, which defines a fused op; without one the op in f64 is compared
  /// with.
  OpFunction composition = {};
  std::vector<size_t> fixed = {};       ///< inputs that get no gradient
  std::vector<size_t> parameters = {};  ///< inputs that stay in f32 where the others are narrower
  /// Length of the longest sum inside the op for size n: tolerances grow with its square root.
  std::function<double(int64_t n)> reduction = [](int64_t n) { return double(n); };
  /// Typical size of terms that cancel inside the op (a norm's gradient over one column is such a
  /// difference): errors are measured against values of at least this size.
  double cancelling = 0;
  double gradient_cancelling = cancelling;  ///< the same for gradients

  std::vector<int64_t> sizes = {0, 1, 31, 33, 4099};  ///< n for the question after values
  std::vector<int64_t> gradient_sizes = {5};
  int64_t vector_size = 131;  ///< n for each instruction set
  Shape parallel = {};        ///< work for several threads; empty: `shape` where n is 20000
  /// What the op is not asked, and why.
  std::map<Question, std::string> unasked = {};
  /// For benchmarks, of activations in `dtype`.
  std::function<Costs(const Shape&, DType dtype)> cost = nullptr;
};
using OpCases = std::vector<OpCase>;

inline constexpr const char* kNotDifferentiable = "its results have no derivative";

/// `shape` with n for -1.
inline Shape with_size(Shape shape, int64_t n) {
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] == -1) shape[i] = n;
  return shape;
}

/// All sizes but the last `count`.
inline Shape leading(const Shape& shape, int count = 1) {
  Shape result;
  for (int i = 0; i + count < shape.rank(); ++i) result.push_back(shape[i]);
  return result;
}
/// `shape` with one more size at the end.
inline Shape extended(Shape shape, int64_t size) {
  shape.push_back(size);
  return shape;
}

/// Inputs as the op takes them beside activations in `dtype`.
inline Tensors in_dtype(const OpCase& c, const Tensors& inputs, DType dtype) {
  Tensors result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool parameter = std::ranges::find(c.parameters, i) != c.parameters.end();
    const DType wanted = parameter ? acc_dtype(dtype) : dtype;
    result.push_back(is_float(inputs[i].dtype()) ? raw::cast(inputs[i], wanted) : inputs[i]);
  }
  return result;
}

/// Whether input i, of dtype `dtype`, is differentiated.
inline bool is_differentiated(const OpCase& c, size_t i, DType dtype) {
  return is_float(dtype) && std::ranges::find(c.fixed, i) == c.fixed.end();
}

}  // namespace olm::test
