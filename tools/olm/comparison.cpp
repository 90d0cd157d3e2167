#include "tools/olm/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>

#include <olm/engine/file.h>

#include "tools/olm/page.h"

namespace olm::tools {

namespace {

constexpr const char* kColors[] = {"#2563eb", "#e0660a", "#0f8a6d", "#7c3aed",
                                   "#c81e5b", "#475569", "#a16207", "#0891b2"};

/// A run by its log: validation losses, or where it has none the training loss, smoothed.
struct Measured {
  Comparison::Entry entry = {};
  std::vector<Point> by_step = {}, by_time = {}, training = {};
  std::vector<Point> balance = {};  ///< entropy of the loads of experts; of mixtures alone
  double steps = 0, seconds = 0, tokens_per_second = 0;
};

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + ptrdiff_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

Measured measured(const Comparison::Entry& entry, const std::string& folder) {
  const std::vector<Json> lines = read_lines(folder + "/" + entry.name + "/metrics.jsonl");
  Measured m{.entry = entry};
  const std::vector<Point> raw = points(lines, "loss");
  m.training = smoothed(raw, std::max(1.0, double(raw.size()) / 100));
  const std::vector<Point> entropy = points(lines, "expert_entropy");
  m.balance = smoothed(entropy, std::max(1.0, double(entropy.size()) / 100));
  m.by_step = points(lines, "val_loss");
  m.by_time = points(lines, "val_loss", "train_seconds");
  if (!m.by_step.empty() && m.by_step[0].x == 0) m.by_time.insert(m.by_time.begin(), m.by_step[0]);
  const std::vector<Point> clock = points(lines, "train_seconds");
  if (m.by_step.empty()) {
    m.by_step = m.training;
    for (size_t i = 0; i < m.training.size() && i < clock.size(); ++i)
      m.by_time.push_back({clock[i].y, m.training[i].y});
  }
  if (!clock.empty()) m.steps = clock.back().x, m.seconds = clock.back().y;
  std::vector<double> speeds;
  for (const Point& p : points(lines, "tokens_per_second")) speeds.push_back(p.y);
  m.tokens_per_second = median(std::move(speeds));
  return m;
}

/// The curve at x, between its points; nothing outside of them.
std::optional<double> at(const std::vector<Point>& curve, double x) {
  for (size_t i = 0; i < curve.size(); ++i) {
    if (curve[i].x == x) return curve[i].y;
    if (i > 0 && curve[i - 1].x < x && x < curve[i].x) {
      const double share = (x - curve[i - 1].x) / (curve[i].x - curve[i - 1].x);
      return curve[i - 1].y + share * (curve[i].y - curve[i - 1].y);
    }
  }
  return {};
}

/// Runs, and the end of the shortest of them in steps and in seconds.
struct Results {
  std::vector<Measured> runs = {};
  double steps = std::numeric_limits<double>::infinity();
  double seconds = std::numeric_limits<double>::infinity();
};

Results results_of(const Comparison& comparison) {
  Results r;
  for (const Comparison::Entry& entry : comparison.entries) {
    r.runs.push_back(measured(entry, comparison.folder));
    const Measured& m = r.runs.back();
    const double last_step = m.by_step.empty() ? 0 : m.by_step.back().x;
    const double last_second = m.by_time.empty() ? 0 : m.by_time.back().x;
    r.steps = std::min(r.steps, last_step);
    r.seconds = std::min(r.seconds, last_second);
  }
  return r;
}

std::optional<double> last(const std::vector<Point>& curve) {
  if (curve.empty()) return {};
  return curve.back().y;
}

Json number(std::optional<double> value) {
  return value && std::isfinite(*value) ? Json(*value) : Json();
}

/// A run's figures, whose names are the columns of results.csv.
Json row_of(const Measured& m, const Results& r) {
  Json row;
  row["name"] = m.entry.name;
  row["parameters"] = m.entry.parameters;
  row["flops_per_token"] = m.entry.flops_per_token;
  row["training_bytes"] = m.entry.memory;
  row["steps"] = int64_t(m.steps);
  row["total_steps"] = m.entry.total_steps;
  row["train_seconds"] = m.seconds;
  row["tokens_per_second"] = m.tokens_per_second;
  row["final_loss"] = number(last(m.by_step));
  row["loss_at_equal_steps"] = number(at(m.by_step, r.steps));
  row["loss_at_equal_time"] = number(at(m.by_time, r.seconds));
  row["expert_entropy"] = number(last(m.balance));
  return row;
}

std::string number_text(const Json& value) {
  return value.is_number() ? loss_text(value.as_double()) : "-";
}

/// The figures as people read them, under a head.
std::vector<std::vector<std::string>> cells(const Results& r) {
  std::vector<std::vector<std::string>> rows{
      {"variant", "parameters", "FLOPs/token", "final loss", fmt::format("at step {:.0f}", r.steps),
       "at " + duration_text(r.seconds), "steps", "tokens/s", "memory"}};
  for (const Measured& m : r.runs) {
    const Json row = row_of(m, r);
    rows.push_back({m.entry.name, grouped(m.entry.parameters),
                    short_number(m.entry.flops_per_token), number_text(row.at("final_loss")),
                    number_text(row.at("loss_at_equal_steps")),
                    number_text(row.at("loss_at_equal_time")),
                    fmt::format("{:.0f}/{}", m.steps, m.entry.total_steps),
                    short_number(m.tokens_per_second), bytes_text(m.entry.memory)});
  }
  return rows;
}

std::string quoted_for_csv(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

std::string csv(const Json& rows) {
  std::string out;
  for (const auto& [name, value] : rows.at(0).members()) out += (out.empty() ? "" : ",") + name;
  out += "\n";
  for (const Json& row : rows.items()) {
    std::string line;
    for (const auto& [name, value] : row.members())
      line += (line.empty() ? "" : ",") + (value.is_string() ? quoted_for_csv(value.as_string())
                                           : value.is_null() ? ""
                                                             : value.dump());
    out += line + "\n";
  }
  return out;
}

/// The curves of the runs that have one; nothing where none has.
std::string chart_of(const Results& r, const char* title, const char* x, const char* y,
                     std::vector<Point> Measured::*curve, bool markers) {
  Chart chart{.title = title, .x_label = x, .y_label = y, .width = 1132, .height = 380};
  for (size_t i = 0; i < r.runs.size(); ++i)
    if (const Measured& m = r.runs[i]; !(m.*curve).empty())
      chart.series.push_back(
          {m.entry.name, kColors[i % std::size(kColors)], 2, 1, markers, m.*curve});
  return chart.series.empty() ? "" : card(chart, "wide");
}

std::string page_of(const Comparison& comparison, const Results& r) {
  std::string body = table(cells(r));
  const char* nats = "nats per token";
  body += chart_of(r, "Validation loss by steps", "step", nats, &Measured::by_step, true);
  body +=
      chart_of(r, "Validation loss by time", "seconds of training", nats, &Measured::by_time, true);
  body += chart_of(r, "Training loss", "step", nats, &Measured::training, false);
  body += chart_of(r, "Expert balance", "step", "entropy of the load, 1 is even",
                   &Measured::balance, false);
  for (const Comparison::Entry& entry : comparison.entries) {
    const std::string model = comparison.folder + "/" + entry.name + "/model.json";
    if (!file_exists(model)) continue;
    body += fmt::format("<h2>{}</h2>\n<div class='card sample'><pre>{}</pre></div>\n",
                        escaped(entry.name), escaped(read_file(model)));
  }
  std::string name =
      std::filesystem::path(comparison.folder).lexically_normal().filename().string();
  if (name.empty() || name == ".") name = "ablation";
  return html_page(name, "Comparison", body + "<h2>Machine</h2>\n" + table(machine_facts()));
}

}  // namespace

bool Comparison::is_file(const std::string& name) {
  return name == "results.json" || name == "results.csv" || name == "report.html";
}

Comparison Comparison::read(const std::string& folder) {
  const std::string path = folder + "/results.json";
  if (!file_exists(path)) throw FileError(folder, ": holds no comparison, results.json is missing");
  const Json json = read_json(path);
  Comparison result{.folder = folder};
  try {
    for (const Json& row : json.at("variants").items())
      result.entries.push_back({.name = row.at("name").as_string(),
                                .parameters = row.at("parameters").as_int(),
                                .flops_per_token = row.at("flops_per_token").as_double(),
                                .memory = row.at("training_bytes").as_double(),
                                .total_steps = row.at("total_steps").as_int()});
    require(!result.entries.empty(), "names no variant");
    for (const Entry& entry : result.entries)
      require(entry.name.find('/') == std::string::npos && !entry.name.empty() &&
                  entry.name != "." && entry.name != "..",
              "names the variant \"", entry.name, "\", which is no folder here");
  } catch (const Error& e) {
    throw FileError(path, ": ", e.what());
  }
  return result;
}

void Comparison::write() const {
  const Results r = results_of(*this);
  Json json, rows = Json::array();
  for (const Measured& m : r.runs) rows.push_back(row_of(m, r));
  json["equal_steps"] = r.steps;
  json["equal_seconds"] = r.seconds;
  json["variants"] = rows;
  write_json(folder + "/results.json", json);
  write_file(folder + "/results.csv", csv(rows));
  write_file(folder + "/report.html", page_of(*this, r));
}

std::string Comparison::text() const {
  const std::vector<std::vector<std::string>> rows = cells(results_of(*this));
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += i == 0 ? fmt::format("{:<{}}", row[i], widths[i])
                     : fmt::format("  {:>{}}", row[i], widths[i]);
    out += line + "\n";
  }
  return out;
}

}  // namespace olm::tools
