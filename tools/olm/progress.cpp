#include "tools/olm/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tools/olm/chart.h"
#include "tools/olm/machine.h"

namespace olm::tools {

namespace {

constexpr std::chrono::milliseconds kRedraw{100};
constexpr std::chrono::seconds kPlainLine{10};

int terminal_width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

/// A terminal that knows how to clear a line.
bool can_draw() {
  const char* kind = std::getenv("TERM");
  return isatty(STDERR_FILENO) != 0 && !(kind && std::strcmp(kind, "dumb") == 0);
}

}  // namespace

std::string progress_text(const Progress::State& s) {
  return fmt::format("step {}/{}  loss {}  {} tokens/s  {} left", s.step, s.total,
                     loss_text(s.loss), short_number(s.tokens_per_second),
                     duration_text(s.seconds_left));
}

Progress::Progress() : terminal_(can_draw()), last_(Clock::now()) {}

std::string Progress::bar(const State& s) const {
  static constexpr const char* kParts[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const std::string text = progress_text(s);
  const int cells = std::clamp(terminal_width() - int(text.size()) - 10, 0, 40);
  const double done = s.total > 0 ? std::clamp(double(s.step) / double(s.total), 0.0, 1.0) : 0;
  std::string out = fmt::format("{:3.0f}% ", done * 100);
  if (cells >= 5) {
    const int eighths = int(done * cells * 8);
    out += "│";
    for (int i = 0; i < cells; ++i) {
      const int left = eighths - 8 * i;
      out += left >= 8 ? "█" : kParts[std::max(left, 0)];
    }
    out += "│ ";
  }
  return out + text;
}

void Progress::update(const State& state) {
  const auto now = Clock::now();
  if (terminal_) {
    if (drawn_ && now - last_ < kRedraw && state.step != state.total) return;
    std::fputs(("\r\033[K" + bar(state)).c_str(), stderr);
    drawn_ = true;
  } else {
    if (now - last_ < kPlainLine && state.step != state.total) return;
    line(progress_text(state));
  }
  last_ = now;
}

void Progress::line(const std::string& text) {
  clear();
  std::puts(text.c_str());
  std::fflush(stdout);
}

void Progress::clear() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

}  // namespace olm::tools
