#include <fmt/format.h>

#include <cmath>

#include <olm/nn/training.h>

#include "tools/olm/commands.h"
#include "tools/olm/corpus.h"
#include "tools/olm/machine.h"
#include "tools/olm/open.h"

namespace olm::tools {

namespace {

/// The id that ends documents where the run trained with train.document_mask.
std::optional<int64_t> end_of_text(const std::string& folder, const nn::Tokenizer& tokenizer) {
  if (!file_exists(folder + "/run.toml") || !tokenizer.eot_id()) return {};
  const Json file = read_toml(folder + "/run.toml");
  const Json* train = file.find("train");
  const Json* key = train && train->is_object() ? train->find("document_mask") : nullptr;
  if (!key || *key != Json(true)) return {};
  return *tokenizer.eot_id();
}

/// The windows: as long as the model takes where that is not more than what many machines hold.
nn::ScoreOptions windows_of(const EvalArgs& args, nn::Module& model) {
  constexpr int64_t kUnlimited = 1024, kMost = 2048;
  const int64_t most = nn::context_of(model);
  const int64_t usual = most > 0 ? std::min(most, kMost) : kUnlimited;
  const int64_t context = args.context > 0 ? args.context : usual;
  require(args.context >= 0, "--context: a positive number of tokens was wanted, got ",
          args.context);
  require(most == 0 || context <= most, "--context: the model takes ", most, " tokens, got ",
          context);
  require(args.stride >= 0 && args.stride <= context, "--stride: from 1 to the context of ",
          context, " was wanted, got ", args.stride);
  return {.context = context, .stride = args.stride > 0 ? args.stride : context};
}

/// The tokens of each file.
std::vector<nn::TokenDataset> texts_of(const nn::Corpus& corpus, const nn::Tokenizer& tokenizer) {
  std::vector<nn::TokenDataset> texts;
  for (const auto& file : corpus.files) {
    nn::Corpus one = corpus;
    one.files = {file};
    texts.emplace_back(one, tokenizer);
  }
  return texts;
}

/// Characters that the tokenizer has no token for.
int64_t dropped_in(const std::vector<nn::TokenDataset>& texts) {
  int64_t dropped = 0;
  for (const nn::TokenDataset& text : texts) dropped += text.dropped();
  return dropped;
}

/// What was measured, by the names of --json.
Json figures_of(const nn::ScoreReport& report, const nn::ScoreOptions& options, double bytes,
                int64_t dropped) {
  const double loss = report.nats / double(report.tokens);
  Json figures = Json::object();
  figures["loss"] = loss;
  figures["perplexity"] = std::exp(loss);
  figures["bits_per_byte"] = report.nats / std::log(2.0) / bytes;
  figures["tokens"] = report.tokens;
  figures["bytes"] = int64_t(bytes);
  figures["dropped"] = dropped;
  figures["context"] = options.context;
  figures["stride"] = options.stride;
  figures["seconds"] = report.seconds;
  return figures;
}

void print_figures(const Json& figures) {
  const auto number = [&](const char* name) { return figures.at(name).as_double(); };
  const auto count = [&](const char* name) { return figures.at(name).as_int(); };
  fmt::print("loss            {:.4f} nats per token\n", number("loss"));
  fmt::print("perplexity      {:.4f}\n", number("perplexity"));
  fmt::print("bits per byte   {:.4f} over {} bytes\n", number("bits_per_byte"),
             grouped(count("bytes")));
  fmt::print("tokens          {} in windows of {}{}\n", grouped(count("tokens")), count("context"),
             count("stride") < count("context") ? fmt::format(" every {}", count("stride")) : "");
  if (count("dropped") > 0) fmt::print("{}\n", dropped_text(count("dropped")));
  fmt::print("time            {}\n", duration_text(number("seconds")));
}

}  // namespace

int eval(const EvalArgs& args) {
  const DType dtype = activation_dtype(args.dtype);
  const nn::Pretrained opened = open_model(args.folder, compute_device(args.device), dtype);
  nn::ScoreOptions options = windows_of(args, *opened.model);
  const nn::Corpus corpus = open_corpus(args.data);
  const std::vector<nn::TokenDataset> texts = texts_of(corpus, *opened.tokenizer);
  options.start = start_of_text(*opened.tokenizer);
  options.dtype = dtype;
  options.end_of_text = end_of_text(args.folder, *opened.tokenizer);
  const nn::ScoreReport report = nn::score(*opened.model, texts, options);
  if (report.tokens == 0)
    throw FileError(args.data, ": the tokenizer makes no token of it, at least 1 was wanted");
  if (!std::isfinite(report.nats))
    throw FileError(args.folder, ": the model gives a loss of ", std::abs(report.nats), " on ",
                    args.data, ", a finite number was wanted");
  double bytes = 0;
  for (const std::string_view text : corpus.texts()) bytes += double(text.size());
  const int64_t dropped = dropped_in(texts);
  const Json figures = figures_of(report, options, bytes, dropped);
  if (args.json)
    fmt::print("{}\n", figures.dump());
  else
    print_figures(figures);
  return 0;
}

}  // namespace olm::tools
