// Finding cuBLASLt: OLM_CUBLASLT names the file; else the loader's path, CUDA_HOME and CUDA_PATH,
// and the nvidia/*/lib folders of Python environments, beside the program too.
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include <olm/kernels/cuda/cublas_lt.cuh>

namespace olm::kernels {
namespace {

namespace fs = std::filesystem;

/// Versions whose functions and structures are those of the header.
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/// Folders in `folder`; none where it cannot be read.
std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    if (at->is_directory(error)) found.push_back(at->path());
  return found;
}

/// The library folders of NVIDIA's packages for Python in a site-packages folder.
void add_packages(const fs::path& site, std::vector<fs::path>& folders) {
  for (const fs::path& package : folders_in(site / "nvidia")) folders.push_back(package / "lib");
}

std::vector<fs::path> folders_to_search() {
  std::vector<fs::path> folders;
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"})
    if (const std::string home = variable(name); !home.empty())
      for (const char* lib : {"lib64", "lib"}) folders.push_back(fs::path(home) / lib);
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const std::string home = variable(name); !home.empty())
      for (const fs::path& python : folders_in(fs::path(home) / "lib"))
        add_packages(python / "site-packages", folders);
  if (const std::string path = variable("PYTHONPATH"); !path.empty())
    for (size_t begin = 0, end; begin <= path.size(); begin = end + 1) {
      end = std::min(path.find(':', begin), path.size());
      add_packages(path.substr(begin, end - begin), folders);
    }
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (!program.empty()) {
    folders.push_back(program);
    folders.push_back(program / "lib");
    folders.push_back(program.parent_path() / "lib");
    add_packages(program, folders);
  }
  return folders;
}

std::vector<std::string> candidates() {
  if (const std::string file = variable("OLM_CUBLASLT"); !file.empty()) return {file};
  std::vector<std::string> files(std::begin(kNames), std::end(kNames));
  for (const fs::path& folder : folders_to_search())
    for (const char* name : kNames) {
      std::error_code error;
      if (fs::exists(folder / name, error)) files.push_back((folder / name).string());
    }
  return files;
}

/// Where the loader found what was opened under `name`.
std::string path_of(const std::string& name, const void* function) {
  Dl_info info = {};
  return dladdr(function, &info) && info.dli_fname ? info.dli_fname : name;
}

struct Loaded {
  CublasLt functions;
  std::string path, why_not;
};

/// Empty where the library has all functions, else the name of one that is missing.
std::string fill(void* library, CublasLt& functions) {
  std::string missing;
  for_each_function(functions, [&]<class Function>(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) missing = name;
  });
  return missing;
}

Loaded load() {
  Loaded result;
  std::string last;
  for (const std::string& file : candidates()) {
    void* library = dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (!library) {
      const char* error = dlerror();
      if (last.empty() && error) last = error;
      continue;
    }
    const std::string missing = fill(library, result.functions);
    if (missing.empty()) {
      result.path = path_of(file, reinterpret_cast<const void*>(result.functions.create));
      return result;
    }
    last = file + " has no " + missing;
    dlclose(library);
  }
  result.why_not = "cuBLASLt (libcublasLt.so.13 or .12) was not found: " + last +
                   "; OLM_CUBLASLT may name the file";
  return result;
}

const Loaded& loaded() {
  static const Loaded once = load();
  return once;
}

}  // namespace

std::string cublas_lt_path() { return loaded().path; }
std::string cublas_lt_why_not() { return loaded().why_not; }

const CublasLt& cublas_lt() {
  require(loaded().why_not.empty(), "cuda: ", loaded().why_not);
  return loaded().functions;
}

}  // namespace olm::kernels
