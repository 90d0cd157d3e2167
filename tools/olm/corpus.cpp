#include "tools/olm/corpus.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

namespace olm::tools {

namespace fs = std::filesystem;

namespace {

/// Where `path` lies below `folder`; empty where it lies elsewhere.
fs::path below(const std::string& path, const std::string& folder) {
  std::error_code error;
  const fs::path inner = fs::weakly_canonical(fs::absolute(path), error);
  const fs::path outer = fs::weakly_canonical(fs::absolute(folder), error);
  const fs::path relative = inner.lexically_relative(outer);
  return relative.empty() || *relative.begin() == ".." ? fs::path() : relative;
}

}  // namespace

nn::Corpus open_corpus(const std::string& path) {
  constexpr size_t kShown = 3;
  nn::Corpus corpus = nn::Corpus::open(path);
  if (corpus.left_out.empty()) return corpus;
  std::string names;
  for (size_t i = 0; i < std::min(kShown, corpus.left_out.size()); ++i)
    names += (i > 0 ? ", " : "") + corpus.left_out[i];
  if (corpus.left_out.size() > kShown)
    names += fmt::format(" and {} more", corpus.left_out.size() - kShown);
  fmt::print("data: left out, as runs, models or tokenizers and not text: {}\n", names);
  std::fflush(stdout);
  return corpus;
}

void require_outside(const nn::Corpus& corpus, const std::string& out) {
  if (!folder_exists(corpus.path) || below(out, corpus.path).empty()) return;
  for (const auto& file : corpus.files)
    if (!below(file->path(), out).empty())
      throw FileError(out, ": is a folder of the data and holds ", file->path(),
                      ", but a run's folder is left out of the data; name another folder with ",
                      "--out");
}

}  // namespace olm::tools
