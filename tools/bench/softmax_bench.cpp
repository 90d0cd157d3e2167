#include "tests/support/cases/softmax.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_softmax(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::softmax_case(), shape, dtype);
}

}  // namespace olm::tools
