#include "tests/support/cases/embedding.h"
#include "tools/bench/bench.h"

namespace olm::tools {

/// Rows of an f32 table by id; backward makes the table's whole gradient.
void add_embedding(Cases& cases, const Sizes& shape, DType dtype) {
  add_op(cases, test::embedding_case(i64, dtype), shape, dtype);
}

}  // namespace olm::tools
