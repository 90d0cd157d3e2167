// The tokenizer.json of Hugging Face's tokenizers, for BPE models.
#include <algorithm>

#include <olm/nn/text/pipeline_internal.h>

namespace olm::nn::bpe {

namespace {

/// `json` without what `left_out` names, at the places where it stood.
Json without(const Json& json, std::initializer_list<const char*> left_out) {
  Json rest = Json::object();
  for (const auto& [key, value] : json.members()) {
    const bool out = std::any_of(left_out.begin(), left_out.end(),
                                 [&, &name = key](const char* one) { return name == one; });
    rest.append(key, out ? Json() : value);
  }
  return rest;
}

void read_vocabulary(const JsonPart& part, Pipeline& to) {
  Model& model = to.model;
  const Json& json = part.json();
  if (!json.is_object()) part.refuse(json.kind(), ", an object was wanted");
  const size_t count = to.vocabulary_size = json.size();
  model.tokens.resize(count);
  std::vector<bool> taken(count);
  bool ascending = true;
  for (const auto& [token, value] : json.members()) {
    const int64_t id = value.is_integer() ? value.as_int() : -1;
    if (id < 0 || id >= int64_t(count))
      part.refuse("the id ", value.dump(), " of the token \"", token, "\" is not among 0 to ",
                  int64_t(count) - 1, ", which ", count, " tokens take");
    if (taken[size_t(id)]) part.refuse("the id ", id, " comes twice");
    taken[size_t(id)] = true;
    ascending &= size_t(id) == to.order.size();
    to.order.push_back(int32_t(id));
    model.tokens[size_t(id)] = token;
  }
  if (ascending) to.order.clear();
  model.ids.reserve(count);
  for (size_t id = 0; id < count; ++id) model.ids.add(model.tokens, int32_t(id));
}

/// "a b" or ["a", "b"].
std::pair<std::string_view, std::string_view> read_merge(const JsonPart& part, const Json& json) {
  if (json.is_array()) {
    if (json.size() != 2 || !json.at(size_t(0)).is_string() || !json.at(1).is_string())
      part.refuse("the merge ", json.dump(), " is not two tokens");
    return {json.at(size_t(0)).as_string(), json.at(1).as_string()};
  }
  if (!json.is_string()) part.refuse("the merge ", json.dump(), ", a string was wanted");
  const std::string_view text = json.as_string();
  const size_t space = text.find(' ');
  if (space == text.npos || text.find(' ', space + 1) != text.npos)
    part.refuse("the merge \"", text, "\" is not two tokens with a space between them");
  return {text.substr(0, space), text.substr(space + 1)};
}

void read_merges(const JsonPart& part, Pipeline& to) {
  Model& model = to.model;
  const size_t count = part.size();
  model.merge_list.reserve(count);
  model.merges.reserve(count);
  const auto id_of = [&](std::string_view token) {
    const int32_t id = model.id_of(token);
    if (id < 0) part.refuse("the token \"", token, "\" of a merge is not in the vocabulary");
    return id;
  };
  std::string joined;
  for (const Json& json : part.json().items()) {
    const auto [left, right] = read_merge(part, json);
    if (model.merge_list.empty()) to.merges_are_texts = json.is_string();
    if (json.is_string() != to.merges_are_texts) part.refuse("merges in two spellings");
    if (right.size() < model.prefix.size())
      part.refuse("the token \"", right, "\" of a merge is ",
                  "shorter than continuing_subword_prefix");
    joined.assign(left).append(right.substr(model.prefix.size()));
    const int32_t a = id_of(left), b = id_of(right);
    model.merges.add(a, b, {int32_t(model.merge_list.size()), id_of(joined)});
    model.merge_list.emplace_back(a, b);
  }
}

void read_model(const JsonPart& part, Pipeline& to) {
  Model& model = to.model;
  if (const auto type = part.find("type"))
    if (type->text() != "BPE")
      type->refuse("a model of type ", type->text(), " is not supported, BPE was wanted");
  if (const auto dropout = part.find("dropout"))
    if (!dropout->json().is_number() || dropout->json().as_double() != 0)
      dropout->refuse("dropout of ", dropout->json().dump(), " is not supported");
  const auto text = [&](const char* key) {
    const auto value = part.find(key);
    return value ? value->text() : std::string();
  };
  model.has_unk = part.find("unk_token").has_value();
  model.unk = text("unk_token");
  model.prefix = text("continuing_subword_prefix");
  model.suffix = text("end_of_word_suffix");
  model.fuse_unk = part.flag("fuse_unk", false);
  model.byte_fallback = part.flag("byte_fallback", false);
  model.whole_words_first = part.flag("ignore_merges", false);
  read_vocabulary(part.at("vocab"), to);
  read_merges(part.at("merges"), to);
}

AddedToken read_added_token(const JsonPart& part) {
  AddedToken token;
  token.content = part.at("content").text();
  const int64_t id = part.at("id").integer();
  if (token.content.empty()) part.refuse("an empty added token");
  if (id < 0 || id > 1 << 30) part.refuse("the id ", id, " is out of range");
  token.id = int32_t(id);
  token.single_word = part.flag("single_word", false);
  token.lstrip = part.flag("lstrip", false);
  token.rstrip = part.flag("rstrip", false);
  token.normalized = part.flag("normalized", false);
  token.special = part.flag("special", false);
  return token;
}

/// Added tokens have the id of the vocabulary, or the next behind all others.
void read_added_tokens(const JsonPart& part, Pipeline& to) {
  std::unordered_map<std::string, size_t> places;
  for (size_t i = 0; i < part.size(); ++i) {
    AddedToken token = read_added_token(part.item(i));
    const auto before = to.added_ids.find(token.content);
    const int32_t in_vocabulary = to.model.id_of(token.content);
    const int32_t id = before != to.added_ids.end() ? before->second
                       : in_vocabulary >= 0         ? in_vocabulary
                                                    : int32_t(to.model.tokens.size());
    if (token.id != id)
      part.item(i).refuse("the added token \"", token.content, "\" has the id ", token.id,
                          ", its place is ", id);
    if (size_t(id) == to.model.tokens.size()) to.model.tokens.push_back(token.content);
    to.added_ids[token.content] = id;
    if (token.special) to.special.insert(token.content);
    const auto [place, is_new] = places.emplace(token.content, to.added.size());
    if (is_new)
      to.added.push_back(std::move(token));
    else
      to.added[place->second] = std::move(token);
  }
}

/// What is looked for, and shown: normalised texts of tokens that are `normalized`.
void prepare_added_tokens(const JsonPart& part, Pipeline& to) {
  for (AddedToken& token : to.added) {
    token.special = to.special.contains(token.content);
    Normalized text{token.content, 0};
    if (token.normalized)
      for (const Normalizer& one : to.normalizers) {
        one.apply(text);
        require_grown(text.text.size(), max_grown(token.content.size()));
      }
    if (text.text != token.content) to.shown[token.id] = text.text;
    if (text.text.empty()) continue;  // never found
    if (!(token.normalized ? to.normalized : to.literal).add(token, text.text))
      part.refuse("two tokens are \"", text.text, "\" once normalised");
  }
  to.literal.finish();
  to.normalized.finish();
}

/// A special token that a template adds, as its ids.
void read_piece(const JsonPart& template_part, const JsonPart& piece, std::vector<int32_t>& ids) {
  const std::string& name = piece.at("id").text();
  const JsonPart list = template_part.at("special_tokens").at(name).at("ids");
  for (size_t i = 0; i < list.size(); ++i) ids.push_back(int32_t(list.item(i).integer()));
}

void read_template(const JsonPart& part, Pipeline& to) {
  const JsonPart single = part.at("single");
  int texts = 0;
  for (size_t i = 0; i < single.size(); ++i) {
    if (const auto special = single.item(i).find("SpecialToken")) {
      read_piece(part, *special, texts > 0 ? to.after : to.before);
    } else {
      const JsonPart sequence = single.item(i).at("Sequence");
      if (sequence.at("id").text() != "A" || ++texts > 1)
        sequence.refuse("a template that does not hold the text A once");
    }
  }
  if (texts != 1) single.refuse("a template that does not hold the text A once");
}

void read_post_processor(const JsonPart& part, Pipeline& to, bool& adds) {
  const std::string type = part.type();
  if (type == "Sequence") {
    const JsonPart items = part.at("processors");
    for (size_t i = 0; i < items.size(); ++i) read_post_processor(items.item(i), to, adds);
    return;
  }
  if (type == "ByteLevel") return;  // tells offsets
  if (adds) part.at("type").refuse("a second post-processor that adds tokens");
  adds = true;
  if (type == "TemplateProcessing") return read_template(part, to);
  if (type != "RobertaProcessing" && type != "BertProcessing")
    part.refuse_type("post-processor",
                     "ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing and "
                     "Sequence");
  to.before.push_back(int32_t(part.at("cls").item(1).integer()));
  to.after.push_back(int32_t(part.at("sep").item(1).integer()));
}

/// The ids that words can give: those of characters, of merges, and of words taken whole.
std::vector<bool> ids_of_words(const Model& model, size_t vocabulary) {
  std::vector<bool> given(model.tokens.size());
  std::string byte;
  for (size_t id = 0; id < vocabulary; ++id)
    given[id] =
        model.whole_words_first || (bytes_of_letters(model.tokens[id], byte) && byte.size() == 1);
  for (const auto& [left, right] : model.merge_list)
    given[size_t(model.merges.find(left, right).id)] = true;
  return given;
}

/// Tokens that are added to a byte-level vocabulary stand for their own text, even where that
/// consists of letters of bytes; but an id that words give as well stands for the bytes of the
/// word.
void set_bytes(Pipeline& to) {
  const size_t count = to.model.tokens.size();
  to.bytes.reserve(count);
  for (size_t id = 0; id < count; ++id)
    to.bytes.push_back(bytes_amid(to.decoders, to.text_of(int32_t(id))));
  const bool letters = std::any_of(to.decoders.begin(), to.decoders.end(), [](const Decoder& d) {
    return d.kind == Decoder::Kind::byte_level;
  });
  if (!letters) return;
  const std::vector<bool> of_words = ids_of_words(to.model, to.vocabulary_size);
  for (const AddedToken& token : to.added)
    if (!of_words[size_t(token.id)]) to.bytes[size_t(token.id)] = token.content;
}

void set_special_ids(const JsonPart& root, Pipeline& to) {
  const auto check = [&](const std::vector<int32_t>& ids) {
    for (const int32_t id : ids)
      if (id < 0 || size_t(id) >= to.model.tokens.size())
        root.at("post_processor").refuse("the id ", id, " is none of the vocabulary's");
  };
  check(to.before);
  check(to.after);
  SpecialTokens& special = to.special_ids;
  special.adds_bos = !to.before.empty();
  special.adds_eos = !to.after.empty();
  if (to.before.size() == 1) special.bos = to.before[0];
  if (to.after.size() == 1) special.eos = to.after[0];
  if (const int32_t id = to.model.has_unk ? to.model.id_of(to.model.unk) : -1; id >= 0)
    special.unk = id;
  if (const auto padding = root.find("padding"))
    if (const auto id = padding->find("pad_id"))
      if (id->integer() >= 0 && id->integer() < int64_t(to.model.tokens.size()))
        special.pad = int32_t(id->integer());
}

}  // namespace

const std::string& Pipeline::text_of(int32_t id) const {
  const auto at = shown.find(id);
  return at == shown.end() ? model.tokens[size_t(id)] : at->second;
}

std::shared_ptr<const Pipeline> read_pipeline(const Json& json) {
  auto made = std::make_shared<Pipeline>();
  const JsonPart root(json, "$");
  const JsonPart model = root.at("model");
  if (const auto version = root.find("version"))
    if (version->text() != "1.0") version->refuse("the version \"", version->text(), "\"");
  if (const auto part = root.find("normalizer")) read_normalizer(*part, made->normalizers);
  if (const auto part = root.find("pre_tokenizer")) read_pre_tokenizer(*part, made->steps);
  if (const auto part = root.find("decoder")) {
    made->has_decoder = true;
    read_decoder(*part, made->decoders);
  }
  bool adds = false;
  if (const auto part = root.find("post_processor")) read_post_processor(*part, *made, adds);
  if (!made->steps.empty() && made->steps.back().kind == Step::Kind::letters) {
    made->steps.pop_back();
    made->letters_last = true;
  }
  read_model(model, *made);
  if (const auto part = root.find("added_tokens")) {
    read_added_tokens(*part, *made);
    prepare_added_tokens(*part, *made);
  }
  made->model.finish();
  set_bytes(*made);
  set_special_ids(root, *made);
  made->frame = without(json, {"model"});
  made->frame["model"] = without(model.json(), {"vocab", "merges"});
  return made;
}

Json to_json(const Pipeline& from) {
  const Model& model = from.model;
  Json vocabulary = Json::object(), merges = Json::array();
  for (size_t i = 0; i < from.vocabulary_size; ++i) {
    const int32_t id = from.order.empty() ? int32_t(i) : from.order[i];
    vocabulary.append(model.tokens[size_t(id)], id);
  }
  for (const auto& [left, right] : model.merge_list) {
    const std::string &a = model.tokens[size_t(left)], &b = model.tokens[size_t(right)];
    if (from.merges_are_texts) {
      merges.push_back(a + " " + b);
    } else {
      Json pair = Json::array();
      pair.push_back(a);
      pair.push_back(b);
      merges.push_back(std::move(pair));
    }
  }
  Json json = from.frame;
  json["model"]["vocab"] = std::move(vocabulary);
  json["model"]["merges"] = std::move(merges);
  return json;
}

}  // namespace olm::nn::bpe
