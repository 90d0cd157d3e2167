#pragma once
// Line charts as SVG text.
#include <string>
#include <vector>

namespace olm::tools {

struct Point {
  double x = 0, y = 0;
};

struct Series {
  std::string name = {};
  std::string color = "#2563eb";
  double width = 1.8;
  double opacity = 1.0;
  bool markers = false;
  std::vector<Point> points = {};
};

struct Chart {
  std::string title = {};
  std::string x_label = "step";
  std::string y_label = {};
  int width = 560, height = 280;
  bool from_zero = false;  ///< the y axis begins at 0
  std::vector<Series> series = {};
};

/// The chart with axes, round ticks, grid and a legend where there are several series. Long series
/// are drawn as means over neighbours.
std::string svg(const Chart& chart);

/// Round values that cover [low, high], about `count` of them.
std::vector<double> ticks(double low, double high, int count);
/// A number as people write it: "1.5k", "0.001", "2.31".
std::string short_number(double value);
/// Means over neighbours that weigh half at a distance of `half_life` points.
std::vector<Point> smoothed(std::vector<Point> points, double half_life);
/// Text safe inside HTML and SVG.
std::string escaped(const std::string& text);

}  // namespace olm::tools
