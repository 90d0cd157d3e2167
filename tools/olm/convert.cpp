// olm import and olm export: models from one form to another.
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <map>

#include "tools/olm/command_line.h"
#include "tools/olm/commands.h"
#include "tools/olm/machine.h"
#include "tools/olm/open.h"
#include "tools/olm/run.h"

namespace olm::tools {

namespace {

namespace fs = std::filesystem;

/// What was written, which is removed again if it cannot be read.
nn::PretrainedFacts facts_of_written(const std::string& path) try {
  return nn::inspect_pretrained(path);
} catch (const Error&) {
  remove_all(path);
  throw;
}

/// "2GB", "500MiB" or a number of bytes.
int64_t parse_bytes(const std::string& text, const std::string& where) {
  static const std::map<std::string, int64_t> kUnits = {{"", 1},
                                                        {"B", 1},
                                                        {"kB", 1000},
                                                        {"KB", 1000},
                                                        {"MB", 1000000},
                                                        {"GB", 1000000000},
                                                        {"KiB", int64_t(1) << 10},
                                                        {"MiB", int64_t(1) << 20},
                                                        {"GiB", int64_t(1) << 30}};
  int64_t number = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto unit = kUnits.find(std::string(at, text.data() + text.size()));
  const bool fits = error == std::errc() && unit != kUnits.end() && number > 0 &&
                    number <= (int64_t(1) << 60) / unit->second;
  require(fits, where, ": a size such as 2GB or 500MiB was wanted, got \"", text, "\"");
  return number * unit->second;
}

std::string without_slashes(std::string path) {
  while (path.size() > 1 && (path.ends_with('/') || path.ends_with("/."))) path.pop_back();
  return path;
}

void require_absent(const std::string& path, const char* where) {
  require(!path.empty(), where, ": a path was wanted, the text is empty");
  if (path_exists(path))
    throw FileError(path, ": is there already; name another target, or remove it");
}

bool is_interrupted() { return stop_signal() != 0; }

/// Runs a conversion; a signal ends it with nothing left behind, and with the signal's status.
template <class Convert>
int interruptible(const Convert& convert) {
  catch_signals();
  try {
    return convert();
  } catch (const Error&) {
    if (!is_interrupted()) throw;
    fmt::print(stderr, "olm: interrupted, nothing was written\n");
    return 128 + stop_signal();
  }
}

/// run.toml of a model from another program: training goes on with it.
std::string run_toml(const ImportArgs& args, const nn::PretrainedFacts& facts) {
  RunConfig config;
  take_pretrained(args.from, facts, config);
  config.train.init_from = fs::absolute(without_slashes(args.out)).lexically_normal().string();
  config.data.tokenizer = config.train.init_from + "/tokenizer.json";
  return to_toml(config);
}

/// What lies at `path` now.
void print_written(const std::string& path) {
  const nn::PretrainedFacts facts = facts_of_written(path);
  int64_t bytes = 0;
  for (const auto& tensor : facts.tensors) bytes += tensor.bytes;
  fmt::print("{}: {}, {} tensors of {}, {}\n", path, kind_text(facts), facts.tensors.size(),
             facts.main_type(), bytes_text(double(bytes)));
}

void print_not_understood(const std::vector<std::string>& names) {
  if (names.empty()) return;
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  fmt::print("kept, but without a meaning here: {}\n", list);
}

}  // namespace

int import_model(const ImportArgs& args) {
  const std::string out = without_slashes(args.out);
  require_absent(out, "--out");
  return interruptible([&] {
    const nn::PretrainedFacts facts = nn::inspect_pretrained(args.from);
    nn::convert_to_run(
        args.from, out,
        {.files = {{"run.toml", run_toml(args, facts)}}, .should_stop = is_interrupted});
    print_written(out);
    print_not_understood(facts.not_understood);
    fmt::print("sample: olm sample {} --prompt '...'\n", shell_word(out));
    fmt::print("train:  olm train --init-from {} --data FILE\n", shell_word(out));
    return 0;
  });
}

int export_model(const ExportArgs& args) {
  const std::string out = without_slashes(args.out);
  require_absent(out, "out");
  nn::SaveOptions options{.shard_bytes = parse_bytes(args.shard_size, "--shard-size"),
                          .family = args.family,
                          .name = args.name,
                          .should_stop = is_interrupted};
  if (!args.type.empty()) options.type = args.type;
  const bool gguf = args.form == "gguf";
  require(gguf || args.form == "hf", "--to: hf or gguf was wanted, got \"", args.form, "\"");
  return interruptible([&] {
    const std::vector<std::string> notes =
        gguf ? nn::convert_to_gguf(args.from, out, options)
             : nn::convert_to_hugging_face(args.from, out, options);
    print_written(out);
    for (const std::string& note : notes) fmt::print("note:   {}\n", note);
    fmt::print("check:  olm verify {} {}\n", shell_word(args.from), shell_word(out));
    return 0;
  });
}

}  // namespace olm::tools
