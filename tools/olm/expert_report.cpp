#include "tools/olm/expert_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tools/olm/page.h"

namespace olm::tools {

namespace {

constexpr const char* kColors[] = {"#2563eb", "#e0660a", "#0f8a6d", "#7c3aed", "#475569"};

/// What lines say of experts, by router and name, over steps.
struct History {
  std::map<std::string, std::vector<Point>> entropy, losses;  // of the routers, by aux loss
  const Json* last = nullptr;                                 // the "experts" of the last line
};

double number(const Json& entry, const char* name) {
  const Json* value = entry.find(name);
  return value && value->is_number() ? value->as_double() : std::nan("");
}

bool is_loss(const std::string& name) {
  static const std::set<std::string> others = {"tokens", "entropy", "imbalance", "idle"};
  return others.count(name) == 0;
}

History history_of(const std::vector<Json>& metrics) {
  History history;
  std::set<std::string> names;
  for (const Json& line : metrics) {
    const Json* experts = line.find("experts");
    if (!experts || !experts->is_object()) continue;
    history.last = experts;
    const double step = line.at("step").as_double();
    for (const auto& [router, entry] : experts->members()) {
      history.entropy[router].push_back({step, number(entry, "entropy")});
      for (const auto& [name, value] : entry.members())
        if (is_loss(name)) names.insert(name);
    }
  }
  for (const std::string& name : names)
    for (const Json& line : metrics)
      if (const Json* value = line.find(name); value && value->is_number())
        history.losses[name].push_back({line.at("step").as_double(), value->as_double()});
  return history;
}

/// The mean over routers, and the least of them, at each step.
std::vector<Series> balance_series(const History& history) {
  Series mean{.name = "mean of layers", .color = kColors[0], .width = 2, .points = {}};
  Series least{.name = "least even layer", .color = kColors[1], .width = 1.4, .points = {}};
  std::map<double, std::vector<double>> by_step;
  for (const auto& [router, points] : history.entropy)
    for (const Point& p : points) by_step[p.x].push_back(p.y);
  for (const auto& [step, values] : by_step) {
    double sum = 0;
    for (const double v : values) sum += v;
    mean.points.push_back({step, sum / double(values.size())});
    least.points.push_back({step, *std::min_element(values.begin(), values.end())});
  }
  if (history.entropy.size() == 1) return {mean};
  return {mean, least};
}

/// A cell of the map: none in red, else the bluer the more than the even share it got.
std::string cell(double x, double y, double width, double height, double load, int64_t tokens) {
  const std::string fill = tokens == 0 ? "fill='#dc2626' fill-opacity='0.55'"
                                       : fmt::format("fill='#2563eb' fill-opacity='{:.3f}'",
                                                     std::min(1.0, 0.06 + 0.47 * load));
  return fmt::format(
      "<rect x='{:.1f}' y='{:.1f}' width='{:.1f}' height='{:.1f}' {}><title>{} choices, {:.2f} of "
      "the even share</title></rect>\n",
      x, y, width, height, fill, tokens, load);
}

/// Rows are routers, columns are experts.
std::string load_map(const Json& experts) {
  constexpr double kWidth = 1132, kLeft = 330, kTop = 40, kRow = 20;
  std::string cells;
  double y = kTop;
  for (const auto& [router, entry] : experts.members()) {
    const Json* tokens = entry.find("tokens");
    if (!tokens || !tokens->is_array() || tokens->size() == 0) continue;
    double total = 0;
    for (const Json& n : tokens->items()) total += n.as_double();
    const double width = (kWidth - kLeft - 18) / double(tokens->size());
    cells += fmt::format("<text class='tick' x='{:.1f}' y='{:.1f}' text-anchor='end'>{}</text>\n",
                         kLeft - 8, y + 14, escaped(router));
    for (size_t e = 0; e < tokens->size(); ++e) {
      const double n = tokens->at(e).as_double();
      const double load = total > 0 ? n * double(tokens->size()) / total : 0;
      cells += cell(kLeft + double(e) * width, y, width * 0.96, kRow - 2, load, int64_t(n));
    }
    y += kRow;
  }
  return fmt::format(
      "<svg viewBox='0 0 {:.0f} {:.0f}' role='img' aria-label='Load of experts'>\n"
      "<text class='title' x='16' y='23'>Load of each expert at the end, the bluer the more, red: "
      "none</text>\n{}"
      "</svg>\n",
      kWidth, y + 12, cells);
}

}  // namespace

std::string expert_section(const std::vector<Json>& metrics) {
  const History history = history_of(metrics);
  if (!history.last) return "";
  std::string out = "<h2>Experts</h2>\n<div class='card wide'>\n" + load_map(*history.last) +
                    "</div>\n<div class='charts'>\n" +
                    card({.title = "Expert balance",
                          .y_label = "entropy of the load, 1 is even",
                          .series = balance_series(history)});
  size_t color = 2;
  Chart losses{.title = "Auxiliary losses", .y_label = "sum over layers", .from_zero = true};
  for (const auto& [name, points] : history.losses)
    losses.series.push_back({.name = name,
                             .color = kColors[color++ % std::size(kColors)],
                             .width = 1.6,
                             .points = points});
  if (!losses.series.empty()) out += card(losses);
  return out + "</div>\n";
}

}  // namespace olm::tools
