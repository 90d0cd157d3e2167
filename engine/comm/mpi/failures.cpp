// What the communication thread does about ranks that fail, fall silent, leave or do not come.
#include <algorithm>
#include <sstream>

#include <olm/engine/comm/mpi/thread_internal.h>

namespace olm::dist::detail {
namespace {

using Seconds = std::chrono::duration<double>;

/// After a rank has left, what it sent before is given this long to go on arriving.
constexpr Seconds kGrace{0.5};
/// How long a rank that failed waits until the others can know it.
constexpr Seconds kTelling{1};
/// How long it waits for one before it to say the same.
constexpr Seconds kSameSentence{0.3};
/// Between two looks at who is late.
constexpr std::chrono::milliseconds kLateInterval{10};

std::string numbers_text(const std::vector<int>& ranks) {
  std::string text;
  for (const int r : ranks) text += (text.empty() ? "" : ",") + std::to_string(r);
  return text;
}

std::vector<int> parse_numbers(const std::string& text) {
  std::vector<int> ranks;
  std::istringstream in(text);
  for (std::string number; std::getline(in, number, ',');) ranks.push_back(std::stoi(number));
  return ranks;
}

}  // namespace

void MpiThread::listen() {
  {
    std::lock_guard lock(mutex_);
    timeout_ = options_.timeout;
  }
  const Seconds interval(std::clamp(timeout_ / 10, 0.01, 5.0));
  for (const Sign& sign : signs_->poll(std::chrono::duration_cast<Clock::duration>(interval)))
    hear(sign);
}

void MpiThread::hear(const Sign& sign) {
  switch (sign.kind) {
    case SignKind::alive:
      return;
    case SignKind::stop: {
      std::lock_guard lock(mutex_);
      asked_to_stop_ = true;
      return;
    }
    case SignKind::leaving:
    case SignKind::ending: {
      std::lock_guard lock(mutex_);
      left_[size_t(sign.from)] = Clock::now();
      return;
    }
    case SignKind::failed: {
      {
        std::lock_guard lock(mutex_);
        sentences_[sign.from] = sign.text;
        changed_.notify_all();
      }
      return set_failure({sign.from, sign.text, {}});
    }
    case SignKind::absent: {
      const size_t colon = sign.text.find(':');
      return set_failure(
          {sign.from, sign.text.substr(colon + 1), parse_numbers(sign.text.substr(0, colon))});
    }
  }
}

void MpiThread::look_for_absent() {
  {
    std::lock_guard lock(mutex_);
    if (failure_.from >= 0) return;
  }
  std::vector<int> silent;
  bool too_long = false;
  for (int r = 0; r < size_; ++r) {
    // One that has left goes on giving signs until all have.
    if (r == rank_ || (signs_->has_left(r) && told_leaving_)) continue;
    too_long = too_long || signs_->silence(r) > timeout_;
    // Those that fell silent together are named together.
    if (signs_->silence(r) > 0.75 * timeout_) silent.push_back(r);
  }
  if (!too_long) return;
  std::ostringstream text;
  text << "no sign of life for " << timeout_ << " s from " << with_hosts(silent);
  set_failure({rank_, text.str(), silent});
}

void MpiThread::look_for_late() {
  const Clock::time_point now = Clock::now();
  if (now - looked_for_late_ < kLateInterval) return;
  looked_for_late_ = now;
  double patience = 0;
  {
    std::lock_guard lock(mutex_);
    patience = options_.patience;
    if (failure_.from >= 0) return;
  }
  for (const auto& operation : active_) {
    const double still = operation->still(now);
    std::vector<int> missing = operation->missing(), gone;
    std::erase(missing, rank_);
    for (const int r : missing)
      if (signs_->has_left(r) && now - left_[size_t(r)] > kGrace && Seconds(still) > kGrace)
        gone.push_back(r);
    if (!gone.empty()) return set_failure({rank_, with_hosts(gone) + " ended without it", gone});
    if (missing.empty() || still <= patience) continue;
    return set_late(patience, missing);
  }
}

void MpiThread::set_late(double patience, const std::vector<int>& missing) {
  std::ostringstream text;
  text << "waited " << patience << " s for " << with_hosts(missing) << ", alive but not coming";
  set_failure({rank_, text.str(), missing});
}

void MpiThread::set_failure(Failure failure) {
  std::lock_guard lock(mutex_);
  if (failure_.from >= 0) return;  // the first counts
  failure_ = std::move(failure);
  changed_.notify_all();
  work_.notify_one();
}

/// Tells the others what callers and this thread want them to know.
void MpiThread::send_wishes() {
  Failure failure;
  bool stop = false, leaving = false, ending = false;
  {
    std::lock_guard lock(mutex_);
    if (!told_failure_) failure = failure_;
    stop = wants_stop_ && !told_stop_;
    leaving = leaving_ == Leaving::asked && !told_leaving_ && failure_.from < 0 &&
              active_.empty() && submitted_.empty();
    ending = leaving_ == Leaving::after_failure && !told_ending_;
  }
  if (failure.from >= 0) {
    told_failure_ = true;
    if (!failure.absent.empty())
      signs_->send(SignKind::absent, numbers_text(failure.absent) + ":" + failure.text);
    else if (failure.from == rank_)
      signs_->send(SignKind::failed, failure.text);
  }
  if (stop) {
    told_stop_ = true;
    signs_->send(SignKind::stop);
  }
  if (leaving) {
    told_leaving_ = true;
    signs_->send(SignKind::leaving);
  }
  if (ending) {
    told_ending_ = true;
    signs_->send(SignKind::ending);
  }
  if (told_failure_ && signs_->all_sent()) {
    std::lock_guard lock(mutex_);
    if (!told_) changed_.notify_all();
    told_ = true;
  }
}

void MpiThread::throw_failure(const char* operation) {
  if (!failure_.absent.empty()) throw CommError(at_place(operation), failure_.text);
  if (failure_.from == rank_) throw CommError(failure_.text);
  throw PeerError("rank ", failure_.from, ": ", failure_.text);
}

std::exception_ptr MpiThread::failure(const char* operation, double seconds,
                                      const std::vector<int>& ranks) {
  const Clock::time_point now = Clock::now();
  std::vector<int> gone;
  bool late = false;
  {
    std::lock_guard lock(mutex_);
    for (const int r : ranks)
      if (seconds > 0 && left_[size_t(r)] != Clock::time_point() && now - left_[size_t(r)] > kGrace)
        gone.push_back(r);
    late = seconds > options_.patience;
  }
  if (!gone.empty()) set_failure({rank_, with_hosts(gone) + " ended without it", gone});
  std::lock_guard lock(mutex_);
  try {
    if (failure_.from >= 0) throw_failure(operation);
    if (late)
      throw CommError(at_place(operation), "waited ", options_.patience,
                      " s for other ranks, alive but not coming");
  } catch (const CommError&) {
    return std::current_exception();
  }
  return nullptr;
}

std::string MpiThread::at_place(const char* operation) const {
  return operation + std::string(place_.empty() ? "" : ", ") + place_ + ": ";
}

/// The rank that says why all stop.
int MpiThread::speaker() const {
  int first = 0;
  if (failure_.absent.empty()) {
    // What several ranks find wrong at once the first of them says.
    for (const auto& [rank, sentence] : sentences_)
      if (sentence == failure_.text) return std::min(rank, failure_.from);
    return failure_.from;
  }
  const std::vector<int>& absent = failure_.absent;
  while (std::find(absent.begin(), absent.end(), first) != absent.end()) ++first;
  return first;
}

std::string MpiThread::with_hosts(const std::vector<int>& ranks) {
  std::lock_guard lock(mutex_);
  std::string text;
  for (const int r : ranks) {
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(r);
    if (size_t(r) < hosts_.size()) text += " on " + hosts_[size_t(r)];
  }
  return text;
}

void MpiThread::fail(const std::string& sentence) {
  std::unique_lock lock(mutex_);
  if (failure_.from >= 0) return;
  failure_ = {rank_, sentence, {}};
  changed_.notify_all();
  work_.notify_one();
  changed_.wait_for(lock, kTelling, [&] { return told_; });
}

bool MpiThread::speaks_for(const std::exception& error) {
  if (dynamic_cast<const PeerError*>(&error)) return false;
  std::unique_lock lock(mutex_);
  if (failure_.from < 0) return true;
  changed_.wait_for(lock, failure_.absent.empty() ? kSameSentence : Seconds(0),
                    [&] { return speaker() < rank_; });
  return speaker() == rank_;
}

void MpiThread::set_options(const Options& options) {
  std::lock_guard lock(mutex_);
  options_ = options;
}

void MpiThread::set_hosts(const std::vector<std::string>& hosts) {
  std::lock_guard lock(mutex_);
  hosts_ = hosts;
}

std::vector<std::string> MpiThread::hosts() {
  std::lock_guard lock(mutex_);
  return hosts_;
}

void MpiThread::set_crowded(bool crowded) {
  std::lock_guard lock(mutex_);
  crowded_ = crowded;
}

void MpiThread::set_place(const std::string& place) {
  std::lock_guard lock(mutex_);
  place_ = place;
}

void MpiThread::ask_all_to_stop() {
  std::lock_guard lock(mutex_);
  asked_to_stop_ = wants_stop_ = true;
  work_.notify_one();
}

bool MpiThread::asked_to_stop() {
  std::lock_guard lock(mutex_);
  return asked_to_stop_;
}

}  // namespace olm::dist::detail
