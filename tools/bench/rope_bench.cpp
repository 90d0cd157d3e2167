#include "tests/support/cases/rope.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_rope(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::rope_case(), shape, dtype);
}

}  // namespace olm::tools
