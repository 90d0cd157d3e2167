#include "tools/olm/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <ctime>

#include <olm/engine/file.h>

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
th { text-align: left; padding: 5px 8px; font-size: 13px; color: #66727f; font-weight: 600;
  border-bottom: 1px solid #e3e7ec; }
td:first-child { color: #66727f; white-space: nowrap; padding-right: 18px; }
)";

}  // namespace

std::string html_page(const std::string& name, const std::string& kind, const std::string& body) {
  const std::time_t now = std::time(nullptr);
  char date[64];
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
  std::string title = kind;
  if (!title.empty()) title[0] = char(std::tolower(title[0]));
  std::string page = "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>\n";
  page += "<meta name='viewport' content='width=device-width, initial-scale=1'>\n";
  page += fmt::format("<title>{}: {}</title>\n<style>{}</style></head><body><main>\n",
                      escaped(name), title, kStyle);
  page += fmt::format("<h1>{}</h1>\n<p class='sub'>{} of olm, {}</p>\n", escaped(name), kind, date);
  return page + body + "</main></body></html>\n";
}

std::string card(const Chart& chart, const char* extra) {
  return fmt::format("<div class='card {}'>\n{}</div>\n", extra, svg(chart));
}

std::string table(const Facts& facts) {
  std::string out = "<div class='card'><table>\n";
  for (const auto& [name, value] : facts)
    out += fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escaped(name), escaped(value));
  return out + "</table></div>\n";
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<div class='card'><table>\n";
  for (size_t i = 0; i < rows.size(); ++i) {
    const char* cell = i == 0 ? "th" : "td";
    out += "<tr>";
    for (const std::string& text : rows[i])
      out += fmt::format("<{0}>{1}</{0}>", cell, escaped(text));
    out += "</tr>\n";
  }
  return out + "</table></div>\n";
}

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

std::vector<Point> points(const std::vector<Json>& lines, const char* key, const char* x) {
  std::vector<Point> result;
  for (const Json& line : lines) {
    const Json *value = line.find(key), *at = line.find(x);
    if (value && value->is_number() && at && at->is_number())
      result.push_back({at->as_double(), value->as_double()});
  }
  return result;
}

}  // namespace olm::tools
