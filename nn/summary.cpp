#include <algorithm>
#include <sstream>

#include <olm/nn/module.h>

namespace olm::nn {
namespace {

std::string with_commas(int64_t n) {
  std::string digits = std::to_string(n);
  for (int64_t at = int64_t(digits.size()) - 3; at > 0; at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

struct Row {
  std::string path, shape, count;
};

}  // namespace

std::string summary(Module& model) {
  std::vector<Row> rows;
  std::vector<std::pair<const TensorImpl*, std::string>> first_key;
  model.for_each_module([&](const std::string& path, Module& module) {
    const size_t depth = path.empty() ? 0 : size_t(std::count(path.begin(), path.end(), '.')) + 1;
    const std::string indent(2 * depth, ' ');
    const Json options = module.options_json();
    const std::string text = options.size() ? " " + options.dump() : "";
    rows.push_back(
        {indent + (path.empty() ? "" : path + ": ") + module.type_name() + text, "", ""});
    module.for_each_own_parameter([&](Parameter& p) {
      const std::string key = path.empty() ? p.name() : path + "." + p.name();
      const TensorImpl* impl = &p.handle().impl();
      const auto seen = std::find_if(first_key.begin(), first_key.end(),
                                     [&](const auto& entry) { return entry.first == impl; });
      std::string count = with_commas(p.shape().numel());
      if (seen != first_key.end())
        count = "tied to " + seen->second;
      else
        first_key.emplace_back(impl, key);
      if (!p.trainable()) count += " (frozen)";
      rows.push_back({indent + "  " + p.name(), detail::concat(p.shape()), count});
    });
  });
  size_t width = 0, shape_width = 0;
  for (const Row& row : rows) {
    if (row.shape.empty()) continue;
    width = std::max(width, row.path.size());
    shape_width = std::max(shape_width, row.shape.size());
  }
  std::ostringstream out;
  for (const Row& row : rows) {
    out << row.path;
    if (!row.shape.empty())
      out << std::string(width - row.path.size() + 2, ' ') << row.shape
          << std::string(shape_width - row.shape.size() + 2, ' ') << row.count;
    out << '\n';
  }
  out << "total " << with_commas(model.num_parameters()) << " parameters, "
      << with_commas(model.num_parameters(true)) << " trained\n";
  return out.str();
}

}  // namespace olm::nn
