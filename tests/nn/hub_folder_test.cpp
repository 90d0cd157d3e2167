// Models as folders of transformers and as runs, both ways.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include <olm/autograd/tape.h>
#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/linear.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <tests/support/hub_oracle.h>
#include <tests/support/parity.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> vendor_cases() {
  std::vector<std::string> cases;
  for (const auto& entry : fs::directory_iterator(fixture("hub")))
    if (entry.is_directory()) cases.push_back(entry.path().filename().string());
  std::sort(cases.begin(), cases.end());
  return cases;
}

std::string vendor_case(const std::string& name) { return fixture("hub/" + name); }

void check_gradients(const Pretrained& loaded, const SafetensorsFile& oracle) {
  size_t wanted = 0;
  for (const std::string& name : oracle.names()) wanted += name.starts_with("grad/");
  const auto errors = gradient_errors(loaded, oracle);
  for (const auto& [name, error] : errors)
    CHECK_MESSAGE(error <= 1e-5, name << " is " << error << " away");
  CHECK(errors.size() == wanted);
}

Tensor logits_of(const Pretrained& loaded, const Tensor& ids) {
  NoGrad guard;
  Context ctx;
  return loaded.model->forward(ids, ctx);
}

const Tensor& some_ids() {
  static const Tensor ids = from_host<int32_t>({3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}, {1, 12});
  return ids;
}

void check_same_logits(const Pretrained& a, const Pretrained& b, double tolerance) {
  const std::vector<double> x = to_host<double>(logits_of(a, some_ids()));
  const std::vector<double> y = to_host<double>(logits_of(b, some_ids()));
  const double apart = distance(x, y);
  CHECK_MESSAGE(apart <= tolerance, "logits are " << apart << " apart");
}

/// All tensors of a folder, from as many files as there are.
std::map<std::string, std::string> tensor_bytes(const std::string& folder) {
  std::map<std::string, std::string> result;
  for (const std::string& path : list_files(folder)) {
    if (!path.ends_with(".safetensors") || path.ends_with("oracle.safetensors")) continue;
    const SafetensorsFile file = SafetensorsFile::open(path);
    for (const std::string& name : file.names()) {
      const auto bytes = file.bytes(name);
      result[name] = file.entry(name).dtype + file.entry(name).shape_text() +
                     std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  }
  return result;
}

}  // namespace

TEST_SUITE("nn/hub/folder") {
  TEST_CASE("logits, loss and gradients of every family are those of transformers") {
    for (const std::string& name : vendor_cases()) {
      CAPTURE(name);
      const SafetensorsFile oracle =
          SafetensorsFile::open(vendor_case(name) + "/oracle.safetensors");
      const Pretrained loaded = load_pretrained(vendor_case(name), {.dtype = f32});
      const Tensor ids = oracle.tensor("ids");
      const std::vector<double> wanted = to_host<double>(oracle.tensor("logits"));
      const std::vector<double> got = to_host<double>(logits_of(loaded, ids));
      REQUIRE(got.size() == wanted.size());
      double largest = 0, apart = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        largest = std::max(largest, std::abs(wanted[i]));
        apart = std::max(apart, std::abs(wanted[i] - got[i]));
      }
      CHECK_MESSAGE(apart <= 1e-5 * largest,
                    "logits are " << apart / largest << " of the largest away");
      Context ctx;
      const Tensor loss = loaded.model->loss({ids}, oracle.tensor("targets"), ctx);
      CHECK(loss.item<double>() ==
            doctest::Approx(oracle.tensor("loss").item<double>()).epsilon(1e-5));
      backward(loss);
      check_gradients(loaded, oracle);
    }
  }

  TEST_CASE("import and export give the same bytes of every tensor, and the same file") {
    for (const std::string& name : vendor_cases()) {
      CAPTURE(name);
      const TempFolder folder;
      convert_to_run(vendor_case(name), folder / "run");
      convert_to_hugging_face(folder / "run", folder / "back");
      auto wanted = tensor_bytes(vendor_case(name));
      const auto got = tensor_bytes(folder / "back");
      const hub::StoredModel back = hub::open_hugging_face(folder / "back");
      const std::string prefix = back.names.prefix;
      for (const auto& [key, bytes] : got) {
        auto at = wanted.find(key);
        if (at == wanted.end() && key.starts_with(prefix))
          at = wanted.find(key.substr(prefix.size()));
        REQUIRE_MESSAGE(at != wanted.end(), key);
        CHECK_MESSAGE(at->second == bytes, key);
        wanted.erase(at);
      }
      for (const auto& [key, bytes] : wanted)  // the buffers of old files
        CHECK_MESSAGE((key.ends_with(".attn.bias") || key.ends_with(".attn.masked_bias")), key);
      const std::string file = vendor_case(name) + "/model.safetensors";
      if (file_exists(file) && wanted.empty() && name != "gpt2_former")
        CHECK(read_file(file) == read_file(folder / "back/model.safetensors"));
    }
  }

  TEST_CASE("a run keeps the vendor's files and computes the same") {
    const TempFolder folder;
    const std::string from = vendor_case("qwen2");
    convert_to_run(from, folder / "run");
    for (const char* name : {"config.json", "generation_config.json"})
      CHECK(read_file(folder / "run/pretrained/" + name) == read_file(from + "/" + name));
    const Pretrained vendor = load_pretrained(from, {.dtype = f32});
    const Pretrained run = load_pretrained(folder / "run", {.dtype = f32});
    check_same_logits(vendor, run, 0);
    CHECK(run.vendor_family == "qwen2");
    CHECK(run.generation.stop == vendor.generation.stop);
    CHECK(run.generation.top_k == vendor.generation.top_k);
    CHECK(run.not_understood == vendor.not_understood);
    CHECK(load_pretrained(from).model->parameters()[0].dtype() == bf16);
    CHECK(load_pretrained(folder / "run").model->parameters()[0].dtype() == bf16);
    // In the file's dtype a model computes with activations of it, and says so to others.
    const Pretrained half = load_pretrained(from);
    NoGrad guard;
    Context as_stored{.dtype = bf16}, wide;
    CHECK(half.model->forward(some_ids(), as_stored).dtype() == bf16);
    CHECK(contains(message_of<Error>([&] { half.model->forward(some_ids(), wide); }),
                   "activations of bf16 (Context::dtype) or parameters of f32 (Module::to) were"));
    CHECK(load(folder / "run")->num_parameters() == run.model->num_parameters());
  }

  TEST_CASE("the tokenizer's end of text is among the ids that end a text") {
    const TempFolder folder;
    std::filesystem::copy(vendor_case("qwen2"), folder / "m");
    const std::vector<int32_t> before = load_pretrained(folder / "m").generation.stop;
    folder.file("m/vocab.json", R"({"a": 0, "b": 1, "<|endoftext|>": 2})");
    folder.file("m/merges.txt", "");
    std::vector<int32_t> wanted = before;
    wanted.push_back(2);
    CHECK(load_pretrained(folder / "m").generation.stop == wanted);
  }

  TEST_CASE("values given to a model may stay where they are") {
    const auto layer = Linear(3, 2, {.bias = false});
    const std::map<std::string, Tensor> values{{"weight", zeros({2, 3})}};
    const Tensor& w = values.at("weight");
    layer->load_state_dict(values, {.alias = true});
    CHECK(layer->weight.tensor().data() == w.data());
    layer->load_state_dict(values);
    CHECK(layer->weight.tensor().data() != w.data());
  }

  TEST_CASE("a loaded model is saved as it was, and after training with what it learned") {
    const TempFolder folder;
    Pretrained loaded = load_pretrained(vendor_case("phi3"));
    save_pretrained(loaded, folder / "a");
    CHECK(tensor_bytes(folder / "a") == tensor_bytes(vendor_case("phi3")));
    NoGrad guard;
    for (const Tensor& p : loaded.model->parameters()) raw::scale_(p, 0.5);
    save_pretrained(loaded, folder / "b");
    check_same_logits(loaded, load_pretrained(folder / "b"), 0);
    CHECK(tensor_bytes(vendor_case("phi3")) == tensor_bytes(folder / "a"));  // writes stay private
  }

  TEST_CASE("models of this library come back from a vendor's form with equal logits") {
    for (const char* family : {"gpt2", "llama", "llama3", "mistral", "qwen2", "qwen3", "phi3",
                               "gemma", "gemma2", "gemma3", "olmo2", "mixtral", "qwen3_moe"}) {
      CAPTURE(family);
      const TempFolder folder;
      DecoderConfig config{.family = family,
                           .vocab_size = 32,
                           .embed_dim = 16,
                           .num_layers = 2,
                           .num_heads = 2,
                           .max_seq_len = 16,
                           .dropout = 0,
                           .tie_weights = false};
      if (family == std::string("gpt2")) config.gelu_tanh = true;
      if (std::string(family).starts_with("gemma")) {
        config.gelu_tanh = config.norm_plus_one = config.tie_weights = true;
        config.head_dim = 8;
      }
      Pretrained own;
      own.config = config;  // with its family's defaults left out
      own.model = DecoderModel(config);
      init(*own.model, {.seed = 3});
      save_pretrained(own, folder / "hf");
      const Pretrained back = load_pretrained(folder / "hf");
      check_same_logits(own, back, 1e-5);
    }
  }

  TEST_CASE("a text ends at the ids of all files and of the tokenizer") {
    const TempFolder folder;
    Pretrained own;
    own.model = DecoderModel({.family = "llama",
                              .vocab_size = 257,
                              .embed_dim = 16,
                              .num_layers = 1,
                              .num_heads = 2,
                              .max_seq_len = 16});
    init(*own.model);
    own.tokenizer = std::make_shared<ByteTokenizer>();
    const std::string to = folder / "hf", generation = to + "/generation_config.json";
    save_pretrained(own, to);
    Json config = Json::object();
    const Json saved = read_json(to + "/config.json");
    for (const auto& [key, value] : saved.members())
      if (key != "eos_token_id") config.append(key, value);
    write_json(to + "/config.json", config);
    fs::remove(generation);
    CHECK(load_pretrained(to).generation.stop == std::vector<int32_t>{256});
    write_file(generation, R"({"eos_token_id": 5})");
    CHECK(load_pretrained(to).generation.stop == std::vector<int32_t>{5, 256});
    convert_to_hugging_face(to, folder / "again");
    CHECK(read_json(folder / "again/generation_config.json").at("eos_token_id") == Json(5));
    CHECK(load_pretrained(folder / "again").generation.stop == std::vector<int32_t>{5, 256});
  }

  TEST_CASE("shards are as small as asked, and listed as transformers lists them") {
    const TempFolder folder;
    const std::string to = folder / "sharded";
    convert_to_hugging_face(vendor_case("llama"), to, {.shard_bytes = 20000});
    const Json index = read_json(to + "/model.safetensors.index.json");
    const SafetensorsFile whole =
        SafetensorsFile::open(vendor_case("llama") + "/model.safetensors");
    int64_t bytes = 0;
    for (const std::string& name : whole.names()) bytes += int64_t(whole.entry(name).bytes);
    CHECK(index.at("metadata").at("total_size").as_int() == bytes);
    CHECK(index.at("metadata").at("total_parameters").as_int() == bytes / 4);
    CHECK(index.at("weight_map").size() == whole.names().size());
    CHECK(!file_exists(to + "/model.safetensors"));
    size_t shards = 0;
    for (const std::string& path : list_files(to)) {
      if (!path.ends_with(".safetensors")) continue;
      ++shards;
      CHECK(fs::file_size(path) < 20000 + 4000);
      CHECK(SafetensorsFile::open(path).metadata().at("format") == "pt");
    }
    CHECK(shards > 2);
    CHECK(tensor_bytes(to) == tensor_bytes(vendor_case("llama")));
  }

  TEST_CASE("weights are converted where asked for") {
    const TempFolder folder;
    convert_to_hugging_face(vendor_case("llama"), folder / "half", {.type = "bf16"});
    const Json config = read_json(folder / "half/config.json");
    CHECK(config.at("torch_dtype").as_string() == "bfloat16");
    CHECK(config.at("dtype").as_string() == "bfloat16");
    CHECK(load_pretrained(folder / "half").model->parameters()[0].dtype() == bf16);
    CHECK(contains(message_of<Error>([&] {
                     convert_to_hugging_face(vendor_case("llama"), folder / "x", {.type = "q8_0"});
                   }),
                   "weights of type \"q8_0\": f32, f16 or bf16 was wanted"));
    CHECK(folder.entries() == 1);
  }

  TEST_CASE("a head stored beside a tied embedding is dropped where equal and kept where not") {
    const TempFolder folder;
    const Pretrained loaded = load_pretrained(vendor_case("qwen2"), {.dtype = f32});
    for (const bool equal : {true, false}) {
      const std::string to = folder / (equal ? "equal" : "other");
      fs::copy(vendor_case("qwen2"), to);
      const SafetensorsFile file = SafetensorsFile::open(to + "/model.safetensors");
      std::vector<NamedTensor> tensors;
      for (const std::string& name : file.names()) tensors.emplace_back(name, file.tensor(name));
      Tensor head = raw::clone(file.tensor("model.embed_tokens.weight"));
      if (!equal) raw::scale_(head, -1);
      tensors.emplace_back("lm_head.weight", head);
      write_safetensors(to + "/model.safetensors", tensors);
      const Pretrained beside = load_pretrained(to, {.dtype = f32});
      CHECK(beside.config->tie_weights == equal);
      const std::vector<double> a = to_host<double>(logits_of(loaded, some_ids()));
      std::vector<double> b = to_host<double>(logits_of(beside, some_ids()));
      if (!equal)
        for (double& x : b) x = -x;
      CHECK(distance(a, b) < 1e-6);
      convert_to_hugging_face(to, to + "2");
      CHECK(SafetensorsFile::open(to + "2/model.safetensors").contains("lm_head.weight") == !equal);
      CHECK(read_json(to + "2/config.json").at("tie_word_embeddings").as_bool() == equal);
    }
  }

  TEST_CASE("a target is absent or whole") {
    const TempFolder folder;
    const std::string from = vendor_case("llama");
    fs::create_directory(folder / "there");
    using Convert = std::function<void(const std::string&, const std::string&, const SaveOptions&)>;
    for (const Convert& convert : {Convert(convert_to_run), Convert(convert_to_hugging_face)}) {
      CHECK(contains(message_of<FileError>([&] { convert(from, folder / "there/", {}); }),
                     "there: exists already; a new folder was wanted"));
      {
        const FileSizeLimit full(30000);
        const std::string message =
            message_of<FileError>([&] { convert(from, folder / "new", {}); });
        CHECK_MESSAGE(message.starts_with((folder / "new/model.safetensors") + ": writing failed"),
                      message);
      }
      int tensors = 0;
      CHECK(contains(message_of<Error>([&] {
                       convert(from, folder / "new",
                               {.should_stop = [&] { return ++tensors > 5; }});
                     }),
                     "stopped before all tensors were written"));
      CHECK(folder.entries() == 1);
      convert(from, folder / "deep/er/new", {});
      CHECK(load_pretrained(folder / "deep/er/new").model->num_parameters() > 0);
      remove_all(folder / "deep");
    }
  }

  TEST_CASE("what the files say is known without their weights") {
    const PretrainedFacts facts = inspect_pretrained(vendor_case("qwen2"));
    CHECK(facts.form == ModelForm::hugging_face);
    CHECK(facts.main_type() == "BF16");
    CHECK(facts.config->num_layers == 2);
    CHECK(facts.tensors.front().bytes == facts.tensors.front().shape.numel() * 2);
  }

  TEST_CASE("a model that is no decoder travels between runs alone") {
    const TempFolder folder;
    const auto model = Block({Embedding(8, 4), OutputHead(4, 8)});
    init(model);
    save(model, folder / "run");
    convert_to_run(folder / "run", folder / "copy");
    CHECK(tensor_bytes(folder / "copy") == tensor_bytes(folder / "run"));
    CHECK(load(folder / "copy")->num_parameters() == model->num_parameters());
    CHECK(contains(
        message_of<FileError>([&] { convert_to_hugging_face(folder / "run", folder / "x"); }),
        "is no decoder"));
  }
}
