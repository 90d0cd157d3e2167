// Times the encoding of texts for tools/hub/tokenizer_speed: encode_time TOKENIZER TEXTS, a JSON
// array of strings. For each line of standard input all of them are encoded on one thread; the
// seconds and the number of ids are printed. With "ids" as the line it is the ids.
#include <chrono>
#include <exception>
#include <iostream>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/kernels/base/parallel.h>
#include <olm/nn/text.h>

namespace {

using Ids = std::vector<std::vector<int32_t>>;

Ids encoded(const olm::nn::Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  Ids ids;
  ids.reserve(texts.size());
  for (const std::string& text : texts)
    ids.push_back(tokenizer.encode(text, {.parse_special_tokens = true}));
  return ids;
}

int answer(const olm::nn::Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  for (std::string line; std::getline(std::cin, line);) {
    const auto begin = std::chrono::steady_clock::now();
    const Ids ids = encoded(tokenizer, texts);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    size_t count = 0;
    for (const auto& one : ids) count += one.size();
    std::cout << seconds.count() << ' ' << count;
    if (line == "ids")
      for (const auto& one : ids)
        for (const int32_t id : one) std::cout << ' ' << id;
    std::cout << std::endl;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  olm::require(argc == 3, "encode_time: a tokenizer and a file of texts were wanted");
  olm::set_threads(1);
  const auto tokenizer = olm::nn::load_tokenizer(argv[1]);
  std::vector<std::string> texts;
  for (const olm::Json& text : olm::Json::parse(olm::read_file(argv[2])).items())
    texts.push_back(text.as_string());
  return answer(*tokenizer, texts);
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
