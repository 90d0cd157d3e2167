// [model] of the configuration: a family's sizes, or a description.
#include <olm/engine/file.h>
#include <olm/nn/cost.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>

#include "tools/olm/config.h"

namespace olm::tools {

namespace {

/// The model of a file, with `vocab_size` ids where it leaves them to the tokenizer.
nn::Ref<nn::Module> described(const std::string& path, int64_t vocab_size) {
  return nn::load_architecture(path, {.vocab_size = vocab_size});
}

/// Throws where a layer has another number of ids than the tokenizer.
void check_vocabulary(nn::Module& model, const std::string& path, int64_t vocab_size) {
  model.for_each_module([&](const std::string& at, nn::Module& layer) {
    const Json options = layer.options_json();
    const Json* size = options.find("vocab_size");
    if (!size || !size->is_integer() || size->as_int() == vocab_size) return;
    throw FileError(path, ": ", nn::json_path(at), ": ", layer.type_name(), " has a vocab_size of ",
                    size->as_int(), ", but the tokenizer has ", vocab_size,
                    " ids; leave it out, or write \"auto\"");
  });
}

/// The residual branches by which GPT-2's rule scales what goes into the residual stream, in pairs.
int64_t layers_of(nn::Module& model) {
  int64_t branches = 0;
  model.for_each_module(
      [&](const std::string&, nn::Module& m) { branches += m.type_name() == "Residual"; });
  return std::max<int64_t>(1, branches / 2);
}

}  // namespace

void ModelSection::fields(nn::FieldVisitor& v) {
  v("description", description,
    {.help = "a model.json, layer by layer, in place of a family and its keys"});
  if (is_described()) {
    v("max_seq_len", max_seq_len,
      {.min = 2,
       .max = 10000000,
       .help = "context in training; as much as the layers take where left out"});
    return;
  }
  std::string family = config.family();
  v("family", family, {.one_of = nn::families().names(), .help = "kind of model"});
  if (family != config.family()) config = in_family(family);
  v.skip("vocab_size");
  config.fields(v);
  v.skip("");
  v("padded_vocab_size", padded_vocab_size,
    {.min = 1,
     .max = 100000000,
     .help = "rows of embedding and head, where they are not as many as the tokenizer's ids"});
}

nn::ModelConfig ModelSection::in_family(const std::string& family) const {
  // What stands here before anything is said is nobody's choice.
  const nn::ModelConfig unset = ModelSection().config;
  return config.family() == unset.family() ? config.in_family(family, unset)
                                           : config.in_family(family);
}

std::string ModelSection::name() const {
  return is_described() ? "the model " + description : "the model family " + config.family();
}

nn::Ref<nn::Module> ModelSection::make(const nn::Tokenizer& tokenizer) const {
  const int64_t vocab_size = tokenizer.vocab_size();
  if (!is_described()) {
    const int64_t rows = padded_vocab_size.value_or(vocab_size);
    require(rows >= tokenizer.min_rows(), "model.padded_vocab_size: ", rows,
            " rows are less than the ", vocab_size, " ids of the tokenizer");
    nn::ModelConfig sized = config;
    sized.vocab_size() = rows;
    return sized.make();
  }
  const nn::Ref<nn::Module> model = described(description, vocab_size);
  check_vocabulary(*model, description, vocab_size);
  try {
    const Shape logits = nn::trace(*model, 1, 2).front().out;
    require(logits == Shape{1, 2, vocab_size}, "makes ", logits, " of two ids, logits [1,2,",
            vocab_size, "] were wanted");
  } catch (const Error& e) {
    throw FileError(description, ": ", e.what());
  }
  return model;
}

void ModelSection::init(nn::Module& model, const nn::InitOptions& options) const {
  if (is_described())
    nn::init_gpt2(model, layers_of(model), options);
  else
    config.init(model, options);
}

int64_t ModelSection::longest() const {
  return is_described() ? nn::context_of(*described(description, 2)) : config.max_seq_len();
}

int64_t ModelSection::context() const {
  const int64_t most = longest();
  if (!is_described()) return most;
  require(most > 0 || max_seq_len, description,
          ": no layer has a max_seq_len, so that model.max_seq_len (--context) has to say how long "
          "training sequences are");
  require(most == 0 || !max_seq_len || *max_seq_len <= most, description, ": its layers take ",
          most, " tokens, got a max_seq_len of ", max_seq_len.value_or(0));
  require(most == 0 || most >= 2, description, ": wants a max_seq_len of at least 2, got ", most);
  return max_seq_len.value_or(most);
}

}  // namespace olm::tools
