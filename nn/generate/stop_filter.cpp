#include <algorithm>
#include <utility>

#include <olm/engine/utf8.h>
#include <olm/nn/generate.h>

namespace olm::nn {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    require(!stop.empty(), "stop_strings: a text of at least one character was wanted, got none");
    require(find_invalid_utf8(stop) == std::string::npos,
            "stop_strings: wanted text in UTF-8, byte ", find_invalid_utf8(stop), " of one is not");
  }
}

std::string StopFilter::push(std::string_view text) {
  if (stopped_) return {};
  for (const char c : text) {
    held_ += c;
    size_t matched = 0;
    for (const std::string& stop : stops_)
      if (held_.ends_with(stop)) matched = std::max(matched, stop.size());
    if (matched == 0) continue;
    stopped_ = true;
    held_.resize(held_.size() - matched);
    return std::exchange(held_, {});
  }
  // The longest end of the text that is the beginning of a stop string waits.
  size_t waiting = 0;
  for (const std::string& stop : stops_)
    for (size_t n = std::min(held_.size(), stop.size() - 1); n > waiting; --n)
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) waiting = n;
  std::string certain = held_.substr(0, held_.size() - waiting);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopFilter::finish() { return std::exchange(held_, {}); }

}  // namespace olm::nn
