#include "tools/olm/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/engine/json.h>

#include "tools/olm/expert_report.h"
#include "tools/olm/page.h"

namespace olm::tools {

namespace {

/// What `make` makes of the lines of a log, whose name its errors then begin with.
template <class Make>
auto made_of(const std::string& path, Make&& make) {
  const std::vector<Json> lines = read_lines(path);
  try {
    return make(lines);
  } catch (const Error& e) {
    throw FileError(path, ": ", e.what());
  }
}

/// What the run has come to.
struct Outcome {
  std::vector<Json> metrics;
  std::vector<Point> train, validation, rate, norm, speed;
  double seconds = 0, steps = 0;
};

Outcome outcome_of(const std::vector<Json>& metrics) {
  Outcome o;
  o.metrics = metrics;
  o.train = points(o.metrics, "loss");
  o.validation = points(o.metrics, "val_loss");
  o.rate = points(o.metrics, "lr");
  o.norm = points(o.metrics, "grad_norm");
  o.speed = points(o.metrics, "tokens_per_second");
  const std::vector<Point> seconds = points(o.metrics, "train_seconds");
  if (!seconds.empty()) o.seconds = seconds.back().y;
  if (!o.train.empty()) o.steps = o.train.back().x;
  return o;
}

std::string tile(const std::string& value, const std::string& name) {
  return fmt::format("<div class='tile'><b>{}</b><span>{}</span></div>\n", escaped(value),
                     escaped(name));
}

std::string tiles(const Outcome& o, const Facts& about) {
  std::string out = "<div class='tiles'>\n";
  for (const auto& [name, value] : about)
    if (name == "parameters") out += tile(value, "parameters");
  out += tile(grouped(int64_t(o.steps)), "steps");
  out += tile(duration_text(o.seconds), "training time");
  if (!o.train.empty()) {
    const double half_life = std::max(1.0, double(o.train.size()) / 40);
    const std::vector<Point> means = smoothed(o.train, half_life);
    if (!means.empty()) out += tile(fmt::format("{:.4f}", means.back().y), "training loss");
  }
  if (!o.validation.empty()) {
    const auto best = std::min_element(o.validation.begin(), o.validation.end(),
                                       [](const Point& a, const Point& b) { return a.y < b.y; });
    out += tile(fmt::format("{:.4f}", o.validation.back().y), "validation loss");
    if (best->x != o.validation.back().x)
      out += tile(fmt::format("{:.4f}", best->y),
                  fmt::format("least validation loss, step {:.0f}", best->x));
  }
  if (!o.speed.empty()) {
    std::vector<double> speeds;
    for (const Point& p : o.speed) speeds.push_back(p.y);
    std::nth_element(speeds.begin(), speeds.begin() + ptrdiff_t(speeds.size() / 2), speeds.end());
    out += tile(short_number(speeds[speeds.size() / 2]), "tokens per second");
  }
  return out + "</div>\n";
}

std::string charts(const Outcome& o) {
  const double half_life = std::max(1.0, double(o.train.size()) / 100);
  Chart loss{.title = "Loss", .y_label = "nats per token", .width = 1132, .height = 380};
  loss.series.push_back({"each step", "#2563eb", 1.0, 0.28, false, o.train});
  loss.series.push_back({"training", "#2563eb", 2.0, 1.0, false, smoothed(o.train, half_life)});
  if (!o.validation.empty())
    loss.series.push_back({"validation", "#e0660a", 2.2, 1.0, true, o.validation});
  std::string out = card(loss, "wide") + "<div class='charts'>\n";
  if (!o.validation.empty())
    out += card({.title = "Validation loss",
                 .y_label = "nats per token",
                 .series = {{"validation", "#e0660a", 2.0, 1.0, true, o.validation}}});
  out += card({.title = "Learning rate",
               .y_label = "learning rate",
               .from_zero = true,
               .series = {{"lr", "#0f8a6d", 2.0, 1.0, false, o.rate}}});
  out += card({.title = "Gradient norm",
               .y_label = "before clipping",
               .from_zero = true,
               .series = {{"each step", "#7c3aed", 1.0, 0.3, false, o.norm},
                          {"mean", "#7c3aed", 1.8, 1.0, false, smoothed(o.norm, half_life)}}});
  out += card({.title = "Throughput",
               .y_label = "tokens per second",
               .from_zero = true,
               .series = {{"each step", "#475569", 1.0, 0.3, false, o.speed},
                          {"mean", "#475569", 1.8, 1.0, false, smoothed(o.speed, half_life)}}});
  return out + "</div>\n";
}

std::string samples(const std::vector<Json>& lines) {
  if (lines.empty()) return "";
  std::string out = "<h2>Samples over time</h2>\n";
  constexpr size_t kMaxLines = 12;
  const size_t count = std::min(lines.size(), kMaxLines);
  for (size_t i = 0; i < count; ++i) {
    // The first, the last, and some between.
    const size_t at = count > 1 ? i * (lines.size() - 1) / (count - 1) : lines.size() - 1;
    const Json& line = lines[at];
    out += fmt::format(
        "<div class='card sample'><h3>step {}</h3><pre><span class='prompt'>{}</span>{}</pre>"
        "</div>\n",
        line.at("step").as_int(), escaped(line.at("prompt").as_string()),
        escaped(line.at("text").as_string()));
  }
  return out;
}

}  // namespace

void write_report(const std::string& folder, const Facts& about, const Facts& machine) {
  const Outcome o = made_of(folder + "/metrics.jsonl", outcome_of);
  std::string name = std::filesystem::path(folder).lexically_normal().filename().string();
  if (name.empty() || name == ".") name = std::filesystem::absolute(folder).filename().string();
  std::string page = tiles(o, about) + charts(o);
  page += made_of(folder + "/metrics.jsonl", expert_section);
  page += made_of(folder + "/samples.jsonl", samples);
  page += "<div class='two'><div><h2>Run</h2>\n" + table(about) + "</div>\n";
  page += "<div><h2>Machine</h2>\n" + table(machine) + "</div></div>\n";
  page += "<h2>Configuration</h2>\n<div class='card sample'><pre>" +
          escaped(read_file(folder + "/run.toml")) + "</pre></div>\n";
  write_file(folder + "/report.html", html_page(name, "Training report", page));
}

}  // namespace olm::tools
