// Models of other programs through the program: every verb takes every form.
#include <cmath>

#include <olm/engine/json.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub.h>
#include <olm/nn/training.h>

#include <tests/tools/hub_forms.h>

using namespace olm;
using namespace olm::test;

TEST_SUITE("tools/hub") {
  TEST_CASE("the three forms are one model") {
    const std::vector<std::string> all = forms().all();
    for (const std::string& other : {all[1], all[2]}) {
      const std::string text = output({"verify", all[0], other, "--data", forms().data});
      for (const char* part : {"ids         the same", "\nequal\n", "100.00 %"})
        CHECK_MESSAGE(text.find(part) != std::string::npos, text);
    }
    for (const Args& more : {Args{"--temperature=0"}, Args{"--temperature=1", "--seed=3"}}) {
      std::string first;
      for (const std::string& path : all) {
        Args args{"sample", path, "--prompt", "mira ", "--tokens=30"};
        args.insert(args.end(), more.begin(), more.end());
        const std::string text = output(args);
        CHECK(text.starts_with("mira "));
        if (first.empty()) first = text;
        CHECK(text == first);
      }
    }
    const std::string ids = output({"tokenizer", "encode", all[0], "--text", "mira über"});
    for (const std::string& path : all) {
      CHECK(output({"tokenizer", "encode", path, "--text", "mira über"}) == ids);
      const Result text = run_program({"tokenizer", "decode", path}, {.input = ids});
      CHECK(text.out == "mira über\n");
    }
  }

  TEST_CASE("bits per byte are those of every token, and the same in each form") {
    std::vector<double> bits;
    for (const std::string& path : forms().all()) {
      const Json json =
          Json::parse(output({"eval", path, "--data", forms().data, "--json", "--stride=5"}));
      bits.push_back(json.at("bits_per_byte").as_double());
      CHECK(json.at("stride") == Json(5));
      CHECK(json.at("bytes") == Json(read_file(forms().data).size()));
      const double nats = json.at("loss").as_double() * json.at("tokens").as_double();
      CHECK(nats / std::log(2.0) / json.at("bytes").as_double() == doctest::Approx(bits.back()));
    }
    CHECK(bits[1] == doctest::Approx(bits[0]).epsilon(1e-6));
    CHECK(bits[2] == doctest::Approx(bits[0]).epsilon(1e-6));
    // More context never hurts a model that has learned something.
    const Json apart = Json::parse(output({"eval", forms().hf, "--data", forms().data, "--json"}));
    CHECK(apart.at("bits_per_byte").as_double() > bits[0]);
    // One byte is a text: it is predicted from the end of the one before.
    write_file(forms().folder / "one", "m");
    const Json one =
        Json::parse(output({"eval", forms().hf, "--data", forms().folder / "one", "--json"}));
    CHECK(one.at("tokens") == Json(1));
    CHECK(one.at("loss").as_double() > 0);
  }

  TEST_CASE("characters that a vocabulary lacks are left out, and a line says so") {
    const TempFolder f;
    write_file(f / "text", small_text());
    write_file(f / "other", "mira \u4f60\u597d mira\n");
    const std::string hf = f / "hf";
    output(tiny_training(f / "text", f / "run", {"--model.family=llama", "--tokenizer=char"}));
    output({"export", f / "run", "--to", "hf", hf});
    const std::string note = "characters left out, for which the vocabulary has no token: 2\n";
    CHECK(contains(output({"eval", hf, "--data", f / "other"}), note));
    CHECK_FALSE(contains(output({"eval", hf, "--data", f / "text"}), "left out"));
    const Json json = Json::parse(output({"eval", hf, "--data", f / "other", "--json"}));
    CHECK(json.at("dropped") == Json(2));
    const Result ids = run_program({"tokenizer", "encode", hf, "--text", "mira \u4f60\u597d"});
    CHECK(ids.status == 0);
    CHECK(ids.err == "olm tokenizer encode: " + note);
    CHECK(ids.out == output({"tokenizer", "encode", hf, "--text", "mira "}));
    const Result train = run_program(tiny_training(
        f / "other", f / "again", {"--tokenizer=" + hf + "/tokenizer.json", "--context=4"}));
    INFO(train.err);
    CHECK(contains(train.out, "data: " + note));
  }

  TEST_CASE("inspect says what a model is without reading it") {
    for (const std::string& path : forms().all()) {
      const std::string text = output({"inspect", path});
      for (const char* part : {"model: ", ", llama\n", "1 layers of width 16", "context: 16 tokens",
                               "F32", "280 ids", "288 rows", "eos 256 <|endoftext|>", "q_proj"})
        CHECK_MESSAGE(text.find(part) != std::string::npos, part, " in ", text);
      CHECK(output({"inspect", path, "--tensors"}).find("[16,16]") != std::string::npos);
    }
    CHECK(output({"inspect", forms().hf}).find("a_key_of_theirs") != std::string::npos);
    CHECK(output({"inspect", forms().hf, "--tensors"}).find("model.layers.0.self_attn.q_proj") !=
          std::string::npos);
    CHECK(output({"inspect", forms().gguf, "--tensors"}).find("blk.0.attn_q.weight") !=
          std::string::npos);
  }

  TEST_CASE("import and export give back the same bytes") {
    const TempFolder f;
    const std::string text = output({"import", forms().hf, "--out", f / "run"});
    CHECK(text.find("a_key_of_theirs") != std::string::npos);
    for (const char* part : {": run, llama, ", " tensors of F32, "})
      CHECK(text.find(part) != std::string::npos);
    output({"export", f / "run/", "--to", "hf", f / "again/"});
    CHECK(read_json(f / "again/config.json").at("a_key_of_theirs") == Json(7));
    for (const char* name : {"model.safetensors", "tokenizer.json"})
      CHECK(read_file(f / ("again/" + std::string(name))) == read_file(forms().hf + "/" + name));
    output({"export", f / "run", "--to", "hf", f / "shards", "--shard-size", "8kB"});
    CHECK(file_exists(f / "shards/model.safetensors.index.json"));
    output({"verify", f / "shards", forms().gguf});
    // What is rounded is told from what is another model.
    output({"export", f / "run", "--to", "gguf", f / "q.gguf", "--type", "bf16"});
    CHECK(output({"verify", f / "run", f / "q.gguf"}).find("rounded to BF16") != std::string::npos);
    output({"verify", f / "run", f / "q.gguf", "--tolerance=1e-6"}, 1);
  }

  TEST_CASE("models that differ are told apart") {
    const TempFolder f;
    std::string other = copy_of(f, forms().hf, "weights");
    auto file = SafetensorsFile::open(other + "/model.safetensors");
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const std::string& name : file.names())
      tensors.emplace_back(name, name.find("v_proj") == std::string::npos
                                     ? file.tensor(name)
                                     : zeros(file.tensor(name).shape()));
    fs::remove(other + "/model.safetensors");
    write_safetensors(other + "/model.safetensors", tensors);
    CHECK(output({"verify", forms().hf, other}, 1).find("\ndifferent\n") != std::string::npos);
    other = copy_of(f, forms().hf, "ids");
    Json tokenizer = read_json(other + "/tokenizer.json");
    tokenizer["normalizer"] = Json::parse(R"({"type": "Lowercase"})");
    write_file(other + "/tokenizer.json", tokenizer.dump());
    CHECK(output({"verify", forms().hf, other}, 1).find("other ones for") != std::string::npos);
  }

  TEST_CASE("training goes on with a model of another program") {
    for (const std::string& from : {forms().hf, forms().gguf}) {
      const TempFolder f;
      const std::string run = f / "run";
      const Args args{"train",
                      "--data",
                      forms().data,
                      "--init-from",
                      from,
                      "--out",
                      run,
                      "--steps=4",
                      "--context=12",
                      "--lr=0.0001",
                      "--batch-size=4",
                      "--eval-every=4",
                      "--sample-every=4",
                      "--sample.tokens=5",
                      "--checkpoint-every=2"};
      output(args);
      const std::string toml = read_file(run + "/run.toml");
      CHECK(toml.find("max_seq_len = 16 ") != std::string::npos);
      CHECK(toml.find("context = 12 ") != std::string::npos);
      CHECK(toml.find("padded_vocab_size = 288 ") != std::string::npos);
      output({"train", "--resume", run, "--steps=6"});
      output({"sample", run, "--prompt", "mira ", "--tokens=5"});
      output({"export", run, "--to", "hf", f / "hf"});
      const Json config = read_json(f / "hf/config.json");
      CHECK(config.at("max_position_embeddings") == Json(16));
      if (from == forms().hf) CHECK(config.at("a_key_of_theirs") == Json(7));
      output({"verify", run, f / "hf"});
      // Six small steps from a trained model stay near it.
      output({"verify", run, from, "--tolerance=0.2"});
      output({"verify", run, from, "--tolerance=1e-6"}, 1);
    }
  }

  TEST_CASE("a model whose last special tokens have no row is used like any other") {
    const TempFolder f;
    const std::string hf = copy_of(f, forms().hf, "hf");
    Json tokenizer = read_json(hf + "/tokenizer.json");
    for (int64_t id = 280; id < 290; ++id) {  // of 288 rows
      Json token = tokenizer.at("added_tokens").at(size_t(0));
      token["id"] = id;
      token["content"] = "<more" + std::to_string(id) + ">";
      tokenizer["added_tokens"].push_back(token);
    }
    write_file(hf + "/tokenizer.json", tokenizer.dump());
    CHECK(output({"inspect", hf}).find("<more289>") != std::string::npos);
    output({"export", hf, "--to", "gguf", f / "model.gguf"});
    output({"verify", hf, f / "model.gguf", "--data", forms().data});
    output({"eval", hf, "--data", forms().data});
    output({"train", "--init-from", hf, "--data", forms().data, "--out", f / "run", "--steps=2",
            "--batch-size=4", "--eval-every=0", "--sample-every=0"});
    output({"sample", f / "run", "--prompt", "mira ", "--tokens=5"});
    output({"export", f / "run", "--to", "hf", f / "again"});
    CHECK(read_json(f / "again/tokenizer.json") == tokenizer);
  }

  TEST_CASE("an imported run is a beginning by its run.toml, too") {
    const TempFolder f;
    output({"import", forms().gguf, "--out", f / "run"});
    output({"train", "--config", f / "run/run.toml", "--data", forms().data, "--out", f / "next",
            "--steps=2", "--batch-size=4", "--eval-every=0", "--sample-every=0"});
    output({"verify", f / "next", forms().gguf, "--tolerance=0.5"});
    output({"train", "--init-from", f / "run", "--data", forms().data, "--out", f / "other",
            "--steps=2", "--batch-size=4", "--eval-every=0", "--sample-every=0"});
    CHECK(read_file(f / "next/model.safetensors") == read_file(f / "other/model.safetensors"));
  }

  TEST_CASE("flags that contradict the model are refused") {
    const TempFolder f;
    const auto refuse = [&](const Args& more, const std::vector<std::string>& parts) {
      Args args{"train", "--data", forms().data, "--init-from", forms().hf, "--out", f / "run"};
      args.insert(args.end(), more.begin(), more.end());
      check_refused(args, parts);
      CHECK_FALSE(fs::exists(f / "run"));
    };
    refuse({"--model.num_layers=2"}, {"model.num_layers", "1", "2"});
    refuse({"--model.family=gpt2"},
           {"--init-from: model.family is llama in ", " and cannot become gpt2"});
    refuse({"--context=32"}, {"model.max_seq_len", "16", "32"});
    refuse({"--model.rope_theta=7.0"}, {"model.rope_theta"});
    refuse({"--tokenizer=byte"}, {"data.tokenizer", "byte"});
  }

  TEST_CASE("what vendors say of sampling holds under flags") {
    const TempFolder f;
    const std::string hf = copy_of(f, forms().hf, "hf");
    write_file(hf + "/generation_config.json", R"({"do_sample": false, "eos_token_id": 256})");
    const auto drawn = [&](const Args& more) {
      Args args{"sample", hf, "--prompt", "mira ", "--tokens=20", "--seed=5"};
      args.insert(args.end(), more.begin(), more.end());
      return output(args);
    };
    const std::string likeliest = drawn({});
    CHECK(likeliest == drawn({"--temperature=0"}));
    CHECK(likeliest != drawn({"--temperature=3"}));
    write_file(hf + "/generation_config.json", R"({"do_sample": true, "top_k": 1})");
    CHECK(likeliest == drawn({}));
    // A text ends at each of the vendor's stop ids.
    const std::string ids = output({"tokenizer", "encode", hf, "--text", likeliest});
    const Json made = Json::parse(drawn({"--logprobs"}));
    const int64_t third = made.at("tokens").items()[2].at("id").as_int();
    write_file(hf + "/generation_config.json",
               R"({"do_sample": false, "eos_token_id": [256, )" + std::to_string(third) + "]}");
    CHECK(Json::parse(drawn({"--logprobs"})).at("tokens").items().size() <= 2);
  }

  TEST_CASE("special tokens in a prompt are text unless asked for") {
    const Args args{"tokenizer", "encode", forms().hf, "--text", "a<|endoftext|>"};
    CHECK(output(args).find("256") == std::string::npos);
    Args asked = args;
    asked.push_back("--special-tokens");
    CHECK(output(asked).find("256") != std::string::npos);
  }

  TEST_CASE("a stop id that the model has not is no id of a GGUF file") {
    const TempFolder f;
    const std::string hf = copy_of(f, forms().hf, "hf");
    write_file(hf + "/generation_config.json", R"({"eos_token_id": [256, 5000]})");
    output({"export", hf, "--to", "gguf", f / "a.gguf"});
    output({"verify", hf, f / "a.gguf"});
  }
}
