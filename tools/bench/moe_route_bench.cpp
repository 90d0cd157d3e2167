#include "tests/support/cases/moe_route.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_moe_route(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::moe_top2_case(), shape, dtype);
}

}  // namespace olm::tools
