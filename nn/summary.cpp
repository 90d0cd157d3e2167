#include <algorithm>
#include <map>
#include <sstream>

#include <olm/nn/module.h>

namespace olm::nn {
namespace {

std::string with_commas(int64_t n) {
  std::string digits = std::to_string(n);
  for (int64_t at = int64_t(digits.size()) - 3; at > 0; at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

/// Columns that a text of UTF-8 takes.
size_t width_of(const std::string& text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

/// "(embed_dim=768, causal=true)": what differs from the defaults; "" where nothing does.
std::string options_text(Module& module) {
  const Json options = module.options_json(), defaults = module.default_options_json();
  std::string text;
  for (const auto& [key, value] : options.members()) {
    const Json* usual = defaults.find(key);
    if (usual && *usual == value) continue;
    text += (text.empty() ? "" : ", ") + key + "=" + value.dump();
  }
  return text.empty() ? "" : "(" + text + ")";
}

/// A module in the diagram; equal neighbours of a list are one.
struct Node {
  std::string name = {}, last_name = {};  // in its owner; of the last of several
  std::string type = {}, parameters = {};
  int64_t count = 0;  // numbers in it and below, each tensor once
  int64_t times = 1;
  std::vector<Node> children = {};

  bool looks_like(const Node& other) const {
    return type == other.type && parameters == other.parameters && count == other.count &&
           times == other.times &&
           std::equal(children.begin(), children.end(), other.children.begin(),
                      other.children.end(), [](const Node& a, const Node& b) {
                        return a.name == b.name && a.last_name == b.last_name && a.looks_like(b);
                      });
  }
};

class Reader {
 public:
  /// `follows`: the owner's options say all of this module's.
  Node read(Module& module, const std::string& path, const std::string& name, bool follows) {
    Node node{.name = name, .last_name = name, .type = module.type_name()};
    if (!follows) node.type += options_text(module);
    module.for_each_own_parameter([&](Parameter& p) {
      node.parameters += (node.parameters.empty() ? "" : ", ") + parameter(p, path, node.count);
    });
    for (const auto& [child, slot] : module.children()) {
      const bool given = module.describes_children() || slot->replaced();
      add(node, read(*slot->module(), path.empty() ? child : path + "." + child, child, !given));
    }
    return node;
  }

 private:
  std::string parameter(Parameter& p, const std::string& path, int64_t& count) {
    const std::string key = path.empty() ? p.name() : path + "." + p.name();
    const auto [first, fresh] = first_key_.emplace(&p.handle().impl(), key);
    if (fresh) count += p.shape().numel();
    return detail::concat(p.name(), " ", p.shape(), fresh ? "" : " tied to " + first->second,
                          p.trainable() ? "" : " (frozen)",
                          p.is_elsewhere() ? " (on another rank)" : "");
  }

  /// Children of one list that look alike become one node.
  static void add(Node& owner, Node child) {
    owner.count += child.count;
    const auto list_of = [](const std::string& name) { return name.substr(0, name.rfind('.')); };
    if (!owner.children.empty()) {
      Node& before = owner.children.back();
      const bool same_list =
          child.name.find('.') != std::string::npos && list_of(child.name) == list_of(before.name);
      child.times = before.times;
      if (same_list && before.looks_like(child)) {
        ++before.times;
        before.last_name = child.name;
        return;
      }
      child.times = 1;
    }
    owner.children.push_back(std::move(child));
  }

  std::map<const TensorImpl*, std::string> first_key_;
};

struct Line {
  std::string text, count;
};

void draw(const Node& node, const std::string& lead, const std::string& below,
          std::vector<Line>& lines) {
  std::string name = node.name;
  if (node.times > 1) name += ".." + node.last_name.substr(node.last_name.rfind('.') + 1);
  std::string count = with_commas(node.count);
  if (node.times > 1) count = std::to_string(node.times) + " × " + count;
  if (node.times > 1) name += " × " + std::to_string(node.times);
  std::string text = lead + name + (name.empty() ? "" : ": ") + node.type;
  if (!node.parameters.empty()) text += "  " + node.parameters;
  lines.push_back({std::move(text), node.count > 0 ? count : ""});
  for (size_t i = 0; i < node.children.size(); ++i) {
    const bool last = i + 1 == node.children.size();
    draw(node.children[i], below + (last ? "└─ " : "├─ "), below + (last ? "   " : "│  "), lines);
  }
}

}  // namespace

std::string summary(Module& model) {
  std::vector<Line> lines;
  draw(Reader().read(model, "", "", false), "", "", lines);
  size_t text = 0, count = 0;
  for (const Line& line : lines) {
    if (!line.count.empty()) text = std::max(text, width_of(line.text));
    count = std::max(count, width_of(line.count));
  }
  std::ostringstream out;
  for (const Line& line : lines) {
    out << line.text;
    if (!line.count.empty())
      out << std::string(text - width_of(line.text) + 2 + count - width_of(line.count), ' ')
          << line.count;
    out << '\n';
  }
  out << "total " << with_commas(model.num_parameters()) << " parameters, "
      << with_commas(model.num_parameters(true)) << " trained";
  if (const int64_t active = active_parameters(model); active != model.num_parameters())
    out << ", " << with_commas(active) << " active for a token";
  out << '\n';
  return out.str();
}

}  // namespace olm::nn
