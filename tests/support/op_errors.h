#pragma once
// How far ops on a device are from f64, as the op suites see it.
#include <string>
#include <vector>

#include <olm/kernels/base/types.h>

namespace olm::test {

enum class OpPart { forward, backward };
/// Notes the relative L2 error of a result, or of a gradient, of the case called `name`; the
/// largest stays.
void record_op_error(const std::string& name, DType dtype, OpPart part, double error);

/// docs/cuda.md from what was recorded so far: a row for each case of each op suite. Throws naming
/// a case of which something is missing.
std::string cuda_page();

}  // namespace olm::test
