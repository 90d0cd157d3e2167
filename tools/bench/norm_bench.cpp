#include "tests/support/cases/norm.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_rms_norm(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::rms_norm_case(), shape, dtype);
}
void add_layer_norm(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::layer_norm_case(), shape, dtype);
}
/// The step between two residual blocks, in its two forms. What is added gets no gradient: it would
/// be that of x, copied because both are leaves here, which they are not in a model.
void add_add_norm(Cases& cases, const Sizes& shape, DType dtype) {
  for (test::OpCase c : {test::add_rms_norm_case(), test::add_layer_norm_case()}) {
    c.fixed = {1};
    add_op(cases, c, shape, dtype);
  }
}

}  // namespace olm::tools
