#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include <olm/engine/file.h>
#include <olm/nn/generate.h>
#include <olm/nn/text.h>

#include "tools/olm/commands.h"
#include "tools/olm/model.h"
#include "tools/olm/open.h"

namespace olm::tools {

namespace {

/// What flags say of sampling, over what the run's own configuration does, over what the model's
/// vendor does.
SampleConfig sample_config(const SampleArgs& args, const nn::Pretrained& model) {
  RunConfig run;
  take_generation(model.generation, run.sample);
  if (file_exists(args.folder + "/run.toml")) read_config(args.folder + "/run.toml", run);
  read_flags(args.flags, run);
  return run.sample;
}

void write_out(std::string_view text) {
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  require(written, "standard output cannot be written");
}

/// A text to continue, and what names it in messages.
struct Prompt {
  std::string text, where;
};

/// A prompt of each line.
std::vector<Prompt> read_prompts(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<Prompt> prompts;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    const std::string where = path + ", line " + std::to_string(prompts.size() + 1);
    if (path.ends_with(".jsonl")) {
      const Json json = Json::parse(line, where);
      require(json.is_string(), where, ": wanted a string, got ", json.kind());
      line = json.as_string();
    }
    prompts.push_back({std::move(line), where});
    at = end + 1;
  }
  require(!prompts.empty(), path, ": has no lines, at least one prompt was wanted");
  return prompts;
}

/// Those of the command line; none where it has none.
std::vector<Prompt> given_prompts(const SampleArgs& args) {
  if (!args.prompts_file.empty()) {
    require(args.prompts.empty(), "--prompts: takes the place of --prompt; one of both was wanted");
    return read_prompts(args.prompts_file);
  }
  std::vector<Prompt> prompts;
  for (const std::string& text : args.prompts) {
    const std::string number =
        args.prompts.size() == 1 ? "" : " number " + std::to_string(prompts.size() + 1);
    prompts.push_back({text, "--prompt" + number});
  }
  return prompts;
}

std::string token_text(const nn::Tokenizer& tokenizer, int32_t id) {
  nn::StreamDecoder decoder(tokenizer);
  const std::string text = decoder.push(id);
  return text + decoder.finish();
}

/// What --logprobs prints of a prompt.
Json with_logprobs(const Prompt& prompt, const nn::Generated& made,
                   const nn::Tokenizer& tokenizer) {
  Json tokens = Json::array();
  for (size_t i = 0; i < made.ids.size(); ++i) {
    Json token = Json::object();
    token["id"] = made.ids[i];
    token["text"] = token_text(tokenizer, made.ids[i]);
    token["logprob"] = made.logprobs[i];
    tokens.push_back(token);
  }
  Json json = Json::object();
  json["prompt"] = prompt.text;
  json["text"] = made.text;
  // Only a full context has the callback end a text.
  const bool full = made.reason == nn::StopReason::callback;
  json["ended_by"] = full ? "context" : nn::name_of(made.reason);
  json["tokens"] = std::move(tokens);
  return json;
}

void print(const std::vector<Prompt>& prompts, const std::vector<nn::Generated>& made,
           const nn::Tokenizer& tokenizer, bool logprobs) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (logprobs)
      write_out(with_logprobs(prompts[i], made[i], tokenizer).dump() + "\n");
    else
      write_out(fmt::format("==> {} of {} <==\n{}{}\n", i + 1, prompts.size(), prompts[i].text,
                            made[i].text));
  }
}

nn::GenerateOptions options_of(const SampleArgs& args, const SampleConfig& config,
                               const nn::Pretrained& model) {
  nn::GenerateOptions options =
      config.for_model(nn::context_of(*model.model), activation_dtype(args.dtype));
  options.use_cache = !args.no_cache;
  for (const std::string& stop : args.stop_strings)
    require(!stop.empty(), "--stop: at least one character was wanted, the text is empty");
  nn::StopFilter(args.stop_strings);  // throws before anything is printed
  options.stop_strings = args.stop_strings;
  options.logprobs = args.logprobs;
  options.stop = stop_ids(model);
  return options;
}

}  // namespace

int sample(const SampleArgs& args) {
  std::vector<Prompt> prompts = given_prompts(args);
  const nn::Pretrained opened =
      open_model(args.folder, compute_device(args.device), activation_dtype(args.dtype));
  const SampleConfig config = sample_config(args, opened);
  if (prompts.empty()) prompts = {{config.prompt, "sample.prompt"}};
  const nn::Tokenizer& tokenizer = *opened.tokenizer;
  const nn::GenerateOptions options = options_of(args, config, opened);
  std::vector<std::vector<int32_t>> ids;
  std::vector<int64_t> room;
  for (const Prompt& prompt : prompts) {
    require(!prompt.text.empty() || tokenizer.special().adds_bos, prompt.where,
            ": at least one token was wanted, the text is empty");
    ids.push_back(prompt_ids(tokenizer, prompt.text, prompt.where, args.special_tokens));
    room.push_back(options.context > 0 ? options.context - int64_t(ids.back().size()) : INT64_MAX);
  }
  const bool streams = prompts.size() == 1 && !args.logprobs;
  size_t written = 0;
  if (streams) write_out(prompts[0].text);
  const auto on_token = [&](size_t i, int32_t, std::string_view text) {
    if (streams) write_out(text);
    written += text.size();
    return !args.stop_when_full || --room[i] > 0;
  };
  const std::vector<nn::Generated> made =
      nn::generate_batch(*opened.model, ids, options, &tokenizer, on_token);
  if (streams)
    write_out(made[0].text.substr(written) + "\n");
  else
    print(prompts, made, tokenizer, args.logprobs);
  const bool full = std::any_of(made.begin(), made.end(), [](const nn::Generated& g) {
    return g.reason == nn::StopReason::callback;
  });
  if (full)
    fmt::print(stderr, "olm sample: stopped, the context of {} tokens is full\n", options.context);
  return 0;
}

}  // namespace olm::tools
