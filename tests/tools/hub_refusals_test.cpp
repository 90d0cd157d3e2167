// What the program refuses of other programs' models, and what it leaves behind: nothing.

#include <olm/engine/json.h>
#include <olm/nn/hub.h>

#include <tests/tools/hub_forms.h>

using namespace olm;
using namespace olm::test;

TEST_SUITE("tools/hub_refusals") {
  TEST_CASE("targets of unusual names, and nothing left of those that are refused") {
    const TempFolder f;
    const std::string odd = f / "an odd\nname \xc3\xa9";
    output({"export", forms().hf, "--to", "hf", odd + "/./"});
    output({"verify", forms().hf, odd});
    output({"export", forms().hf, "--to", "gguf", f / "above/x.gguf"});
    check_refused({"export", forms().hf, "--to", "hf", ""}, {"empty"});
    for (const char* form : {"hf", "gguf"})
      check_refused({"export", forms().hf, "--to", form, f / "new/x", "--family=gpt2"}, {"gpt2"});
    const std::string bare = copy_of(f, forms().hf, "bare");
    fs::remove(bare + "/tokenizer.json");
    check_refused({"import", bare, "--out", f / "new/x"}, {bare, "tokenizer"});
    CHECK_FALSE(fs::exists(f / "new"));
  }

  TEST_CASE("a run whose copies of the vendor's files are damaged is not passed on") {
    const TempFolder f;
    output({"import", forms().hf, "--out", f / "run"});
    const std::string file = f / "run/pretrained/tokenizer_config.json";
    for (const char* text : {"{\"pad_token\"", R"({"added_tokens_decoder": {"0": 7}})"}) {
      write_file(file, text);
      check_refused({"export", f / "run", "--to", "hf", f / "out"}, {"tokenizer_config.json"});
      CHECK_FALSE(fs::exists(f / "out"));
    }
  }

  TEST_CASE("what cannot be opened, written or compared") {
    const TempFolder f;
    const auto spoiled = [&](const char* name, const auto& spoil,
                             const std::vector<std::string>& parts) {
      INFO(name);
      const std::string hf = copy_of(f, forms().hf, name);
      spoil(hf);
      check_refused({"inspect", hf}, parts);
      check_refused({"sample", hf, "--prompt=a"}, parts);
      check_refused({"export", hf, "--to", "gguf", f / "out.gguf"}, parts);
      check_refused({"import", hf, "--out", f / "out"}, parts);
      CHECK_FALSE(fs::exists(f / "out"));
      CHECK_FALSE(fs::exists(f / "out.gguf"));
    };
    const auto in_config = [](const char* what, const char* with) {
      return [=](const std::string& hf) {
        Json config = read_json(hf + "/config.json");
        config[what] = Json::parse(with);
        write_file(hf + "/config.json", config.dump());
      };
    };
    spoiled("family", in_config("model_type", "\"mamba\""), {"config.json", "mamba"});
    spoiled("quantised", in_config("quantization_config", "{\"bits\": 4}"),
            {"config.json", "quantization_config"});
    spoiled("activation", in_config("hidden_act", "\"relu6\""), {"config.json", "relu6"});
    spoiled("heads", in_config("num_attention_heads", "3"), {"3"});
    spoiled("rows", in_config("vocab_size", "300"), {"embed_tokens", "300", "288"});
    spoiled("layers", in_config("num_hidden_layers", "2"), {"model.layers.1"});
    spoiled("weights", [](const std::string& hf) { fs::remove(hf + "/model.safetensors"); },
            {"weights", "safetensors"});
    spoiled("short",
            [](const std::string& hf) { fs::resize_file(hf + "/model.safetensors", 3000); },
            {"model.safetensors"});
    spoiled("text", [](const std::string& hf) { write_file(hf + "/config.json", "{"); },
            {"config.json"});
    spoiled("tokenizer",
            [](const std::string& hf) { replace(hf + "/tokenizer.json", "ByteLevel", "Bytes"); },
            {"$.pre_tokenizer.type", "Bytes"});
    spoiled("lines",
            [](const std::string& hf) {
              replace(hf + "/tokenizer.json", "\"ByteLevel\"", R"("a\nb")");
            },
            {"$.pre_tokenizer.type", "a?b"});
    for (const std::string name : {"tokenizer.json", "generation_config.json"})
      spoiled(("no " + name).c_str(),
              [&](const std::string& hf) {
                fs::remove(hf + "/" + name);
                fs::create_symlink("nowhere", hf + "/" + name);
              },
              {name, "cannot be opened"});
    const std::string mute = copy_of(f, forms().hf, "mute");
    fs::remove(mute + "/tokenizer.json");
    check_refused({"import", mute, "--out", f / "out"}, {mute + ": holds no tokenizer"});
    check_refused({"sample", mute, "--prompt=a"}, {mute, "without a tokenizer"});
    write_file(f / "short.gguf", read_file(forms().gguf).substr(0, 2000));
    check_refused({"sample", f / "short.gguf", "--prompt=a"}, {"short.gguf"});
    write_file(f / "text.gguf", "hello");
    check_refused({"eval", f / "text.gguf", "--data", forms().data}, {"text.gguf", "GGUF"});
    check_refused({"sample", f / "none"}, {"none", "wanted"});
    check_refused({"sample", f.path()}, {"config.json", "wanted"});
    check_refused({"verify", forms().hf, f / "none"}, {"none"});
    check_refused({"train", "--data", forms().data, "--init-from", f / "none"}, {"none"});
    check_refused({"export", forms().hf, "--to", "onnx", f / "x"}, {"--to", "onnx"});
    check_refused({"export", forms().hf, "--to", "hf", f / "x", "--type", "q8_0"}, {"q8_0"});
    check_refused({"export", forms().hf, "--to", "gguf", f / "x", "--type", "q4"}, {"q4"});
    check_refused({"export", forms().hf, "--to", "hf", f / "x", "--shard-size", "2XB"}, {"2XB"});
    check_refused({"export", forms().hf, "--to", "hf", f / "x", "--family", "bert"}, {"bert"});
    check_refused({"export", forms().hf, "--to", "hf", forms().hf}, {"there already"});
    check_refused({"import", forms().hf, "--out", forms().run}, {"there already"});
    check_refused({"eval", forms().hf, "--data", forms().data, "--stride=17"}, {"--stride", "16"});
    check_refused({"eval", forms().hf, "--data", forms().data, "--context=17"}, {"--context"});
    check_refused({"export", forms().hf, "--to", "hf", ""}, {"out", "empty"});
    check_refused({"export", forms().hf, "--to", "gguf", f / "new/x", "--type", "q4"}, {"q4"});
    check_refused({"export", forms().hf, "--to", "hf", f / "new/x", "--family", "bert"}, {"bert"});
    CHECK_FALSE(fs::exists(f / "x"));
    CHECK_FALSE(fs::exists(f / "new"));
  }

  TEST_CASE("an export that is interrupted or has no room leaves the target absent or whole") {
    const TempFolder f;
    for (const char* form : {"hf", "gguf"}) {
      const std::string target = f / form;
      const std::string deep = f / ("made/for/" + std::string(form));
      check_refused({"export", forms().hf, "--to", form, deep}, {deep}, {.file_limit = 4096});
      CHECK(fs::is_empty(f.path()));
      for (int wait = 0; wait < 8; ++wait) {
        int polls = 0;
        const Result r =
            run_program({"export", forms().hf, "--to", form, target}, {.watch = [&](pid_t child) {
                          if (runs_program(child) && polls++ == wait)
                            ::kill(child, wait % 2 ? SIGTERM : SIGINT);
                        }});
        INFO(r.err);
        CHECK(fs::exists(target) == (r.status == 0));
        if (!r.err.empty()) CHECK(r.err == "olm: interrupted, nothing was written\n");
        if (r.status == 0) output({"inspect", target});
        fs::remove_all(target);
        CHECK(fs::is_empty(f.path()));
      }
    }
  }
}
