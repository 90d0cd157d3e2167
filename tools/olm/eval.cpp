#include <fmt/format.h>

#include <cmath>

#include <olm/nn/model_io.h>
#include <olm/nn/training.h>

#include "tools/olm/commands.h"
#include "tools/olm/corpus.h"
#include "tools/olm/machine.h"

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

}  // namespace

int eval(const EvalArgs& args) {
  const nn::Ref<nn::Module> model = nn::load(args.folder, compute_device(args.device));
  const auto tokenizer = nn::load_tokenizer(args.folder);
  const DType dtype = activation_dtype(args.dtype);
  const nn::Corpus corpus = open_corpus(args.data);
  const nn::TokenDataset data(corpus, *tokenizer);
  // A model that takes any length is measured in windows of 1024.
  const int64_t most = nn::context_of(*model) > 0 ? nn::context_of(*model) : 1024;
  const int64_t context = std::min(most, data.size() - 1);
  require(context >= 1, args.data, ": has ", data.size(), " tokens, at least 2 were wanted");
  const nn::EvalReport report =
      nn::evaluate(*model, data, context, dtype, {}, true, end_of_text(args.folder, *tokenizer));
  if (!std::isfinite(report.loss))
    throw FileError(args.folder, ": the model gives a loss of ", report.loss, " on ", args.data,
                    ", a finite number was wanted");
  double bytes = 0;
  for (const std::string_view text : corpus.texts()) bytes += double(text.size());
  const double bytes_per_token = bytes / double(data.size());
  const double bits_per_byte = report.loss / std::log(2.0) / bytes_per_token;
  if (args.json) {
    Json figures = Json::object();
    figures["loss"] = report.loss;
    figures["perplexity"] = std::exp(report.loss);
    figures["bits_per_byte"] = bits_per_byte;
    figures["tokens"] = report.tokens;
    figures["context"] = context;
    figures["seconds"] = report.seconds;
    fmt::print("{}\n", figures.dump());
    return 0;
  }
  fmt::print("loss            {:.4f} nats per token\n", report.loss);
  fmt::print("perplexity      {:.4f}\n", std::exp(report.loss));
  fmt::print("bits per byte   {:.4f}\n", bits_per_byte);
  fmt::print("tokens          {} in windows of {}\n", grouped(report.tokens), context);
  fmt::print("time            {}\n", duration_text(report.seconds));
  return 0;
}

}  // namespace olm::tools
