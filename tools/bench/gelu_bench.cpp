#include "tests/support/cases/pointwise.h"
#include "tools/bench/bench.h"

namespace olm::tools {

/// The exact one, and the approximation by tanh.
void add_gelu(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::pointwise_case("gelu", gelu), shape, dtype);
  add_op(cases, test::pointwise_case("gelu_tanh", gelu_tanh), shape, dtype);
}

}  // namespace olm::tools
