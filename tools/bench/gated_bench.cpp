#include "tests/support/cases/gated.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_swiglu(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::swiglu_case(), shape, dtype);
}

}  // namespace olm::tools
