// Vocabularies of other programs: whatever the bytes are, they are a tokenizer or an Error.
#include <olm/nn/text/formats_internal.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::formats;

namespace {

Vocabulary read(uint8_t format, std::string_view bytes) {
  const size_t half = bytes.size() / 2;
  switch (format % 5) {
    case 0:
      return read_sentencepiece(bytes);
    case 1:
      return read_tiktoken(read_ranks(bytes), tiktoken_scheme("cl100k_base"));
    case 2:
      return read_tekken(Json::parse(bytes));
    case 3:
      return read_vocab_and_merges(bytes.substr(0, half), bytes.substr(half));
    default:
      return read_gguf_vocabulary(GgufFile::parse(bytes, "fuzz"));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const auto tokenizer = make_tokenizer(read(data[0], bytes));
    const auto ids = tokenizer->encode("the fox  <s> \xc3\xa9", {.add_special_tokens = true});
    tokenizer->decode(ids);
    GgufWriter writer;
    write_vocabulary(*tokenizer, tokenizer->vocab_size() + 2, "", writer);
  } catch (const Error&) {}
  return 0;
}
