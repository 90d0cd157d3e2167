#include "tests/support/cases/cross_entropy.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_cross_entropy(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::cross_entropy_case(), shape, dtype);
}

}  // namespace olm::tools
