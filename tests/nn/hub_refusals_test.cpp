// Folders of transformers that are refused, each with one sentence.
#include <doctest/doctest.h>

#include <filesystem>
#include <functional>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub.h>
#include <tests/support/parity.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
namespace fs = std::filesystem;

namespace {

std::string vendor_case(const std::string& name) { return fixture("hub/" + name); }

/// A copy of a vendor's folder to be damaged.
std::string copied(const TempFolder& folder, const std::string& name) {
  const std::string to = folder / name;
  fs::copy(vendor_case(name), to);
  return to;
}

std::string load_refusal(const std::string& path) {
  const std::string message = message_of<FileError>([&] { load_pretrained(path); });
  CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
  return message;
}

/// A folder of shards with an index that `change` has changed.
std::string sharded(const TempFolder& folder, const std::function<void(Json&)>& change) {
  const std::string to = folder / "sharded";
  remove_all(to);
  convert_to_hugging_face(vendor_case("llama"), to, {.shard_bytes = 20000});
  const std::string path = to + "/model.safetensors.index.json";
  Json index = read_json(path);
  change(index);
  write_json(path, index);
  return to;
}

}  // namespace

TEST_SUITE("nn/hub/refusals") {
  TEST_CASE("names of shards that lead elsewhere are refused") {
    const TempFolder folder;
    for (const char* shard : {"../llama.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..",
                              "", ".hidden.safetensors", "model.bin"}) {
      const std::string to =
          sharded(folder, [&](Json& index) { index["weight_map"]["lm_head.weight"] = shard; });
      const std::string message = load_refusal(to);
      CHECK_MESSAGE(contains(message, "as the shard of lm_head.weight: the name of a .safetensors"),
                    message);
    }
  }

  TEST_CASE("index and shards agree, and every shard is whole") {
    const TempFolder folder;
    const auto map = [](Json& index) -> Json& { return index["weight_map"]; };
    CHECK(contains(
        load_refusal(sharded(
            folder, [&](Json& index) { map(index)["lm_head.weight"] = "model-9.safetensors"; })),
        "model-9.safetensors: cannot be opened"));
    CHECK(contains(load_refusal(sharded(folder,
                                        [&](Json& index) {
                                          map(index)["more"] =
                                              "model-00001-of-"
                                              "00005.safetensors";
                                        })),
                   "does not hold what the index says; missing are more"));
    CHECK(contains(load_refusal(sharded(folder,
                                        [&](Json& index) {
                                          Json fewer = Json::object();
                                          for (const auto& [name, shard] : map(index).members())
                                            if (name != "model.norm.weight")
                                              fewer.append(name, shard);
                                          index["weight_map"] = fewer;
                                        })),
                   "surplus are model.norm.weight"));
    const std::string cut = sharded(folder, [](Json&) {});
    for (const std::string& path : list_files(cut))
      if (path.ends_with("-00002-of-00005.safetensors"))
        fs::resize_file(path, fs::file_size(path) - 1);
    CHECK(contains(load_refusal(cut), "00002-of-00005.safetensors: truncated"));
  }

  TEST_CASE("weights that are no weights here are refused, naming them") {
    const TempFolder folder;
    const std::string to = copied(folder, "llama");
    remove_all(to + "/model.safetensors");
    CHECK(contains(load_refusal(to), "holds neither model.safetensors nor"));
    write_file(to + "/pytorch_model.bin", "x");
    CHECK(contains(load_refusal(to), "pytorch_model.bin: pickled weights are not read"));
    const uint8_t bytes[] = {1, 2};
    write_safetensors(to + "/model.safetensors",
                      {{"model.norm.weight", "F8_E4M3", {2}, std::as_bytes(std::span(bytes))},
                       {"packed", "U8", {2}, std::as_bytes(std::span(bytes))}});
    CHECK(contains(load_refusal(to),
                   "types that are no weights here: model.norm.weight (F8_E4M3 "
                   "[2]), packed (U8 [2])"));
  }

  TEST_CASE("a tokenizer with more ids than the embedding has rows is refused") {
    const TempFolder folder;
    const std::string to = copied(folder, "llama");
    ByteTokenizer().save(to + "/tokenizer.json");
    CHECK(contains(load_refusal(to), "the tokenizer has 257 ids, but the embedding has 96 rows"));
  }

  TEST_CASE("what is no model is refused saying what was wanted") {
    const TempFolder folder;
    CHECK(contains(load_refusal(folder / "none"), "is no file and no folder; a run"));
    CHECK(contains(load_refusal(folder.path()), "holds no model.json and no config.json; a run"));
    CHECK(contains(load_refusal(folder.file("x", "hello")), "does not begin as a GGUF file"));
    const std::string to = copied(folder, "llama");
    write_file(to + "/config.json", "{");
    CHECK(contains(load_refusal(to), "/config.json: not valid JSON at line 1"));
  }
}
