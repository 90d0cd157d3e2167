#include "tools/olm/config.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include <olm/engine/json.h>
#include <olm/engine/utf8.h>

namespace olm::tools {

namespace {

/// A TOML string: JSON's escapes are TOML's too, which also wants DEL escaped.
std::string quoted(const std::string& text) {
  std::string out = Json(text).dump();
  for (size_t at = out.find('\x7f'); at != std::string::npos; at = out.find('\x7f', at))
    out.replace(at, 1, "\\u007f");
  return out;
}

std::string number_text(double value) {
  char digits[40];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
  std::string text(digits, size_t(end - digits));
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

class Lister final : public nn::PathVisitor {
 public:
  void field(const char* name, bool& v) override {
    add(name, "true or false", v ? "true" : "false");
  }
  void field(const char* name, int64_t& v) override { add(name, "an integer", std::to_string(v)); }
  void field(const char* name, double& v) override { add(name, "a number", number_text(v)); }
  void field(const char* name, std::string& v) override { add(name, "a string", quoted(v)); }
  void field(const char* name, DType& v) override { add(name, "a dtype", quoted(name_of(v))); }
  void field(const char* name, std::vector<int64_t>&) override {
    add(name, "a list of integers", "");
  }
  void field(const char* name, std::optional<bool>& v) override {
    add(name, "true or false", v ? (*v ? "true" : "false") : "");
  }
  void field(const char* name, std::optional<int64_t>& v) override {
    add(name, "an integer", v ? std::to_string(*v) : "");
  }
  void field(const char* name, std::optional<double>& v) override {
    add(name, "a number", v ? number_text(*v) : "");
  }
  void field(const char* name, std::optional<std::string>& v) override {
    add(name, "a string", v ? quoted(*v) : "");
  }
  void field(const char* name, std::vector<double>& v) override {
    std::string list;
    for (const double item : v) list += (list.empty() ? "" : ", ") + number_text(item);
    add(name, "a list of numbers", list.empty() ? "" : "[" + list + "]");
  }
  std::vector<KeyInfo> keys;

 private:
  void add(const char* name, const char* type, std::string value) {
    const std::string range = info().range();
    std::string help = info().help;
    if (!info().one_of.empty())
      help += ": " + range;
    else if (!range.empty())
      help += " (" + range + ")";
    keys.push_back({path(name), type, std::move(value), std::move(help)});
  }
};

/// Fills members from the texts of flags.
class FlagReader final : public nn::PathVisitor {
 public:
  explicit FlagReader(const FlagValues& flags) {
    for (const auto& [key, text] : flags) texts_[key] = text;
  }
  void field(const char* name, bool& v) override {
    if (const std::string* text = find(name)) {
      if (*text != "true" && *text != "false") wrong(name, *text, "true or false");
      v = *text == "true";
    }
  }
  void field(const char* name, int64_t& v) override {
    if (const std::string* text = find(name)) number(name, *text, v, "an integer");
  }
  void field(const char* name, double& v) override {
    if (const std::string* text = find(name)) number(name, *text, v, "a number");
  }
  void field(const char* name, std::string& v) override {
    if (const std::string* text = find(name)) take(name, v, *text);
  }
  void field(const char* name, DType& v) override {
    if (const std::string* text = find(name))
      take(name, v, nn::parse_dtype(*text, "--" + path(name)));
  }
  void field(const char* name, std::vector<int64_t>&) override {
    require(!find(name), "--", path(name), ": can be set in a file only");
  }
  void field(const char* name, std::optional<bool>& v) override {
    const std::string* text = find(name);
    if (!text) return;
    v.reset();
    if (*text != "none") field(name, v.emplace());
  }
  void field(const char* name, std::optional<int64_t>& v) override {
    optional(name, v, "an integer or none");
  }
  void field(const char* name, std::optional<double>& v) override {
    optional(name, v, "a number or none");
  }
  void field(const char* name, std::optional<std::string>& v) override {
    if (const std::string* text = find(name)) take(name, v.emplace(), *text);
  }
  void field(const char* name, std::vector<double>&) override {
    require(!find(name), "--", path(name), ": can be set in a file only");
  }
  /// Throws for a flag that no member answered to.
  void require_all_used(const ModelSection& model) const {
    for (const auto& [key, text] : texts_)
      require(used_.count(key), "--", key, ": ", model.name(), " has no such key");
  }

 private:
  const std::string* find(const char* name) {
    const auto found = texts_.find(path(name));
    if (found == texts_.end()) return nullptr;
    used_.insert(found->first);
    return &found->second;
  }
  [[noreturn]] void wrong(const char* name, const std::string& text, const char* wanted) const {
    fail("--", path(name), ": wants ", wanted, ", got \"", text, "\"");
  }
  template <class T>
  void take(const char* name, T& value, T given) const {
    nn::check_value("--" + path(name), info(), given);
    value = std::move(given);
  }
  template <class T>
  void number(const char* name, const std::string& text, T& value, const char* wanted) const {
    const char* end = text.data() + text.size();
    T given{};
    const auto [at, error] = std::from_chars(text.data(), end, given);
    if (error != std::errc() || at != end) wrong(name, text, wanted);
    take(name, value, given);
  }
  template <class T>
  void optional(const char* name, std::optional<T>& value, const char* wanted) {
    const std::string* text = find(name);
    if (!text) return;
    value.reset();
    if (*text != "none") number(name, *text, value.emplace(), wanted);
  }
  std::map<std::string, std::string> texts_;
  std::set<std::string> used_;
};

/// Throws where a text is not UTF-8.
class TextChecker final : public nn::PathVisitor {
 public:
  void field(const char* name, std::string& v) override {
    const size_t at = find_invalid_utf8(v);
    require(at == std::string::npos, path(name), ": wants text in UTF-8, byte ", at,
            " of it is not");
  }
  void field(const char*, bool&) override {}
  void field(const char*, int64_t&) override {}
  void field(const char*, double&) override {}
  void field(const char*, DType&) override {}
  void field(const char*, std::vector<int64_t>&) override {}
  void field(const char*, std::optional<bool>&) override {}
  void field(const char*, std::optional<int64_t>&) override {}
  void field(const char*, std::optional<double>&) override {}
  void field(const char* name, std::optional<std::string>& v) override {
    if (v) field(name, *v);
  }
  void field(const char*, std::vector<double>&) override {}
};

}  // namespace

DType activation_dtype(const std::string& text) {
  nn::check_value("--dtype", activation_dtypes(), text);
  return nn::parse_dtype(text, "--dtype");
}

Device parse_compute_device(const std::string& text, const std::string& where) {
  Device device = meta;
  try {
    device = parse_device(text);
  } catch (const Error&) {  // the sentence below says what is wanted here
  }
  require(device != meta, where, ": wants cpu, cuda or cuda:N, got \"", text, "\"");
  return device;
}

Device compute_device(const std::string& text, const std::string& where) {
  const Device device = parse_compute_device(text, where);
  require_device(device);
  return device;
}

std::vector<KeyInfo> list_keys(const RunConfig& config) {
  Lister lister;
  RunConfig copy = config;
  copy.fields(lister);
  return std::move(lister.keys);
}

namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// "gpt2, opt: ", "all but gpt2: ", or "" for all.
std::string of_families(const std::vector<std::string>& have, const std::vector<std::string>& all) {
  std::vector<std::string> others;
  for (const std::string& family : all)
    if (std::find(have.begin(), have.end(), family) == have.end()) others.push_back(family);
  if (others.empty()) return "";
  return others.size() < have.size() ? "all but " + joined(others) + ": " : joined(have) + ": ";
}

}  // namespace

std::vector<KeyInfo> all_keys() {
  const std::vector<std::string> families = nn::families().names();
  std::vector<KeyInfo> all = list_keys({});
  std::map<std::string, std::vector<std::string>> owners;  // families that have a key of [model]
  for (const std::string& family : families) {
    RunConfig config;
    config.model.config = nn::families().get(family);
    auto at = all.begin();
    for (const KeyInfo& key : list_keys(config)) {
      if (!key.path.starts_with("model.")) break;
      owners[key.path].push_back(family);
      const auto found = std::find_if(all.begin(), all.end(),
                                      [&](const KeyInfo& k) { return k.path == key.path; });
      at = found != all.end() ? found : all.insert(at, key);
      ++at;
    }
  }
  for (KeyInfo& key : all)
    if (const auto have = owners.find(key.path); have != owners.end())
      key.help = of_families(have->second, families) + key.help;
  return all;
}

const std::vector<std::pair<std::string, std::string>>& aliases() {
  static const std::vector<std::pair<std::string, std::string>> table = {
      {"accumulation", "train.accumulation"},
      {"batch-size", "train.batch_size"},
      {"checkpoint-every", "train.checkpoint_every"},
      {"context", "model.max_seq_len"},
      {"data", "data.path"},
      {"device", "train.device"},
      {"dtype", "train.dtype"},
      {"eval-every", "train.eval_every"},
      {"init-from", "train.init_from"},
      {"lr", "optim.lr"},
      {"minutes", "train.minutes"},
      {"out", "train.out"},
      {"sample-every", "train.sample_every"},
      {"seed", "train.seed"},
      {"steps", "train.steps"},
      {"threads", "train.threads"},
      {"tokenizer", "data.tokenizer"},
  };
  return table;
}

void read_flags(const FlagValues& flags, RunConfig& config) {
  FlagReader reader(flags);
  config.fields(reader);
  reader.require_all_used(config.model);
}

std::string to_toml(const RunConfig& config) {
  std::string out, section;
  for (const KeyInfo& key : list_keys(config)) {
    const size_t dot = key.path.find('.');
    if (const std::string name = key.path.substr(0, dot); name != section) {
      out += (section.empty() ? "[" : "\n[") + name + "]\n";
      section = name;
    }
    std::string line = key.path.substr(dot + 1) + " = " + key.value;
    if (key.value.empty()) line = "# " + line;
    if (line.size() < 28) line.resize(28, ' ');
    out += line + "  # " + key.help + "\n";
  }
  return out;
}

void check_texts(const RunConfig& config) {
  TextChecker checker;
  RunConfig(config).fields(checker);
}

void check(const RunConfig& config) {
  parse_compute_device(config.train.device, "train.device");
  try {
    // Any vocabulary does here: the tokenizer comes with the data.
    if (config.model.is_described())
      config.model.context();
    else
      config.model.config.make();
  } catch (const Error& e) {
    fail("model: ", e.what());
  }
}

}  // namespace olm::tools
