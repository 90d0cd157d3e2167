#pragma once
#include <olm/autograd/ops/reduce.h>

#include <tests/support/op_case.h>

namespace olm::test {

struct Reducer {
  std::string name;
  Tensor (*op)(const Tensor& x, const Shape& dims, bool keepdim);
  bool over_nothing;  ///< has a finite gradient over an empty dimension or a single element
};
inline const Reducer kReducers[] = {
    {"sum", [](const Tensor& x, const Shape& d, bool k) { return sum(x, d, {.keepdim = k}); },
     true},
    {"mean", [](const Tensor& x, const Shape& d, bool k) { return mean(x, d, {.keepdim = k}); },
     false},
    {"max", [](const Tensor& x, const Shape& d, bool k) { return max(x, d, {.keepdim = k}); },
     false},
    {"min", [](const Tensor& x, const Shape& d, bool k) { return min(x, d, {.keepdim = k}); },
     false},
    {"var",
     [](const Tensor& x, const Shape& d, bool k) {
       return var(x, d, {.correction = 0.5, .keepdim = k});
     },
     false},
    {"logsumexp",
     [](const Tensor& x, const Shape& d, bool k) { return logsumexp(x, d, {.keepdim = k}); },
     false}};

inline OpCase reduce_case(const Reducer& reducer, const Shape& dims, bool keepdim) {
  OpCase c{.name = reducer.name,
           .shape = {3, -1, 2},
           .op = [op = reducer.op, dims,
                  keepdim](const Tensors& in) { return op(in[0], dims, keepdim); },
           .reduction = [](int64_t n) { return 6.0 * double(n); },
           .cancelling = 1,
           .parallel = {300, 129, 7}};
  for (int i = 0; i < dims.rank(); ++i) c.name += " over " + std::to_string(dims[i]);
  if (!reducer.over_nothing) c.sizes.erase(c.sizes.begin());
  return c;
}

inline OpCase arg_extreme_case() {
  return {.name = "argmax, argmin",
          .shape = {3, -1, 2},
          .op =
              [](const Tensors& in) {
                return Tensors{argmax(in[0]), argmin(in[0], 1), argmax(in[0], 0, {.keepdim = true}),
                               argmin(in[0], -1)};
              },
          .sizes = {1, 31, 33, 4099},
          .parallel = {300, 129, 7},
          .unasked = {{Question::gradients, kNotDifferentiable}}};
}

/// Every reduction over rows, columns, what lies between and all; every other one keeps them.
inline OpCases reduce_cases() {
  OpCases all{arg_extreme_case()};
  for (const Reducer& reducer : kReducers) {
    bool keepdim = false;
    for (const Shape& dims :
         {Shape{0}, Shape{1}, Shape{-1}, Shape{0, 1}, Shape{2, 0}, Shape{0, 1, 2}})
      all.push_back(reduce_case(reducer, dims, keepdim = !keepdim));
    all.push_back(reduce_case(reducer, {-1}, false));  // long rows
    all.back().shape = {2, 3, -1};
    all.back().parallel = {1000, 513};
  }
  return all;
}

}  // namespace olm::test
