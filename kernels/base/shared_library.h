#pragma once
// Libraries that are no dependency of the build: they are looked for when they are first wanted, so
// that programs start on machines that have none.
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <olm/kernels/base/error.h>

namespace olm {

/// What to look for, and where. The file that the environment names in `variable`; else, under each
/// of the names, the loader's path, the folders of CUDA_HOME and CUDA_PATH, and the nvidia/*/lib
/// folders of Python environments, beside the program too.
struct LibrarySearch {
  const char* title = "";  ///< for people
  const char* variable = "";
  std::vector<const char*> names = {};
};

/// A library that was found, or not.
struct SharedLibrary {
  std::string path;     ///< the file; empty where there is none
  std::string why_not;  ///< where it was looked for in vain, without a full stop
};

/// Opens the first that has all functions: `take` is handed the address of any symbol by name, and
/// returns the name of one that is missing, or nothing. It stays open.
SharedLibrary open_shared_library(
    const LibrarySearch& search,
    const std::function<std::string(const std::function<void*(const char*)>&)>& take);

/// A table of functions, and the library they are from.
template <class Functions>
struct LoadedFunctions {
  Functions functions;
  SharedLibrary library;
};

/// Opens the library that has all functions of a table, for each of which
/// for_each_function(table, f) calls f(name, function), and fills it.
template <class Functions>
LoadedFunctions<Functions> load_functions(const LibrarySearch& search) {
  LoadedFunctions<Functions> result;
  result.library = open_shared_library(search, [&](const auto& address) {
    std::string missing;
    for_each_function(result.functions, [&](const char* name, auto& function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address(name));
      if (!function) missing = name;
    });
    return missing;
  });
  return result;
}

}  // namespace olm
