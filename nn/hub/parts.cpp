#include <algorithm>
#include <functional>
#include <set>
#include <sstream>

#include <olm/nn/hub/parts_internal.h>

namespace olm::nn::hub {

namespace {

using PartShapes = std::map<Part, Shape>;

std::string replaced(std::string text, const std::string& what, int64_t by) {
  const size_t at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), std::to_string(by));
}

bool mentions(const ModuleName& module, const char* what) {
  return module.name.find(what) != std::string::npos;
}

/// The weight or the bias of a module in one layer, for one expert or, stacked, for all.
PartTensor tensor_of(const ModuleName& module, int64_t layer, int64_t expert, int64_t experts,
                     bool bias) {
  const std::string name = replaced(replaced(module.name, "{l}", layer), "{e}", expert);
  PartTensor tensor{.name = name + (bias ? module.bias : module.weight), .layout = module.layout};
  const bool stacked = module.layout == Layout::stacked;
  if (bias && !stacked) tensor.layout = Layout::rows;
  for (int64_t e = stacked ? 0 : expert; e < (stacked ? experts : expert + 1); ++e)
    for (const std::string& part : words(module.parts))
      tensor.parts.push_back({.name = part, .layer = layer, .expert = e, .bias = bias});
  return tensor;
}

/// All tensors that a form may have, in the order of its files.
void each_tensor(const Names& names, const DecoderConfig& config,
                 const std::function<void(const ModuleName&, PartTensor)>& visit) {
  const int64_t experts = config.num_experts.value_or(0);
  const auto visit_both = [&](const ModuleName& module, int64_t layer, int64_t expert) {
    for (const bool bias : {false, true})
      visit(module, tensor_of(module, layer, expert, experts, bias));
  };
  const auto visit_layer = [&](const ModuleName& module, int64_t layer) {
    if (!mentions(module, "{e}")) return visit_both(module, layer, -1);
    for (int64_t e = 0; e < experts; ++e) visit_both(module, layer, e);
  };
  const auto is_first = [](const ModuleName& m) {
    return m.parts == "embed" || m.parts == "positions";
  };
  for (const ModuleName& module : names.modules)
    if (is_first(module)) visit_both(module, -1, -1);
  for (int64_t l = 0; l < config.num_layers; ++l)
    for (const ModuleName& module : names.modules)
      if (mentions(module, "{l}")) visit_layer(module, l);
  for (const ModuleName& module : names.modules)
    if (!mentions(module, "{l}") && !is_first(module)) visit_both(module, -1, -1);
}

/// The shape of a tensor whose parts are all there.
Shape shape_of(const PartTensor& tensor, const PartShapes& parts) {
  int64_t rows = 0, stack = 1;
  for (const Part& part : tensor.parts) rows += parts.at(part)[0];
  if (tensor.layout == Layout::stacked) stack = tensor.parts.back().expert + 1;
  const Shape& first = parts.at(tensor.parts.front());
  std::vector<int64_t> shape{rows / stack};
  if (first.rank() == 2) shape.push_back(first[1]);
  if (tensor.layout == Layout::transposed) std::reverse(shape.begin(), shape.end());
  if (tensor.layout == Layout::stacked) shape.insert(shape.begin(), stack);
  return Shape(shape);
}

/// The tensor with its shape, for parts that the model has; or no name.
PartTensor found(const ModuleName& module, const Names& names, PartTensor tensor,
                 const PartShapes& parts) {
  const auto has = [&](const Part& part) { return parts.count(part) != 0; };
  const auto& wanted = tensor.parts;
  if (wanted.empty()) return {};
  const auto some = std::find_if(wanted.begin(), wanted.end(), has);
  if (some == wanted.end()) {
    Part weight = wanted.front();
    weight.bias = false;
    const bool in_all = mentions(module, "{l}") || module.parts == "final_norm";
    if (!names.zero_biases || !wanted.front().bias || !in_all || !has(weight)) return {};
    tensor.zeros = true;
    int64_t rows = 0;
    for (Part part : wanted) {
      part.bias = false;
      rows += parts.at(part)[0];
    }
    tensor.shape = {rows};
    return tensor;
  }
  const auto none = std::find_if_not(wanted.begin(), wanted.end(), has);
  require(none == wanted.end(), tensor.name, " would hold the ", some->describe(), " and the ",
          none == wanted.end() ? "" : none->describe(), ", but the model lacks the latter");
  tensor.shape = shape_of(tensor, parts);
  return tensor;
}

}  // namespace

int64_t head_dim_of(const DecoderConfig& config) {
  return config.head_dim.value_or(config.embed_dim / config.num_heads);
}

int64_t rotated_dims_of(const DecoderConfig& config) {
  const int64_t head = head_dim_of(config);
  return int64_t(double(head) * config.partial_rotary_factor.value_or(1)) / 2 * 2;
}

std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> result;
  for (std::string word; in >> word;) result.push_back(word);
  return result;
}

bool ends_with_any(const std::string& name, const std::vector<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](const std::string& end) { return name.ends_with(end); });
}

std::string Part::describe() const {
  std::string text = (bias ? "bias of " : "") + name;
  if (layer >= 0) text += " of layer " + std::to_string(layer);
  if (expert >= 0) text += ", expert " + std::to_string(expert);
  return text;
}

PartShapes parts_of(const DecoderConfig& config) {
  const Ref<BlockModule> model = DecoderModel(config);
  std::map<std::string, Shape> shapes;
  std::set<const TensorImpl*> seen;
  model->for_each_parameter([&](const std::string& key, Parameter& p) {
    if (seen.insert(&p.handle().impl()).second) shapes.emplace(key, p.shape());
  });
  PartShapes parts;
  each_tensor(names_here(config), config, [&](const ModuleName&, const PartTensor& tensor) {
    const auto own = shapes.find(tensor.name);
    if (own == shapes.end()) return;
    std::vector<int64_t> shape(own->second.begin(), own->second.end());
    shape[0] /= int64_t(tensor.parts.size());  // value and gate are of one size
    for (const Part& part : tensor.parts) parts.emplace(part, Shape(shape));
    shapes.erase(own);
  });
  require(shapes.empty(), "a ", config.family, " model has ",
          shapes.empty() ? "" : shapes.begin()->first, ", which no other program's models have");
  return parts;
}

std::vector<PartTensor> tensors_of(const Names& names, const DecoderConfig& config,
                                   const PartShapes& parts) {
  std::vector<PartTensor> result;
  each_tensor(names, config, [&](const ModuleName& module, PartTensor tensor) {
    PartTensor one = found(module, names, std::move(tensor), parts);
    if (!one.name.empty()) result.push_back(std::move(one));
  });
  return result;
}

}  // namespace olm::nn::hub
