// GGUF files of vendors, which are not part of the source: OLM_VENDOR_FILES names a folder with one
// folder for each unpacked package. Without it these cases are skipped.
#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/engine/gguf.h>

#include <cstdlib>

using namespace olm;

namespace {

std::vector<std::string> vendor_files() {
  const char* folder = std::getenv("OLM_VENDOR_FILES");
  std::vector<std::string> files;
  if (!folder || !*folder) return files;
  for (const std::string& path : list_files(folder))
    if (path.ends_with(".gguf")) files.push_back(path);
  return files;
}

}  // namespace

TEST_SUITE("engine/gguf_vendor") {
  TEST_CASE("every vendor's file is read whole") {
    const std::vector<std::string> files = vendor_files();
    if (files.empty()) MESSAGE("skipped: no vendor files (OLM_VENDOR_FILES names no folder)");
    for (const std::string& path : files) {
      INFO(path);
      const GgufFile file = GgufFile::open(path);
      CHECK(!file.at("general.architecture").as_string().empty());
      for (const std::string& key : file.keys()) CHECK(!file.at(key).describe().empty());
      std::string hashes;
      for (const GgufEntry& entry : file.entries()) {
        const Tensor tensor = file.tensor(entry.name);
        const size_t bytes = size_t(tensor.numel()) * size_of(tensor.dtype());
        hashes +=
            entry.name + " " + hash_hex({static_cast<const char*>(tensor.data()), bytes}) + "\n";
        file.release(entry.name);
      }
      // The same of what gguf-py makes of it.
      if (path.ends_with("/SmolLM2-135M-Instruct.Q4_1.gguf"))
        CHECK(hash_hex(hashes) == "bcd494d1d2ef250e");
    }
  }
}
