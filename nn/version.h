#pragma once
#include <olm/kernels/base/error.h>

namespace olm {

/// The version of the library, as `major.minor.patch`.
OLM_API const char* version();

}  // namespace olm
