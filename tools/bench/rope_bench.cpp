#include "tests/support/cases/rope.h"
#include "tools/bench/bench.h"

namespace olm::tools {

void add_rope(Cases& cases, const Sizes& shape, DType dtype) {
  for (const RopePairing pairing : {RopePairing::interleaved, RopePairing::halves})
    add_op(cases, test::rope_case(0, 0, pairing), shape, dtype);
}

}  // namespace olm::tools
