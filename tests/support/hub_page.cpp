#include <tests/support/hub_page.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include <olm/autograd/tape.h>
#include <olm/engine/file.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub/config_internal.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/text/formats_internal.h>
#include <tests/support/markdown.h>
#include <tests/support/parity.h>
#include <tests/support/temp_folder.h>

namespace olm::test {

namespace {

using namespace olm::nn;

/// Largest difference of logits from transformers', over its largest logit.
double logits_error(const std::string& path, const SafetensorsFile& oracle) {
  NoGrad guard;
  const Pretrained model = load_pretrained(path, {.dtype = f32});
  Context ctx;
  const auto got = to_host<float>(model.model->forward(oracle.tensor("ids"), ctx));
  const auto wanted = to_host<float>(oracle.tensor("logits"));
  double largest = 0, difference = got.size() == wanted.size() ? 0 : INFINITY;
  for (size_t i = 0; i < wanted.size() && i < got.size(); ++i) {
    largest = std::max(largest, std::abs(double(wanted[i])));
    difference = std::max(difference, std::abs(double(got[i]) - double(wanted[i])));
  }
  return difference / largest;
}

/// A vector itself; of a matrix g the products g·u and uᵀ·g with u[i] = cos(i), as the oracle has
/// them.
std::vector<double> projected(const Tensor& g) {
  const auto values = to_host<double>(g);
  if (g.rank() < 2) return values;
  const int64_t cols = g.size(-1), rows = g.numel() / cols;
  std::vector<double> result(size_t(rows + cols));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      const double value = values[size_t(r * cols + c)];
      result[size_t(r)] += value * std::cos(double(c));
      result[size_t(rows + c)] += value * std::cos(double(r));
    }
  return result;
}

/// The gradients of the loss under the names of transformers: they go the way of the weights.
std::vector<hub::PlannedTensor> gradients(const std::string& folder,
                                          const SafetensorsFile& oracle) {
  Pretrained model = load_pretrained(folder, {.dtype = f32});
  for (const auto& [key, tensor] : model.model->named_parameters()) set_requires_grad(tensor);
  Context ctx;
  backward(model.model->loss(oracle.tensor("ids"), oracle.tensor("targets"), ctx));
  hub::StoredModel stored = hub::stored(model);
  std::vector<NamedTensor> grads;
  for (const auto& [key, tensor] : model.model->named_parameters())
    grads.emplace_back(key, grad(tensor));
  stored.tensors = hub::tensors_in_memory(grads);
  return hub::plan(stored, hub::family_of(model.vendor_family).hugging_face);
}

/// The largest relative L2 error of a gradient.
double gradient_error(const std::string& folder, const SafetensorsFile& oracle) {
  // Former files of GPT-2 leave it out.
  const std::string kPrefix = "transformer.";
  double worst = 0;
  for (const hub::PlannedTensor& planned : gradients(folder, oracle)) {
    std::string name = "grad/" + planned.name;
    if (!oracle.contains(name) && planned.name.starts_with(kPrefix))
      name = "grad/" + planned.name.substr(kPrefix.size());
    const std::vector<double> got = projected(planned.make());
    const auto wanted = to_host<double>(oracle.tensor(name));
    double difference = 0, size = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double d = (i < got.size() ? got[i] : INFINITY) - wanted[i];
      difference += d * d;
      size += wanted[i] * wanted[i];
    }
    worst = std::max(worst, std::sqrt(difference / size));
  }
  return worst;
}

/// A digit of an error, or what the way is refused for.
template <class Way>
std::string cell(const Way& way) {
  try {
    return one_digit(way());
  } catch (const Error& refusal) {
    return std::string("refused: ") + refusal.what();
  }
}

/// The file that llama.cpp's converter made of the same kind of model.
std::string converted(const std::string& name) {
  return fixture("hub_gguf/" + (name == "gemma3_text" ? "gemma3" : name));
}

HubCase run_case(const std::string& name) {
  const std::string folder = fixture("hub/" + name);
  const auto oracle = SafetensorsFile::open(folder + "/oracle.safetensors");
  const TempFolder out;
  HubCase c{.name = name, .family = inspect_pretrained(folder).vendor_family};
  c.hf_in = one_digit(logits_error(folder, oracle));
  c.hf_out = cell([&] {
    convert_to_hugging_face(folder, out / "hf");
    return logits_error(out / "hf", oracle);
  });
  c.gguf_out = cell([&] {
    convert_to_gguf(folder, out / "model.gguf", {.type = "f32"});
    return logits_error(out / "model.gguf", oracle);
  });
  c.trained = one_digit(gradient_error(folder, oracle));
  c.gguf_in = "none";
  if (file_exists(converted(name) + ".gguf"))
    c.gguf_in = one_digit(logits_error(converted(name) + ".gguf",
                                       SafetensorsFile::open(converted(name) + ".safetensors")));
  return c;
}

std::string meaning_of(const hub::ConfigKey& key) {
  if (key.means == hub::Means::fixed) return "only " + std::string(key.absent);
  if (key.means == hub::Means::nothing) return "kept";
  std::string ours = key.ours;
  for (size_t at = ours.find(' '); at != ours.npos; at = ours.find(' ', at + 2))
    ours.replace(at, 1, ", ");
  return ours;
}

/// tokenizer.json of a vocabulary of bytes with one part of it replaced.
Json with_part(const char* where, const Json& part) {
  Json json = hugging_face_json(ByteTokenizer());
  json[where] = part;
  return json;
}

struct Component {
  const char *name, *where, *json;
};
constexpr Component kComponents[] = {
    {"NFC", "normalizer", R"({"type":"NFC"})"},
    {"NFD", "normalizer", R"({"type":"NFD"})"},
    {"NFKC", "normalizer", R"({"type":"NFKC"})"},
    {"NFKD", "normalizer", R"({"type":"NFKD"})"},
    {"Lowercase", "normalizer", R"({"type":"Lowercase"})"},
    {"Strip", "normalizer", R"({"type":"Strip","strip_left":true,"strip_right":true})"},
    {"Prepend", "normalizer", R"({"type":"Prepend","prepend":"x"})"},
    {"Replace", "normalizer", R"({"type":"Replace","pattern":{"String":" "},"content":"_"})"},
    {"Sequence of normalizers", "normalizer", R"({"type":"Sequence","normalizers":[]})"},
    {"Precompiled", "normalizer", R"({"type":"Precompiled","precompiled_charsmap":""})"},
    {"BertNormalizer", "normalizer",
     R"({"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,)"
     R"("strip_accents":null,"lowercase":true})"},
    {"ByteLevel", "pre_tokenizer",
     R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})"},
    {"Split", "pre_tokenizer",
     R"({"type":"Split","pattern":{"Regex":"\\s+"},"behavior":"Isolated","invert":false})"},
    {"Digits", "pre_tokenizer", R"({"type":"Digits","individual_digits":true})"},
    {"Punctuation", "pre_tokenizer", R"({"type":"Punctuation","behavior":"Isolated"})"},
    {"Whitespace", "pre_tokenizer", R"({"type":"Whitespace"})"},
    {"WhitespaceSplit", "pre_tokenizer", R"({"type":"WhitespaceSplit"})"},
    {"Metaspace", "pre_tokenizer",
     R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false})"},
    {"Sequence of pre-tokenizers", "pre_tokenizer", R"({"type":"Sequence","pretokenizers":[]})"},
    {"UnicodeScripts", "pre_tokenizer", R"({"type":"UnicodeScripts"})"},
    {"BertPreTokenizer", "pre_tokenizer", R"({"type":"BertPreTokenizer"})"},
    {"ByteLevel post-processor", "post_processor",
     R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true})"},
    {"TemplateProcessing", "post_processor",
     R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],)"
     R"("pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],)"
     R"("special_tokens":{}})"},
    {"BertProcessing", "post_processor",
     R"({"type":"BertProcessing","sep":["a",1],"cls":["b",2]})"},
    {"ByteLevel decoder", "decoder",
     R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})"},
    {"ByteFallback", "decoder", R"({"type":"ByteFallback"})"},
    {"Fuse", "decoder", R"({"type":"Fuse"})"},
    {"Strip decoder", "decoder", R"({"type":"Strip","content":" ","start":1,"stop":0})"},
    {"Replace decoder", "decoder", R"({"type":"Replace","pattern":{"String":"▁"},"content":" "})"},
    {"Metaspace decoder", "decoder",
     R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true})"},
    {"WordPiece decoder", "decoder", R"({"type":"WordPiece","prefix":"##","cleanup":true})"},
    {"BPE", "model", nullptr},
    {"Unigram", "model", R"({"type":"Unigram","unk_id":0,"vocab":[["a",0.0]]})"},
    {"WordPiece", "model",
     R"({"type":"WordPiece","unk_token":"a","continuing_subword_prefix":"##",)"
     R"("max_input_chars_per_word":100,"vocab":{"a":0}})"},
};

}  // namespace

std::vector<HubCase> run_hub_cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(fixture("hub")))
    if (file_exists(entry.path().string() + "/oracle.safetensors"))
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  std::vector<HubCase> cases;
  for (const std::string& name : names) cases.push_back(run_case(name));
  return cases;
}

std::vector<HubKey> hub_keys() {
  std::vector<HubKey> keys;
  std::map<std::pair<std::string, std::string>, size_t> counts;
  for (const hub::Family& family : hub::families())
    for (const hub::ConfigKey& key : hub::config_keys(family).keys) {
      const std::string meaning = meaning_of(key);
      const auto at = std::find_if(keys.begin(), keys.end(), [&](const HubKey& k) {
        return k.name == key.theirs && k.meaning == meaning;
      });
      const auto found = at != keys.end() ? at : keys.insert(keys.end(), {key.theirs, meaning, ""});
      found->families += (found->families.empty() ? "" : ", ") + std::string(family.model_type);
      ++counts[{key.theirs, meaning}];
    }
  for (HubKey& key : keys)
    if (counts[{key.name, key.meaning}] == hub::families().size()) key.families = "all";
  return keys;
}

std::vector<HubComponent> hub_components() {
  std::vector<HubComponent> components;
  for (const Component& c : kComponents) {
    std::string read = "yes";
    try {
      BpeTokenizer::from_json(c.json ? with_part(c.where, Json::parse(c.json))
                                     : hugging_face_json(ByteTokenizer()));
    } catch (const Error&) {
      read = "refused";
    }
    components.push_back({c.name, c.where, read});
  }
  return components;
}

std::string hub_page(const std::vector<HubCase>& cases) {
  // The parts between the tables are the page's own.
  std::string page = read_file(fixture("../../docs/hub.md"));
  const auto fill = [&](const std::string& name, const std::string& table) {
    const std::string begin = "<!-- " + name + " -->\n", end = "<!-- end -->";
    const size_t from = page.find(begin);
    if (from == std::string::npos) return;
    const size_t after = from + begin.size();
    page.replace(after, page.find(end, after) - after, table + "\n");
  };
  std::string table =
      "| model | family | HF in | HF out | GGUF in | GGUF out | trained |\n"
      "|---|---|---|---|---|---|---|";
  for (const HubCase& c : cases)
    table += "\n| `" + c.name + "` | " + c.family + " | " + c.hf_in + " | " + c.hf_out + " | " +
             c.gguf_in + " | " + c.gguf_out + " | " + c.trained + " |";
  fill("cases", table);
  table = "| key | here | families |\n|---|---|---|";
  for (const HubKey& key : hub_keys())
    table += "\n| `" + key.name + "` | " + key.meaning + " | " + key.families + " |";
  fill("keys", table);
  table = "| component | part of tokenizer.json | read |\n|---|---|---|";
  for (const HubComponent& c : hub_components())
    table += "\n| `" + c.name + "` | " + c.where + " | " + c.read + " |";
  fill("components", table);
  table = "";
  for (const formats::PreTokenizer& row : formats::pre_tokenizers())
    table += (table.empty() ? "`" : ", `") + std::string(row.name) + "`";
  fill("names", table);
  return page;
}

}  // namespace olm::test
