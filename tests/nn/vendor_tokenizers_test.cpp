// Vendors' vocabularies, which are not part of the source: OLM_VENDOR_FILES names a folder with one
// folder for each unpacked package. Without it these cases are skipped.
#include <doctest/doctest.h>
#include <olm/engine/file.h>
#include <olm/nn/text.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
using Ids = std::vector<int32_t>;

namespace {

std::string vendor_folder() {
  const char* folder = std::getenv("OLM_VENDOR_FILES");
  return folder ? folder : "";
}

bool without_vendor_files() { return vendor_folder().empty(); }

/// The texts of llama.cpp's .inp files.
std::vector<std::string> read_texts(const std::string& path) {
  const std::string all = read_file(path), mark = "\n__ggml_vocab_test__\n";
  std::vector<std::string> texts;
  for (size_t from = 0; from < all.size();) {
    const size_t at = std::min(all.find(mark, from), all.size());
    texts.push_back(all.substr(from, at - from));
    from = at + mark.size();
  }
  return texts;
}

std::vector<Ids> read_ids(const std::string& path) {
  std::vector<Ids> all;
  std::istringstream lines(read_file(path));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    Ids ids;
    for (int32_t id; words >> id;) ids.push_back(id);
    all.push_back(ids);
  }
  return all;
}

/// The folder of llama.cpp's vocabularies in its Python package's source.
std::string models_folder() {
  for (const auto& entry : std::filesystem::directory_iterator(vendor_folder())) {
    const std::string models = entry.path().string() + "/vendor/llama.cpp/models";
    if (folder_exists(models)) return models;
  }
  return "";
}

}  // namespace

TEST_SUITE("nn/text/vendors") {
  TEST_CASE("skipped: no vendor files" * doctest::skip(!without_vendor_files())) {
    MESSAGE("skipped: no vendor files (OLM_VENDOR_FILES names no folder)");
  }

  TEST_CASE("the vocabularies of llama.cpp's collection" * doctest::skip(without_vendor_files())) {
    const std::string models = models_folder();
    REQUIRE_MESSAGE(!models.empty(), "no vendor/llama.cpp/models below ", vendor_folder());
    int read = 0, compared = 0, refused = 0;
    for (const auto& entry : std::filesystem::directory_iterator(models)) {
      const std::string path = entry.path().string();
      if (!path.ends_with(".gguf")) continue;
      CAPTURE(path);
      if (contains(path, "bert")) {
        CHECK(
            contains(message_of<FileError>([&] { load_tokenizer(path); }), "tokenizer.ggml.model"));
        ++refused;
        continue;
      }
      const auto tokenizer = load_tokenizer(path);
      ++read;
      if (!file_exists(path + ".inp")) continue;
      const std::vector<std::string> texts = read_texts(path + ".inp");
      const std::vector<Ids> ids = read_ids(path + ".out");
      REQUIRE(texts.size() == ids.size());
      for (size_t i = 0; i < texts.size(); ++i) {
        CAPTURE(texts[i]);
        CHECK(tokenizer->encode(texts[i]) == ids[i]);
      }
      ++compared;
    }
    CHECK(read == 17);
    CHECK(compared == 14);
    CHECK(refused == 2);
  }

  TEST_CASE("vocabularies of other vendors" * doctest::skip(without_vendor_files())) {
    const Json cases = read_json(OLM_FIXTURES "/vendor_tokenizers.json");
    const Json& texts = cases.at("texts");
    for (const auto& [name, wanted] : cases.at("files").members()) {
      CAPTURE(name);
      const auto tokenizer = load_tokenizer(vendor_folder() + "/" + name);
      for (size_t i = 0; i < texts.size(); ++i) {
        const std::string& text = texts.at(i).as_string();
        CAPTURE(text);
        Ids ids;
        for (const Json& id : wanted.at("ids").at(i).items()) ids.push_back(int32_t(id.as_int()));
        if (ids.empty() && !text.empty()) continue;  // the vendor's program takes it otherwise
        CHECK(tokenizer->encode(text) == ids);
      }
    }
  }

  TEST_CASE("a vendor's Unigram model is refused" * doctest::skip(without_vendor_files())) {
    const std::string path = vendor_folder() +
                             "/ai21_tokenizer/ai21_tokenizer/resources/j2-tokenizer/"
                             "j2-tokenizer.model";
    CHECK(contains(message_of<FileError>([&] { load_tokenizer(path); }), "type Unigram"));
  }
}
