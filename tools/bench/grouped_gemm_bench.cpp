#include "tests/support/cases/grouped_gemm.h"
#include "tools/bench/bench.h"

namespace olm::tools {

/// Rows in groups of equal size, each with a weight of its own.
void add_grouped_gemm(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], out = shape[1], in = shape[2], groups = shape[3];
  const size_t first = cases.size();
  add_op(cases, test::grouped_linear_case(groups, out, false, Activation::none), {rows, in}, dtype);
  for (size_t i = first; i < cases.size(); ++i) {
    cases[i].name = "grouped_linear";
    cases[i].shape = text_of(shape);
  }
}

}  // namespace olm::tools
