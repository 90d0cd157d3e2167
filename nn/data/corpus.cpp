#include <algorithm>
#include <filesystem>

#include <olm/engine/json.h>
#include <olm/engine/utf8.h>
#include <olm/nn/data.h>

namespace olm::nn {

namespace fs = std::filesystem;

namespace {

/// True for a file of JSON whose "format" is this.
bool has_format(const std::string& path, const char* format) {
  if (!file_exists(path)) return false;
  try {
    const Json json = read_json(path);
    const Json* found = json.is_object() ? json.find("format") : nullptr;
    return found && *found == Json(format);
  } catch (const Error&) {
    return false;
  }
}

/// True for a tokenizer, whatever its file's name. Both formats name their version first, so that
/// no large text of JSON is parsed to find out.
bool is_tokenizer(const std::string& path) {
  constexpr size_t kHead = 256;
  if (fs::path(path).extension() != ".json" || !file_exists(path)) return false;
  try {
    const auto file = MappedFile::open(path);
    if (file->text().substr(0, kHead).find("\"version\"") == std::string_view::npos) return false;
    load_tokenizer(path);
    return true;
  } catch (const Error&) {
    return false;
  }
}

bool is_link_to_folder(const std::string& path) {
  std::error_code none;
  return fs::is_symlink(path, none) && fs::is_directory(path, none);
}

std::string_view text_of(const MappedFile& file) { return without_byte_order_mark(file.text()); }

}  // namespace

bool is_run_folder(const std::string& folder) {
  if (has_format(folder + "/model.json", "libolm model")) return true;
  std::error_code error;
  for (fs::directory_iterator at(folder + "/checkpoints", error), end; !error && at != end;
       at.increment(error))
    if (has_format(at->path().string() + "/state.json", "olm checkpoint")) return true;
  return false;
}

Corpus Corpus::open(const std::string& path) {
  Corpus corpus;
  corpus.path = path;
  std::vector<std::string> found = {path};
  const bool folder = folder_exists(path);
  if (folder) {
    if (is_run_folder(path))
      throw FileError(path, ": is the folder of a run or a model, text was wanted");
    found = list_files(path, [&](const std::string& inside) {
      if (is_link_to_folder(inside)) corpus.links.push_back(inside);
      const bool skip = is_tokenizer(inside) || is_run_folder(inside);
      if (skip) corpus.left_out.push_back(inside);
      return skip;
    });
    std::sort(corpus.links.begin(), corpus.links.end());
    std::sort(corpus.left_out.begin(), corpus.left_out.end());
    if (found.empty()) throw FileError(path, ": the folder holds no files");
  }
  for (const std::string& file : found) {
    auto mapped = MappedFile::open(file);
    if (!text_of(*mapped).empty()) corpus.files.push_back(std::move(mapped));
  }
  if (corpus.files.empty() && folder)
    throw FileError(path, ": all ", found.size(), " files of the folder are empty");
  if (corpus.files.empty()) throw FileError(path, ": is empty, text was wanted");
  return corpus;
}

std::vector<std::string_view> Corpus::texts() const {
  std::vector<std::string_view> all;
  for (const auto& file : files) all.push_back(text_of(*file));
  return all;
}

std::string Corpus::hash() const {
  const std::vector<std::string_view> all = texts();
  if (all.size() == 1) return hash_hex(all[0]);
  std::string hashes;
  for (const std::string_view text : all) hashes += hash_hex(text);
  return hash_hex(hashes);
}

}  // namespace olm::nn
