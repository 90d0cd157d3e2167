#include "tools/olm/corpus.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "tools/olm/ranks.h"

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

/// One line that says what was left out and why; none where that is nothing.
void print_left_out(const char* why, const std::vector<std::string>& paths) {
  constexpr size_t kShown = 3;
  if (paths.empty() || !is_first_rank()) return;
  std::string names;
  for (size_t i = 0; i < std::min(kShown, paths.size()); ++i)
    names += (i > 0 ? ", " : "") + paths[i];
  if (paths.size() > kShown) names += fmt::format(" and {} more", paths.size() - kShown);
  fmt::print("data: left out, {}: {}\n", why, names);
  std::fflush(stdout);
}

}  // namespace

nn::Corpus open_corpus(const std::string& path) {
  nn::Corpus corpus = nn::Corpus::open(path);
  print_left_out("as runs, models or tokenizers and not text", corpus.left_out);
  print_left_out("since links to folders are not followed", corpus.links);
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
