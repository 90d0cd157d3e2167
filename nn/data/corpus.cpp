#include <olm/nn/data.h>

namespace olm::nn {

Corpus Corpus::open(const std::string& path) {
  Corpus corpus{path, {}};
  if (folder_exists(path)) {
    const std::vector<std::string> found = list_files(path);
    if (found.empty()) throw FileError(path, ": the folder holds no files");
    for (const std::string& file : found) {
      auto mapped = MappedFile::open(file);
      if (mapped->size() > 0) corpus.files.push_back(std::move(mapped));
    }
    if (corpus.files.empty())
      throw FileError(path, ": all ", found.size(), " files of the folder are empty");
  } else {
    corpus.files.push_back(MappedFile::open(path));
    if (corpus.files[0]->size() == 0) throw FileError(path, ": is empty, text was wanted");
  }
  return corpus;
}

std::vector<std::string_view> Corpus::texts() const {
  std::vector<std::string_view> all;
  for (const auto& file : files) all.push_back(file->text());
  return all;
}

std::string Corpus::hash() const {
  if (files.size() == 1) return hash_hex(files[0]->text());
  std::string hashes;
  for (const auto& file : files) hashes += hash_hex(file->text());
  return hash_hex(hashes);
}

}  // namespace olm::nn
