// olm inspect --model: what a model is and takes, on meta, where nothing is allocated.
#include <fmt/format.h>

#include <algorithm>

#include <olm/nn/cost.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>

#include "tools/olm/chart.h"
#include "tools/olm/commands.h"
#include "tools/olm/machine.h"
#include "tools/olm/presets.h"

namespace olm::tools {

namespace {

nn::Ref<nn::Module> model_of(const ModelSection& section, int64_t vocab_size) {
  if (section.is_described())
    return nn::load_architecture(section.description, {.vocab_size = vocab_size});
  return section.config.make();
}

std::string indented(const nn::TracedLayer& row) {
  const auto depth = std::count(row.path.begin(), row.path.end(), '.');
  return std::string(size_t(depth), ' ') + (row.path.empty() ? "model" : row.path);
}

/// Layers that look like those of an equal layer before them are one row with it.
bool repeats(const std::string& path) {
  for (size_t at = path.find("stack."); at != std::string::npos; at = path.find("stack.", at + 6))
    if (path.compare(at + 6, 2, "0.") != 0 && path.substr(at + 6) != "0") return true;
  return false;
}

void print_shapes(const std::vector<nn::TracedLayer>& rows) {
  size_t width = 0, type = 0;
  for (const nn::TracedLayer& row : rows) {
    if (repeats(row.path)) continue;
    width = std::max(width, indented(row).size());
    type = std::max(type, row.type.size());
  }
  fmt::print("\nshapes, of equal layers those of the first:\n");
  for (const nn::TracedLayer& row : rows)
    if (!repeats(row.path))
      fmt::print("  {:<{}}  {:<{}}  {} -> {}\n", indented(row), width, row.type, type,
                 detail::concat(row.in), detail::concat(row.out));
}

Json json_of(const nn::Cost& cost, const InspectArgs& args, int64_t context,
             const std::vector<nn::TracedLayer>& rows, nn::Module& model) {
  Json json;
  json["parameters"] = cost.parameters;
  json["trained_parameters"] = cost.trained;
  json["batch"] = args.batch;
  json["context"] = context;
  json["dtype"] = args.dtype;
  json["forward_flops_per_token"] = cost.forward_flops_per_token;
  json["training_flops_per_token"] = cost.training_flops_per_token;
  Json& bytes = json["bytes"];
  bytes["weights"] = cost.weights;
  bytes["gradients"] = cost.gradients;
  bytes["moments"] = cost.moments;
  bytes["activations"] = cost.activations;
  bytes["kv_cache"] = cost.kv_cache;
  bytes["training"] = cost.training_bytes();
  bytes["generating"] = cost.generating_bytes();
  Json layers = Json::array();
  for (const nn::TracedLayer& row : rows) {
    Json layer;
    layer["path"] = nn::json_path(row.path);
    layer["type"] = row.type;
    layer["in"] = detail::concat(row.in);
    layer["out"] = detail::concat(row.out);
    layer["parameters"] = model.get(row.path)->num_parameters();
    layers.push_back(layer);
  }
  json["layers"] = layers;
  json["model"] = nn::shortened(nn::describe(model));
  return json;
}

void print_cost(const nn::Cost& c, const InspectArgs& args, int64_t context) {
  fmt::print("\n{} sequences of {} tokens in {}\n", args.batch, context, args.dtype);
  const Facts facts = {{"parameters", grouped(c.parameters)},
                       {"FLOPs per token", fmt::format("{} forward, {} in training",
                                                       short_number(c.forward_flops_per_token),
                                                       short_number(c.training_flops_per_token))},
                       {"weights", bytes_text(c.weights)},
                       {"gradients", bytes_text(c.gradients)},
                       {"moments (AdamW)", bytes_text(c.moments)},
                       {"activations", bytes_text(c.activations)},
                       {"training in all", bytes_text(c.training_bytes())},
                       {"KV cache", bytes_text(c.kv_cache)},
                       {"generating in all", bytes_text(c.generating_bytes())}};
  for (const auto& [name, value] : facts) fmt::print("  {:<18} {}\n", name, value);
}

}  // namespace

int inspect_model(const InspectArgs& args) {
  const DType dtype = activation_dtype(args.dtype);
  require(args.batch >= 1 && args.context >= 0 && args.vocab_size >= 1,
          "--batch, --context, --vocab-size: positive numbers were wanted");
  const nn::Ref<nn::Module> model = model_of(find_model(args.model), args.vocab_size);
  const int64_t most = nn::context_of(*model);
  const int64_t context = args.context > 0 ? args.context : most > 0 ? most : 1024;
  const std::vector<nn::TracedLayer> rows = nn::trace(*model, args.batch, context);
  const nn::Cost cost =
      nn::cost_of(*model, {.batch = args.batch, .context = context, .dtype = dtype});
  if (args.json) {
    fmt::print("{}\n", json_of(cost, args, context, rows, *model).dump(2));
    return 0;
  }
  fmt::print("{}", nn::summary(*model));
  print_shapes(rows);
  print_cost(cost, args, context);
  return 0;
}

}  // namespace olm::tools
