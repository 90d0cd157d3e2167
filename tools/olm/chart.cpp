#include "tools/olm/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <olm/engine/utf8.h>

namespace olm::tools {

namespace {

/// Where the data is drawn, and how values become pixels.
struct Frame {
  double left, top, right, bottom;
  double x0, x1, y0, y1;
  double px(double x) const { return left + (x - x0) / (x1 - x0) * (right - left); }
  double py(double y) const { return bottom - (y - y0) / (y1 - y0) * (bottom - top); }
};

/// At most `count` points, each the mean of its neighbours.
std::vector<Point> thinned(const std::vector<Point>& points, size_t count) {
  if (points.size() <= count) return points;
  std::vector<Point> result;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = i * points.size() / count, end = (i + 1) * points.size() / count;
    Point mean;
    for (size_t j = begin; j < end; ++j) {
      mean.x += points[j].x / double(end - begin);
      mean.y += points[j].y / double(end - begin);
    }
    result.push_back(mean);
  }
  return result;
}

Frame frame_of(const Chart& chart) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  double x0 = inf, x1 = -inf, y0 = chart.from_zero ? 0 : inf, y1 = -inf;
  for (const Series& s : chart.series) {
    for (const Point& p : s.points) {
      if (!std::isfinite(p.y)) continue;
      x0 = std::min(x0, p.x);
      x1 = std::max(x1, p.x);
      y0 = std::min(y0, p.y);
      y1 = std::max(y1, p.y);
    }
  }
  if (x0 > x1) x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  if (x0 > 0 && x0 < 0.05 * x1) x0 = 0;
  if (x0 == x1) x1 = x0 + 1;
  if (y0 >= y1) {
    const double half = y0 == 0 ? 1 : std::abs(y0) * 0.1;
    y1 = y0 + half;
    if (!chart.from_zero) y0 -= half;
  }
  const std::vector<double> marks = ticks(y0, y1, 5);
  const double step = marks.size() > 1 ? marks[1] - marks[0] : y1 - y0;
  y0 = std::floor(y0 / step + 1e-9) * step;
  y1 = std::ceil(y1 / step - 1e-9) * step;
  return {72, 38, double(chart.width) - 18, double(chart.height) - 42, x0, x1, y0, y1};
}

std::string axes(const Chart& chart, const Frame& f) {
  std::string out;
  for (const double y : ticks(f.y0, f.y1, 5)) {
    out += fmt::format("<line class='grid' x1='{:.1f}' x2='{:.1f}' y1='{:.1f}' y2='{:.1f}'/>",
                       f.left, f.right, f.py(y), f.py(y));
    out += fmt::format("<text class='tick' x='{:.1f}' y='{:.1f}' text-anchor='end'>{}</text>\n",
                       f.left - 8, f.py(y) + 4, short_number(y));
  }
  for (const double x : ticks(f.x0, f.x1, chart.width > 700 ? 10 : 6)) {
    out += fmt::format("<line class='axis' x1='{0:.1f}' x2='{0:.1f}' y1='{1:.1f}' y2='{2:.1f}'/>",
                       f.px(x), f.bottom, f.bottom + 5);
    out += fmt::format("<text class='tick' x='{:.1f}' y='{:.1f}' text-anchor='middle'>{}</text>\n",
                       f.px(x), f.bottom + 18, short_number(x));
  }
  out += fmt::format("<line class='axis' x1='{:.1f}' x2='{:.1f}' y1='{:.1f}' y2='{:.1f}'/>\n",
                     f.left, f.right, f.bottom, f.bottom);
  out += fmt::format("<text class='label' x='{:.1f}' y='{:.1f}' text-anchor='middle'>{}</text>\n",
                     (f.left + f.right) / 2, f.bottom + 36, escaped(chart.x_label));
  out += fmt::format(
      "<text class='label' text-anchor='middle' transform='translate(14 {:.1f}) rotate(-90)'>"
      "{}</text>\n",
      (f.top + f.bottom) / 2, escaped(chart.y_label));
  return out;
}

std::string curve(const Series& s, const Frame& f) {
  std::string line, dots;
  bool pen_down = false;
  for (const Point& p : thinned(s.points, 900)) {
    if (!std::isfinite(p.y)) {
      pen_down = false;
      continue;
    }
    line += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", f.px(p.x), f.py(p.y));
    pen_down = true;
    if (s.markers && s.points.size() <= 60)
      dots += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='3' fill='{}'/>", f.px(p.x), f.py(p.y),
                          s.color);
  }
  return fmt::format(
      "<path d='{}' fill='none' stroke='{}' stroke-width='{}' stroke-opacity='{}' "
      "stroke-linejoin='round'/>{}\n",
      line, s.color, s.width, s.opacity, dots);
}

std::string legend(const Chart& chart, const Frame& f) {
  if (chart.series.size() < 2) return "";
  std::string out;
  double x = f.right;
  for (size_t i = chart.series.size(); i-- > 0;) {
    const Series& s = chart.series[i];
    x -= 7.0 * double(s.name.size()) + 34;
    out += fmt::format(
        "<line x1='{:.1f}' x2='{:.1f}' y1='19' y2='19' stroke='{}' stroke-width='{}' "
        "stroke-opacity='{}'/><text class='tick' x='{:.1f}' y='23'>{}</text>\n",
        x, x + 18, s.color, s.width + 0.8, s.opacity, x + 24, escaped(s.name));
  }
  return out;
}

}  // namespace

std::string svg(const Chart& chart) {
  const Frame f = frame_of(chart);
  std::string out = fmt::format(
      "<svg viewBox='0 0 {} {}' role='img' aria-label='{}'>\n"
      "<text class='title' x='{:.1f}' y='23'>{}</text>\n",
      chart.width, chart.height, escaped(chart.title), f.left, escaped(chart.title));
  out += axes(chart, f) + legend(chart, f);
  for (const Series& s : chart.series)
    if (!s.points.empty()) out += curve(s, f);
  return out + "</svg>\n";
}

std::vector<double> ticks(double low, double high, int count) {
  const double rough = (high - low) / std::max(count, 1);
  if (!(rough > 0) || !std::isfinite(rough)) return {low};
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  const double unit = rough / power;
  const double step = power * (unit < 1.5 ? 1 : unit < 3.5 ? 2 : unit < 7.5 ? 5 : 10);
  std::vector<double> result;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    result.push_back(i == 0 ? 0.0 : i * step);
  return result;
}

std::string short_number(double value) {
  const double size = std::abs(value);
  if (value == 0) return "0";
  if (std::isnan(value)) return "nan";
  if (size >= 1e9) return fmt::format("{:.3g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:.3g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:.3g}k", value / 1e3);
  if (size < 1e-3) return fmt::format("{:.2g}", value);
  return fmt::format("{:.4g}", value);
}

namespace {

/// Exponential moving average from front to back, without the bias towards 0 at its start.
std::vector<Point> moving_average(const std::vector<Point>& points, double keep) {
  double sum = 0, weight = 0;
  std::vector<Point> result;
  for (const Point& p : points) {
    sum = keep * sum + (1 - keep) * p.y;
    weight = keep * weight + (1 - keep);
    result.push_back({p.x, sum / weight});
  }
  return result;
}

}  // namespace

std::vector<Point> smoothed(std::vector<Point> points, double half_life) {
  std::erase_if(points, [](const Point& p) { return !std::isfinite(p.y); });
  const double keep = std::pow(0.5, 1 / std::max(half_life, 1e-9));
  std::vector<Point> forward = moving_average(points, keep);
  std::reverse(points.begin(), points.end());
  const std::vector<Point> backward = moving_average(points, keep);
  // Both ways together lag behind the points in neither direction.
  for (size_t i = 0; i < forward.size(); ++i)
    forward[i].y = (forward[i].y + backward[forward.size() - 1 - i].y) / 2;
  return forward;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.length == 0) {
      out += "\ufffd";
      ++at;
      continue;
    }
    switch (c.code) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out.append(text, at, size_t(c.length));
    }
    at += size_t(c.length);
  }
  return out;
}

}  // namespace olm::tools
