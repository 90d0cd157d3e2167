#include "tools/olm/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <limits>

#include <olm/engine/file.h>
#include <olm/engine/json.h>

#include "tools/olm/chart.h"
#include "tools/olm/expert_report.h"

namespace olm::tools {

namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: #1f2933; font: 15px/1.5 system-ui, -apple-system,
  "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 18px; margin: 36px 0 12px; }
.sub { color: #66727f; margin: 2px 0 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; }
.tile, .card { background: #fff; border: 1px solid #e3e7ec; border-radius: 10px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: #66727f; font-size: 13px; }
.card { padding: 10px 12px; }
.wide { margin-top: 20px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 16px;
  margin-top: 16px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit; }
.title { font-size: 15px; font-weight: 600; fill: #1f2933; }
.tick { font-size: 12px; fill: #56616d; }
.label { font-size: 12.5px; fill: #56616d; }
.grid { stroke: #e9ecf0; }
.axis { stroke: #9aa5b1; }
.sample { margin: 0 0 14px; padding: 12px 16px; }
.sample h3 { margin: 0 0 6px; font-size: 13px; color: #66727f; font-weight: 600; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace,
  "DejaVu Sans Mono", monospace; }
.prompt { color: #2563eb; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 16px; }
table { border-collapse: collapse; width: 100%; }
td { padding: 5px 8px; vertical-align: top; border-bottom: 1px solid #eef1f4; font-size: 14px;
  overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td:first-child { color: #66727f; white-space: nowrap; padding-right: 18px; }
)";

std::vector<Json> read_lines(const std::string& path) {
  std::vector<Json> lines;
  if (!file_exists(path)) return lines;
  const std::string text = read_file(path);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at) lines.push_back(Json::parse(text.substr(at, end - at), path));
    at = end + 1;
  }
  return lines;
}

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

std::vector<Point> points(const std::vector<Json>& lines, const char* key) {
  std::vector<Point> result;
  for (const Json& line : lines) {
    const Json* value = line.find(key);
    if (value && value->is_number())
      result.push_back({line.at("step").as_double(), value->as_double()});
  }
  return result;
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

std::string card(const Chart& chart, const char* extra = "") {
  return fmt::format("<div class='card {}'>\n{}</div>\n", extra, svg(chart));
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

std::string table(const Facts& facts) {
  std::string out = "<div class='card'><table>\n";
  for (const auto& [name, value] : facts)
    out += fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escaped(name), escaped(value));
  return out + "</table></div>\n";
}

}  // namespace

void write_report(const std::string& folder, const Facts& about, const Facts& machine) {
  const Outcome o = made_of(folder + "/metrics.jsonl", outcome_of);
  std::string name = std::filesystem::path(folder).lexically_normal().filename().string();
  if (name.empty() || name == ".") name = std::filesystem::absolute(folder).filename().string();
  const std::time_t now = std::time(nullptr);
  char date[64];
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
  std::string page = "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>\n";
  page += "<meta name='viewport' content='width=device-width, initial-scale=1'>\n";
  page += fmt::format("<title>{}: training report</title>\n<style>{}</style></head><body><main>\n",
                      escaped(name), kStyle);
  page += fmt::format("<h1>{}</h1>\n<p class='sub'>Training report of olm, {}</p>\n", escaped(name),
                      date);
  page += tiles(o, about) + charts(o);
  page += made_of(folder + "/metrics.jsonl", expert_section);
  page += made_of(folder + "/samples.jsonl", samples);
  page += "<div class='two'><div><h2>Run</h2>\n" + table(about) + "</div>\n";
  page += "<div><h2>Machine</h2>\n" + table(machine) + "</div></div>\n";
  page += "<h2>Configuration</h2>\n<div class='card sample'><pre>" +
          escaped(read_file(folder + "/run.toml")) + "</pre></div>\n";
  write_file(folder + "/report.html", page + "</main></body></html>\n");
}

}  // namespace olm::tools
