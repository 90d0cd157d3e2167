#include <fmt/format.h>

#include <cstdio>
#include <sstream>

#include <olm/engine/utf8.h>
#include <olm/nn/data.h>
#include <olm/nn/text.h>

#include "tools/olm/commands.h"
#include "tools/olm/corpus.h"
#include "tools/olm/machine.h"
#include "tools/olm/model.h"
#include "tools/olm/open.h"

namespace olm::tools {

namespace {

std::string standard_input() {
  std::string text;
  char part[1 << 16];
  while (const size_t n = std::fread(part, 1, sizeof part, stdin)) text.append(part, n);
  require(std::ferror(stdin) == 0, "standard input: cannot be read");
  return text;
}

}  // namespace

int tokenizer_train(const TokenizerArgs& args) {
  const nn::Corpus corpus = open_corpus(args.data);
  nn::require_tokenizer_spec(args.kind);
  const auto tokenizer = make_tokenizer(args.kind, corpus);
  tokenizer->save(args.out);
  size_t bytes = 0, tokens = 0;
  for (const std::string_view text : corpus.texts()) {
    const std::string_view part = text.substr(0, 1 << 20);
    // The end of a part may cut a character; a shorter part does not.
    const size_t end = part.size() < text.size() ? part.rfind('\n') + 1 : part.size();
    if (end == 0) continue;
    bytes += end;
    tokens += tokenizer->encode(part.substr(0, end)).size();
  }
  fmt::print("{}: {} with {} ids", args.out, tokenizer->name(), tokenizer->vocab_size());
  if (tokens > 0) fmt::print(", {:.2f} bytes per token", double(bytes) / double(tokens));
  fmt::print("\n");
  return 0;
}

int tokenizer_encode(const TokenizerArgs& args) {
  const auto tokenizer = open_tokenizer(args.path);
  const std::string given = args.text ? *args.text : standard_input();
  int64_t dropped = 0;
  const std::vector<int32_t> ids =
      tokenizer->encode(args.text ? std::string_view(given) : without_byte_order_mark(given),
                        {.add_special_tokens = args.add_special,
                         .parse_special_tokens = args.special_tokens,
                         .dropped = &dropped});
  for (size_t i = 0; i < ids.size(); ++i) fmt::print("{}{}", i ? " " : "", ids[i]);
  fmt::print("\n");
  if (dropped > 0) fmt::print(stderr, "olm tokenizer encode: {}\n", dropped_text(dropped));
  return 0;
}

int tokenizer_decode(const TokenizerArgs& args) {
  const auto tokenizer = open_tokenizer(args.path);
  std::vector<int64_t> wide = args.ids;
  if (wide.empty()) {
    std::istringstream in(standard_input());
    for (int64_t id; in >> id;) wide.push_back(id);
    require(in.eof(), "standard input: ids as whole numbers were wanted");
  }
  std::vector<int32_t> ids;
  for (const int64_t id : wide) {
    require(id >= 0 && id < tokenizer->vocab_size(), "id ", id, " is not below the ",
            tokenizer->vocab_size(), " ids of ", args.path);
    ids.push_back(int32_t(id));
  }
  const std::string text = tokenizer->decode(ids) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace olm::tools
