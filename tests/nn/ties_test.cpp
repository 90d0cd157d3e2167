// Weights that are tied in the file, in the model, in both or in neither.
#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/linear.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <olm/nn/optim.h>
#include <tests/support/checks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

const std::string kTable = "blocks.0.embedding.weight", kHead = "blocks.2.blocks.1.weight";

Ref<BlockModule> model_with(bool tied, uint64_t seed) {
  const auto model = LM({.vocab_size = 7,
                         .embed_dim = 4,
                         .num_heads = 2,
                         .num_layers = 1,
                         .max_seq_len = 4,
                         .tie_embeddings = tied});
  init(*model, {.seed = seed});
  return model;
}

std::string weights_of(const TempFolder& folder, bool tied) {
  const std::string path = folder / (tied ? "tied" : "untied");
  save_weights(*model_with(tied, 1), path);
  return path;
}

std::vector<float> values(Module& model, const std::string& key) {
  return to_host<float>(model.parameter(key).tensor());
}

bool is_tied(Module& model) { return model.parameter(kTable).is_tied_to(model.parameter(kHead)); }

}  // namespace

TEST_SUITE("nn/ties") {
  TEST_CASE("loading leaves the ties of the model as they are") {
    const TempFolder folder;
    const auto source = model_with(true, 1);
    for (const bool tied : {true, false}) {
      const char* how = tied ? "tied" : "untied";
      INFO(how);
      const auto model = model_with(tied, 2);
      const size_t parameters = model->parameters().size();
      AdamW optimizer(model->parameters());
      load_weights(*model, weights_of(folder, true));
      CHECK(is_tied(*model) == tied);
      CHECK(model->parameters().size() == parameters);
      CHECK(values(*model, kTable) == values(*source, kTable));
      CHECK(values(*model, kHead) == values(*source, kTable));
      // The optimizer has what the model computes with: one step moves both.
      Context ctx;
      const Tensor ids = from_host<int64_t>({1, 2, 3}, {1, 3});
      backward(model->loss(ids, ids, ctx));
      optimizer.step();
      CHECK(values(*model, kTable) != values(*source, kTable));
      CHECK(values(*model, kHead) != values(*source, kTable));
      CHECK((values(*model, kTable) == values(*model, kHead)) == tied);
    }
  }

  TEST_CASE("two matrices do not become one in silence") {
    const TempFolder folder;
    const std::string untied = weights_of(folder, false);
    const auto model = model_with(true, 2);
    const std::vector<float> before = values(*model, kTable);
    check_error([&] { load_weights(*model, untied); },
                {untied, kTable, kHead, "one tensor", "untie"});
    check_error([&] { load_weights(*model, untied, {.strict = false}); }, {kTable, kHead});
    CHECK(values(*model, kTable) == before);
    const auto apart = model_with(false, 2);
    load_weights(*apart, untied);
    CHECK(values(*apart, kTable) != values(*apart, kHead));
    // A copy that was never trained is the same matrix twice.
    load_weights(*apart, weights_of(folder, true));
    save_weights(*apart, untied);
    load_weights(*model, untied);
    CHECK(values(*model, kTable) == values(*apart, kTable));
  }

  TEST_CASE("a part of a model takes what it has a place for") {
    const TempFolder folder;
    const auto source = model_with(true, 1);
    const std::string path = weights_of(folder, true);
    const auto body =
        Block({model_with(true, 2)->get("blocks.0"), model_with(true, 2)->get("blocks.1")});
    check_error([&] { load_weights(*body, path); }, {path, "blocks.2", "no parameter"});
    load_weights(*body, path, {.strict = false});
    CHECK(values(*body, kTable) == values(*source, kTable));
    const auto head = Block({Block({}), Block({}), model_with(false, 2)->get("blocks.2")});
    load_weights(*head, path, {.strict = false});
    CHECK(values(*head, kHead) == values(*source, kTable));
  }

  TEST_CASE("a file without the tied tensor lacks all of its keys, among what else does not fit") {
    const TempFolder folder;
    const auto model = model_with(true, 1);
    std::vector<NamedTensor> rest;
    for (const auto& [key, tensor] : model->state_dict())
      if (key != kTable && key != kHead) rest.emplace_back(key, tensor);
    rest.emplace_back("other", ones({1}));
    Json tied = Json::object();
    tied[kHead] = kTable;
    write_safetensors(folder / "weights", rest, {{"tied", tied.dump()}});
    check_error([&] { load_weights(*model, folder / "weights"); },
                {kTable + " is missing", kHead + " is missing", "other belongs to no parameter"});
  }

  TEST_CASE("a state dict may name a tied weight once or with one value") {
    const auto model = model_with(true, 1), source = model_with(true, 2);
    for (const std::string& left_out : {kTable, kHead}) {
      init(*model, {.seed = 1});
      std::map<std::string, Tensor> state;
      for (const auto& [key, tensor] : source->state_dict())
        if (key != left_out) state[key] = tensor;
      model->load_state_dict(state);
      CHECK(values(*model, kTable) == values(*source, kTable));
    }
    const auto unfilled =
        LM({.vocab_size = 7, .embed_dim = 4, .num_heads = 2, .num_layers = 1, .max_seq_len = 4});
    unfilled->load_state_dict(source->named_parameters());
    CHECK(values(*unfilled, kHead) == values(*source, kTable));
    auto state = model->state_dict();
    for (auto& [key, tensor] : state)
      if (key == kHead) tensor = raw::clone(tensor);
    model->load_state_dict(state);
    for (auto& [key, tensor] : state)
      if (key == kHead) raw::add_(tensor, ones(tensor.shape()));
    const std::vector<float> before = values(*model, kTable);
    for (const bool strict : {true, false})
      check_error([&] { model->load_state_dict(state, {.strict = strict}); },
                  {kTable, kHead, "differ"});
    CHECK(values(*model, kTable) == before);
    // What counts is the dtype that the values come to.
    for (auto& [key, tensor] : state)
      if (key == kHead) tensor = raw::cast(source->parameter(kTable), bf16);
    check_error([&] { model->load_state_dict(state); }, {kTable, kHead, "differ"});
    model->to(bf16);
    model->load_state_dict(state);
    CHECK(model->parameter(kTable).tensor().dtype() == bf16);
  }

  TEST_CASE("a model may be loaded from its own tensors") {
    const auto model = Block({Linear(3, 3, {.bias = false}), Linear(3, 3, {.bias = false})});
    init(model, {.seed = 3});
    const auto first = to_host<float>(model->parameter("blocks.0.weight").tensor());
    const auto second = to_host<float>(model->parameter("blocks.1.weight").tensor());
    std::vector<NamedTensor> swapped = model->state_dict();
    std::swap(swapped[0].second, swapped[1].second);
    model->load_state_dict(swapped);
    CHECK(to_host<float>(model->parameter("blocks.0.weight").tensor()) == second);
    CHECK(to_host<float>(model->parameter("blocks.1.weight").tensor()) == first);
  }

  TEST_CASE("a folder brings its ties with it, from either of its files") {
    const TempFolder folder;
    const auto model = model_with(true, 1);
    save(model, folder / "run");
    CHECK(is_tied(*load(folder / "run")));
    Json json = read_json(folder / "run/model.json");
    Json without = Json::object();
    for (const auto& [key, value] : json.members())
      if (key != "tied") without[key] = value;
    write_json(folder / "run/model.json", without);
    const Ref<Module> again = load(folder / "run");
    CHECK(is_tied(*again));
    CHECK(values(*again, kHead) == values(*model, kHead));
  }
}
