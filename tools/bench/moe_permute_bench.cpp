#include "tests/support/cases/moe_permute.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_moe_permute(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::moe_permute_case(), shape, dtype);
}

}  // namespace olm::tools
