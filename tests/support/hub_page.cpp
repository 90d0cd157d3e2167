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
#include <tests/support/hub_oracle.h>
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

/// The largest relative L2 error of a gradient.
double gradient_error(const std::string& folder, const SafetensorsFile& oracle) {
  const Pretrained model = load_pretrained(folder, {.dtype = f32});
  Context ctx;
  backward(model.model->loss(oracle.tensor("ids"), oracle.tensor("targets"), ctx));
  double worst = 0;
  for (const auto& [name, error] : gradient_errors(model, oracle)) worst = std::max(worst, error);
  return worst;
}

/// The file that llama.cpp's converter made of the same kind of model.
std::string converted(const std::string& name) {
  return fixture("hub_gguf/" + (name == "gemma3_text" ? "gemma3" : name));
}

/// The ways through GGUF.
void run_gguf(const std::string& folder, const SafetensorsFile& oracle, const TempFolder& out,
              HubCase& c) {
  c.gguf_in = c.gguf_out = "none";
  const std::string file = converted(c.name);
  if (file_exists(file + ".gguf")) {
    const auto of_file = SafetensorsFile::open(file + ".safetensors");
    c.gguf_in = one_digit(logits_error(file + ".gguf", of_file));
    convert_to_gguf(file + ".gguf", out / "again.gguf", {.type = "f32"});
    c.gguf_out = one_digit(logits_error(out / "again.gguf", of_file)) + " \\*";
  }
  try {
    convert_to_gguf(folder, out / "model.gguf", {.type = "f32"});
    c.gguf_out = one_digit(logits_error(out / "model.gguf", oracle));
  } catch (const Error& error) {
    c.refusal = error.what();
  }
}

HubCase run_case(const std::string& name) {
  const std::string folder = fixture("hub/" + name);
  const auto oracle = SafetensorsFile::open(folder + "/oracle.safetensors");
  const TempFolder out;
  HubCase c{.name = name, .family = inspect_pretrained(folder).vendor_family};
  c.hf_in = one_digit(logits_error(folder, oracle));
  convert_to_hugging_face(folder, out / "hf");
  c.hf_out = one_digit(logits_error(out / "hf", oracle));
  run_gguf(folder, oracle, out, c);
  c.trained = one_digit(gradient_error(folder, oracle));
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
  table = "| model | why llama.cpp cannot have it |\n|---|---|";
  for (const HubCase& c : cases)
    if (!c.refusal.empty()) table += "\n| `" + c.name + "` | " + c.refusal + " |";
  fill("refusals", table);
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
