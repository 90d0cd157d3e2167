#include "tests/support/cases/moe_route.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_moe_route(Cases& cases, const Sizes& shape, DType dtype) {
  test::OpCase c = test::moe_top2_case();
  c.op = [op = c.op](const Tensors& in) {
    const Tensors all = op(in);
    return Tensors{all[1], all[2]};  // what has a gradient
  };
  add_op(cases, c, shape, dtype);
}

}  // namespace olm::tools
