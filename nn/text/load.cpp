// Which format of a vocabulary lies at a path.
#include <algorithm>

#include <olm/engine/file.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn {

namespace formats {

namespace {

constexpr const char* kWanted =
    "tokenizer.json, vocab.json with merges.txt, tekken.json, tokenizer.model, *.tiktoken or a "
    "GGUF file was wanted";

std::string folder_of(const std::string& file) {
  const size_t slash = file.find_last_of('/');
  return slash == file.npos ? "." : file.substr(0, slash);
}

/// Null where there is no such file.
Json read_beside(const std::string& folder, const char* name) {
  const std::string path = folder + "/" + name;
  return path_exists(path) ? read_json(path) : Json();
}

/// Where the vocabulary at a path comes from.
enum class Source : uint8_t { own, tokenizer_json, gguf, other };
struct Found {
  Vocabulary vocabulary = {};
  Source source = Source::other;
};

/// GPT-2's merges lie beside the vocabulary, under either name; "" for none.
std::string merges_beside(const std::string& folder) {
  for (const char* name : {"/merges.txt", "/vocab.bpe"})
    if (path_exists(folder + name)) return folder + name;
  return "";
}

Found read_json_vocabulary(const std::string& path, std::string_view text) {
  Json json = Json::parse(text, "tokenizer");
  // A vocab.json may have these words as tokens, whose values are ids.
  const Json *type = json.find("type"), *model = json.find("model"), *config = json.find("config");
  if (type && type->is_string()) return {{.tokenizer = std::move(json)}, Source::own};
  if (model && model->is_object()) return {{.tokenizer = std::move(json)}, Source::tokenizer_json};
  if (config && config->is_object()) return {read_tekken(json)};
  const std::string merges = merges_beside(folder_of(path));
  require(!merges.empty(), "a JSON file that is no vocabulary, or has no merges.txt beside it; ",
          kWanted);
  return {read_vocab_and_merges(text, MappedFile::open(merges)->text())};
}

Found read_file(const std::string& path) {
  const auto file = MappedFile::open(path);
  const std::string_view text = file->text();
  if (text.starts_with("GGUF")) return {read_gguf_vocabulary(GgufFile::open(path)), Source::gguf};
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin != text.npos && text[begin] == '{') return read_json_vocabulary(path, text);
  if (looks_like_ranks(text)) {
    const std::vector<std::string> ranks = read_ranks(text);
    return {read_tiktoken(ranks, tiktoken_scheme_of(path, ranks.size()))};
  }
  if (looks_like_sentencepiece(text)) return {read_sentencepiece(text)};
  fail("no vocabulary that is known; ", kWanted);
}

/// The file of a folder that holds its vocabulary.
std::string find_file(const std::string& folder) {
  for (const char* name :
       {"tokenizer.json", "tekken.json", "tokenizer.model", "vocab.json", "encoder.json"})
    if (path_exists(folder + "/" + name)) return folder + "/" + name;
  const std::vector<std::string> ranks = list_files(folder, [](const std::string& path) {
    return folder_exists(path) || !path.ends_with(".tiktoken");
  });
  require(ranks.size() <= 1, "has ", ranks.size(), " files *.tiktoken, one was wanted");
  require(!ranks.empty(), "no vocabulary; ", kWanted);
  return ranks.front();
}

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(const Vocabulary& vocabulary) {
  const BpeTokenizer read = BpeTokenizer::from_json(vocabulary.tokenizer);
  return std::make_shared<BpeTokenizer>(read.with_special(vocabulary.special));
}

std::shared_ptr<const Tokenizer> load(const std::string& path) {
  const std::string file = folder_exists(path) ? find_file(path) : path;
  Found found = read_file(file);
  if (found.source == Source::own) return own_tokenizer(found.vocabulary.tokenizer);
  const std::string folder = folder_of(file);
  if (found.source != Source::gguf)
    apply_tokenizer_config(read_beside(folder, "tokenizer_config.json"),
                           read_beside(folder, "special_tokens_map.json"),
                           found.source != Source::tokenizer_json, found.vocabulary);
  return make_tokenizer(found.vocabulary);
}

}  // namespace formats

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path) {
  try {
    return formats::load(path);
  } catch (const FileError&) {
    throw;
  } catch (const Error& e) {
    throw FileError(path, ": ", e.what());
  }
}

}  // namespace olm::nn
