#include <olm/kernels/base/shared_library.h>
#include <olm/kernels/cuda/cublas_lt.cuh>

namespace olm::kernels {
namespace {

struct Loaded {
  CublasLt functions;
  SharedLibrary library;
};

/// Of the versions whose functions and structures are those of the header.
Loaded load() {
  Loaded result;
  result.library = open_shared_library(
      {.title = "cuBLASLt",
       .variable = "OLM_CUBLASLT",
       .names = {"libcublasLt.so.13", "libcublasLt.so.12"}},
      [&](const auto& address) {
        std::string missing;
        for_each_function(result.functions, [&](const char* name, auto& function) {
          function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address(name));
          if (!function) missing = name;
        });
        return missing;
      });
  return result;
}

const Loaded& loaded() {
  static const Loaded once = load();
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
