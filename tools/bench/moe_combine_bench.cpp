#include "tests/support/cases/moe_combine.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_moe_combine(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::moe_combine_case(false), shape, dtype);
}

}  // namespace olm::tools
