#include <olm/kernels/base/shared_library.h>
#include <olm/kernels/cuda/cublas_lt.cuh>

namespace olm::kernels {
namespace {

/// Of the versions whose functions and structures are those of the header.
const LoadedFunctions<CublasLt>& loaded() {
  static const auto once =
      load_functions<CublasLt>({.title = "cuBLASLt",
                                .variable = "OLM_CUBLASLT",
                                .names = {"libcublasLt.so.13", "libcublasLt.so.12"}});
  return once;
}

}  // namespace

std::string cublas_lt_path() { return loaded().library.path; }
std::string cublas_lt_why_not() { return loaded().library.why_not; }

const CublasLt& cublas_lt() {
  require(loaded().library.why_not.empty(), "cuda: ", loaded().library.why_not);
  return loaded().functions;
}

}  // namespace olm::kernels
