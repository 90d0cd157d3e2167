#include "tests/support/cases/flash_attention.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_flash_attention(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::causal_attention_case(), shape, dtype);
}

}  // namespace olm::tools
