#include <olm/kernels/base/shared_library.h>

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace olm {
namespace {

namespace fs = std::filesystem;

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

std::vector<std::string> candidates(const LibrarySearch& search) {
  if (const std::string file = variable(search.variable); !file.empty()) return {file};
  std::vector<std::string> files(search.names.begin(), search.names.end());
  for (const fs::path& folder : folders_to_search())
    for (const char* name : search.names) {
      std::error_code error;
      if (fs::exists(folder / name, error)) files.push_back((folder / name).string());
    }
  return files;
}

/// Where the loader found what was opened under `name`.
std::string path_of(void* library, const std::string& name) {
  link_map* map = nullptr;
  return dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 && map->l_name[0] ? map->l_name : name;
}

/// "libcublasLt.so.13 or .12"
std::string names_of(const LibrarySearch& search) {
  std::string text;
  for (const std::string name : search.names)
    text += text.empty() ? name : " or " + name.substr(name.rfind('.'));
  return text;
}

}  // namespace

SharedLibrary open_shared_library(
    const LibrarySearch& search,
    const std::function<std::string(const std::function<void*(const char*)>&)>& take) {
  SharedLibrary result;
  std::string last;
  for (const std::string& file : candidates(search)) {
    void* library = dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (!library) {
      const char* error = dlerror();
      if (last.empty() && error) last = error;
      continue;
    }
    const std::string missing = take([&](const char* name) { return dlsym(library, name); });
    if (missing.empty()) {
      result.path = path_of(library, file);
      return result;
    }
    last = file + " has no " + missing;
    dlclose(library);
  }
  result.why_not = detail::concat(search.title, " (", names_of(search), ") was not found: ", last,
                                  "; ", search.variable, " may name the file");
  return result;
}

}  // namespace olm
