#include <fmt/format.h>

#include <cstdio>

#include <olm/engine/file.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>
#include <olm/nn/text.h>

#include "tools/olm/commands.h"
#include "tools/olm/model.h"

namespace olm::tools {

namespace {

/// What the run's own configuration says of sampling, under what flags say.
SampleConfig sample_config(const SampleArgs& args) {
  RunConfig run;
  if (file_exists(args.folder + "/run.toml")) read_config(args.folder + "/run.toml", run);
  read_flags(args.flags, run);
  return run.sample;
}

void write_out(const std::string& text) {
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  require(written, "standard output cannot be written");
}

}  // namespace

int sample(const SampleArgs& args) {
  const SampleConfig c = sample_config(args);
  const nn::Ref<nn::Module> model = nn::load(args.folder);
  const auto tokenizer = nn::load_tokenizer(args.folder);
  require(!c.prompt.empty(), "--prompt: at least one token was wanted, the text is empty");
  const std::vector<int32_t> prompt = prompt_ids(*tokenizer, c.prompt);
  const DType dtype = activation_dtype(args.dtype);
  nn::GenerateOptions options{.tokens = c.tokens,
                              .temperature = c.temperature,
                              .top_k = c.top_k,
                              .top_p = c.top_p,
                              .seed = uint64_t(c.seed),
                              .context = nn::context_of(*model),
                              .use_cache = !args.no_cache,
                              .dtype = dtype};
  if (tokenizer->eot_id()) options.stop = {*tokenizer->eot_id()};
  int64_t room = options.context > 0 ? options.context - int64_t(prompt.size()) : INT64_MAX;
  nn::StreamDecoder decoder(*tokenizer);
  write_out(c.prompt);
  nn::generate(model, prompt, options, [&](int32_t id) {
    write_out(decoder.push(id));
    return !args.stop_when_full || --room > 0;
  });
  write_out(decoder.finish() + "\n");
  if (args.stop_when_full && room <= 0)
    fmt::print(stderr, "olm sample: stopped, the context of {} tokens is full\n", options.context);
  return 0;
}

}  // namespace olm::tools
