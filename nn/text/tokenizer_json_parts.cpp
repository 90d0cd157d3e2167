// The parts of a tokenizer.json, and how vocabularies of other formats become one.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include <olm/engine/utf8.h>
#include <olm/nn/text/bpe_internal.h>
#include <olm/nn/text/formats_internal.h>

namespace olm::nn::formats {

namespace {

/// No vocabulary in use has a longer token; the work per token grows with the square of this.
constexpr size_t kMaxTokenBytes = 1024;

Json model_json(const Parts& parts) {
  Json json, vocabulary = Json::object();
  for (const Token& token : parts.vocabulary) vocabulary.append(token.text, token.id);
  json["type"] = "BPE";
  json["dropout"] = nullptr;
  json["unk_token"] = parts.unk.empty() ? Json(nullptr) : Json(parts.unk);
  json["continuing_subword_prefix"] = nullptr;
  json["end_of_word_suffix"] = nullptr;
  json["fuse_unk"] = parts.fuse_unk;
  json["byte_fallback"] = parts.byte_fallback;
  json["ignore_merges"] = parts.whole_words_first;
  json["vocab"] = std::move(vocabulary);
  json["merges"] = parts.merges;
  return json;
}

void check_tokens(const Parts& parts) {
  std::unordered_set<std::string_view> texts;
  std::unordered_map<int32_t, std::string_view> ids;
  for (const Token& token : parts.vocabulary) {
    require(!token.text.empty(), "the token of id ", token.id, " is empty");
    require(texts.insert(token.text).second, "the token \"", token.text, "\" comes twice");
    require(ids.emplace(token.id, token.text).second, "the id ", token.id, " comes twice");
  }
  texts.clear();
  for (const Token& token : parts.added) {
    require(!token.text.empty(), "the added token of id ", token.id, " is empty");
    require(texts.insert(token.text).second, "the added token \"", token.text, "\" comes twice");
    const auto at = ids.emplace(token.id, token.text).first;
    require(at->second == token.text, "the id ", token.id, " comes twice");
  }
}

/// Readers of tokenizer.json count: ids of the vocabulary have no holes, and those of added tokens
/// go on from there. What is missing becomes a token that no text gives, since it holds a space.
void fill_holes(Parts& parts) {
  auto by_id = [](const Token& a, const Token& b) { return a.id < b.id; };
  std::sort(parts.vocabulary.begin(), parts.vocabulary.end(), by_id);
  std::sort(parts.added.begin(), parts.added.end(), by_id);
  const size_t count = parts.vocabulary.size() + parts.added.size();
  const int64_t size = parts.vocabulary.empty() ? 0 : int64_t(parts.vocabulary.back().id) + 1;
  const int64_t end =
      parts.added.empty() ? size : std::max(size, int64_t(parts.added.back().id) + 1);
  require(end <= int64_t(count) * 2 + 1024, "the id ", end - 1, " is out of range for ", count,
          " tokens");
  std::vector<const Token*> known(static_cast<size_t>(end)), of_vocabulary(known);
  for (const Token& token : parts.added) known[size_t(token.id)] = &token;
  for (const Token& token : parts.vocabulary) of_vocabulary[size_t(token.id)] = &token;
  std::vector<Token> vocabulary, added = parts.added;
  for (int32_t id = 0; id < end; ++id) {
    const Token *in = of_vocabulary[size_t(id)], *out = known[size_t(id)];
    const Token filler = {.text = "[unused " + std::to_string(id) + "]", .id = id, .special = true};
    if (id < size)
      vocabulary.push_back(in ? *in : out ? *out : filler);
    else if (!out)
      added.push_back(filler);
  }
  std::sort(added.begin(), added.end(), by_id);
  parts.vocabulary = std::move(vocabulary);
  parts.added = std::move(added);
}

std::string text_of(const Json& tokenizer, int32_t id) {
  for (const Json& token : tokenizer.at("added_tokens").items())
    if (token.at("id").as_int() == id) return token.at("content").as_string();
  for (const auto& [text, number] : tokenizer.at("model").at("vocab").members())
    if (number.as_int() == id) return text;
  fail("the id ", id, " of a token that is added to texts is not in the vocabulary");
}

}  // namespace

Json added_json(const Token& token) {
  Json item;
  item["id"] = token.id;
  item["content"] = token.text;
  item["single_word"] = token.single_word;
  item["lstrip"] = token.lstrip;
  item["rstrip"] = token.rstrip;
  item["normalized"] = token.normalized;
  item["special"] = token.special;
  return item;
}

Json template_json(std::optional<int32_t> bos, std::optional<int32_t> eos, const Json& tokenizer) {
  if (!bos && !eos) return nullptr;
  Json json, single = Json::array(), pair = Json::array(), special = Json::object();
  auto add = [&](const char* kind, const std::string& first, const std::string& second) {
    Json item;
    item[kind]["id"] = first;
    item[kind]["type_id"] = 0;
    single.push_back(item);
    item[kind]["id"] = second;
    item[kind]["type_id"] = 1;
    pair.push_back(std::move(item));
  };
  auto add_token = [&](int32_t id) {
    const std::string text = text_of(tokenizer, id);
    add("SpecialToken", text, text);
    if (special.contains(text)) return;
    Json entry;
    entry["id"] = text;
    entry["ids"].push_back(id);
    entry["tokens"].push_back(text);
    special.append(text, std::move(entry));
  };
  if (bos) add_token(*bos);
  add("Sequence", "A", "B");
  if (eos) add_token(*eos);
  json["type"] = "TemplateProcessing";
  Json both = single;
  for (const Json& item : pair.items()) both.push_back(item);
  json["single"] = std::move(single);
  json["pair"] = std::move(both);
  json["special_tokens"] = std::move(special);
  return json;
}

Json byte_level_json(bool use_regex) {
  Json json;
  json["type"] = "ByteLevel";
  json["add_prefix_space"] = false;
  json["trim_offsets"] = true;
  json["use_regex"] = use_regex;
  return json;
}

Json replace_json(const char* kind, const std::string& pattern, const std::string& with) {
  Json json;
  json["type"] = "Replace";
  json["pattern"][kind] = pattern;
  json["content"] = with;
  return json;
}

Json sequence_json(const char* member, std::vector<Json> items) {
  if (items.empty()) return nullptr;
  if (items.size() == 1) return items.front();
  Json json;
  json["type"] = "Sequence";
  json[member] = Json(items);
  return json;
}

Json pre_tokenizer_json(const std::vector<std::string>& steps) {
  std::vector<Json> items;
  for (size_t i = 0; i < steps.size(); ++i) {
    Json step;
    if (steps[i] == kDigitsStep) {
      step["type"] = "Digits";
      step["individual_digits"] = true;
    } else if (steps[i] == kGpt2Step && i + 1 == steps.size()) {
      items.push_back(byte_level_json(true));
      return sequence_json("pretokenizers", std::move(items));
    } else {
      step["type"] = "Split";
      step["pattern"]["Regex"] = steps[i] == kGpt2Step ? std::string(bpe::kGpt2Pattern) : steps[i];
      step["behavior"] = "Isolated";
      step["invert"] = false;
    }
    items.push_back(std::move(step));
  }
  items.push_back(byte_level_json(false));
  return sequence_json("pretokenizers", std::move(items));
}

void set_spaces(Parts& parts, bool prefix, bool collapse) {
  const std::string space = "\xe2\x96\x81";
  std::vector<Json> normalizers, decoders;
  if (collapse) {
    normalizers.push_back(replace_json("Regex", "\\A +|[ " + space + "]+\\z", ""));
    normalizers.push_back(replace_json("Regex", " {2,}", " "));
  }
  if (prefix) {
    Json prepend;
    prepend["type"] = "Prepend";
    prepend["prepend"] = space;
    normalizers.push_back(std::move(prepend));
  }
  normalizers.push_back(replace_json("String", " ", space));
  parts.normalizer = sequence_json("normalizers", std::move(normalizers));
  decoders.push_back(replace_json("String", space, " "));
  for (const char* type : {"ByteFallback", "Fuse"}) {
    Json step;
    step["type"] = type;
    decoders.push_back(std::move(step));
  }
  if (prefix) {
    Json strip;
    strip["type"] = "Strip";
    strip["content"] = " ";
    strip["start"] = 1;
    strip["stop"] = 0;
    decoders.push_back(std::move(strip));
  }
  parts.decoder = sequence_json("decoders", std::move(decoders));
}

Json to_tokenizer_json(Parts parts) {
  check_tokens(parts);
  fill_holes(parts);
  Json json, added = Json::array();
  for (const Token& token : parts.added) added.push_back(added_json(token));
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = parts.normalizer;
  json["pre_tokenizer"] = parts.pre_tokenizer;
  json["post_processor"] = nullptr;
  json["decoder"] = parts.decoder.is_null() ? byte_level_json(true) : parts.decoder;
  json["model"] = model_json(parts);
  json["post_processor"] = template_json(parts.bos, parts.eos, json);
  return json;
}

std::vector<std::pair<int32_t, int32_t>> pairs_of(const std::vector<std::string>& tokens,
                                                  const std::vector<int32_t>& order,
                                                  bool characters) {
  std::unordered_map<std::string_view, size_t> places;  // in `order`
  for (size_t at = 0; at < order.size(); ++at) {
    const std::string& token = tokens[size_t(order[at])];
    require(token.size() <= kMaxTokenBytes, "a token of ", token.size(), " bytes, at most ",
            kMaxTokenBytes, " are taken");
    places.emplace(token, at);
  }
  std::vector<std::pair<int32_t, int32_t>> pairs;
  std::vector<std::pair<size_t, size_t>> here;
  for (const int32_t index : order) {
    const std::string_view token = tokens[size_t(index)];
    here.clear();
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if (characters && (uint8_t(token[cut]) & 0xc0) == 0x80) continue;
      const auto left = places.find(token.substr(0, cut));
      if (left == places.end()) continue;
      const auto right = places.find(token.substr(cut));
      if (right != places.end()) here.emplace_back(left->second, right->second);
    }
    std::sort(here.begin(), here.end());
    for (const auto& [left, right] : here) pairs.emplace_back(order[left], order[right]);
  }
  return pairs;
}

Json merges_json(const std::vector<std::string>& texts,
                 const std::vector<std::pair<int32_t, int32_t>>& pairs) {
  Json merges = Json::array();
  for (const auto& pair : pairs) {
    const std::string &left = texts[size_t(pair.first)], &right = texts[size_t(pair.second)];
    if (left.find(' ') == left.npos && right.find(' ') == right.npos)
      merges.push_back(left + " " + right);
    else
      merges.push_back(Json(std::vector<std::string>{left, right}));
  }
  return merges;
}

}  // namespace olm::nn::formats
