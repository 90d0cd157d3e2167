#pragma once
// cuBLASLt, which multiplies dense matrices on CUDA. It is no dependency of the build: it is looked
// for when it is first wanted, so that programs start on machines that have none.
#include <string>

#include <olm/kernels/base/error.h>

namespace olm::kernels {

/// The file that was loaded, for reports; empty where there is none.
OLM_API std::string cublas_lt_path();
/// Where the library was looked for in vain, without a full stop; empty where it was found.
OLM_API std::string cublas_lt_why_not();

/// The functions of the library that are used.
struct CublasLt;
/// Throws one sentence where the library is missing.
const CublasLt& cublas_lt();

}  // namespace olm::kernels
