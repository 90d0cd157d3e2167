#include "tests/support/cases/linear_cross_entropy.h"
#include "tools/bench/bench.h"

namespace olm::tools {

/// The head of a language model: x [rows, d], weight [classes, d] in f32.
void add_linear_cross_entropy(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::linear_cross_entropy_case(), shape, dtype);
}

}  // namespace olm::tools
