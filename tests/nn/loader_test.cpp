#include <doctest/doctest.h>
#include <olm/nn/data.h>
#include <tests/support/temp_folder.h>
#include <tests/support/token_ids.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
using Ids = std::vector<int64_t>;

namespace {

Ids values(const Tensor& t) { return to_host<int64_t>(t); }

/// The first id of every row of the next `n` batches; in `counting` it says where the row begins.
Ids starts(Loader& loader, int64_t n) {
  Ids first;
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Batch batch = loader.next();
    const Ids inputs = values(batch.inputs), targets = values(batch.targets);
    const int64_t context = batch.inputs.size(1);
    for (int64_t at = 0; at < batch.inputs.numel(); ++at) {
      wrong += targets[size_t(at)] != inputs[size_t(at)] + 1;
      if (at % context == 0) first.push_back(inputs[size_t(at)]);
    }
  }
  CHECK(wrong == 0);
  return first;
}

/// What a chi-square of so many equally likely places stays below.
double bound(int64_t places) {
  const auto freedom = double(places - 1);
  return freedom + 5 * std::sqrt(2 * freedom);
}

}  // namespace

TEST_SUITE("nn/loader") {
  TEST_CASE("the loop of a user's program") {
    const TempFolder folder;
    const ByteTokenizer tokenizer;
    auto [train, val] =
        split(TokenDataset(folder.file("t", std::string(1000, 'x')), tokenizer), 0.9);
    int64_t steps = 0;
    for (auto& batch : Loader(train, {.batch = 3, .context = 8, .steps = 5})) {
      CHECK(batch.step == steps++);
      CHECK(batch.inputs.shape() == Shape{3, 8});
      CHECK(batch.targets.dtype() == i64);
    }
    CHECK(steps == 5);
  }

  TEST_CASE("random windows cover the dataset evenly and depend on the seed") {
    Loader loader(counting(1000), {.batch = 50, .context = 20, .seed = 1});
    const Ids first = starts(loader, 200);
    CHECK(*std::min_element(first.begin(), first.end()) == 0);
    CHECK(*std::max_element(first.begin(), first.end()) ==
          1000 - 20 - 1);  // the last id is a target
    const double mean = double(std::accumulate(first.begin(), first.end(), int64_t(0))) / 10000;
    CHECK(std::abs(mean - 489) < 15);  // five standard deviations of the mean
    Loader same(counting(1000), {.batch = 50, .context = 20, .seed = 1});
    CHECK(starts(same, 200) == first);
    Loader other(counting(1000), {.batch = 50, .context = 20, .seed = 2});
    CHECK(starts(other, 200) != first);
    CHECK(!loader.done());
  }

  TEST_CASE("every start is drawn equally often") {
    for (const int32_t size : {9, 10, 11, 72, 300}) {
      const int64_t places = size - 8, draws = 100 * places;
      Loader loader(counting(size), {.batch = 25, .context = 8, .seed = 4});
      std::vector<int64_t> count(static_cast<size_t>(places));
      for (const int64_t start : starts(loader, draws / 25)) ++count[size_t(start)];
      double chi2 = 0;
      for (const int64_t n : count) chi2 += double((n - 100) * (n - 100)) / 100;
      CHECK_MESSAGE(chi2 <= bound(places), size);
    }
  }

  TEST_CASE("no stretch of drawn windows comes again, however far training goes") {
    // Five starts in a row are one of 1e15: among so few none comes twice by chance.
    std::set<Ids> seen;
    int64_t draws = 0;
    for (const int64_t position :
         {int64_t(0), int64_t(1) << 16, int64_t(1) << 32, int64_t(1) << 50}) {
      Loader loader(counting(1003), {.batch = 3, .context = 3, .seed = 1});
      loader.set_position(position);
      const Ids first = starts(loader, 10000);
      for (size_t i = 0; i + 5 <= first.size(); ++i, ++draws)
        seen.insert(Ids(first.begin() + int64_t(i), first.begin() + int64_t(i) + 5));
    }
    CHECK(int64_t(seen.size()) == draws);
  }

  TEST_CASE("no two epochs have the same order, and any window may come first") {
    constexpr int64_t kWindows = 20, kEpochs = 1000;
    Loader loader(counting(kWindows * 4 + 1),
                  {.batch = kWindows, .context = 4, .seed = 2, .replacement = false});
    std::set<Ids> orders;
    std::vector<int64_t> count(kWindows);
    for (int64_t epoch = 0; epoch < kEpochs; ++epoch) {
      const Ids order = starts(loader, 1);
      orders.insert(order);
      ++count[size_t(order[0] / 4)];
    }
    CHECK(int64_t(orders.size()) == kEpochs);
    double chi2 = 0;
    for (const int64_t n : count) chi2 += double((n - 50) * (n - 50)) / 50;
    CHECK(chi2 < bound(kWindows));
  }

  TEST_CASE("a state without \"starts\" goes on without the last place") {
    // The windows that a run of that time drew.
    const Ids wanted = {2, 8, 0, 3, 4,  4, 5, 1, 1, 8, 7, 7, 3, 9, 3, 1,
                        4, 1, 1, 3, 10, 7, 6, 6, 8, 4, 5, 9, 8, 7, 3, 7};
    const LoaderOptions options{.batch = 4, .context = 8, .seed = 7};
    Loader loader(counting(20), options), newer(counting(20), options);
    CHECK(starts(newer, 8) != wanted);
    loader.set_state(Json::parse(R"({"position":0,"seed":7,"batch":4,"context":8,"shuffle":true,)"
                                 R"("replacement":true,"tokens":20})"));
    CHECK(starts(loader, 3) == Ids(wanted.begin(), wanted.begin() + 12));
    Loader later(counting(20), options);
    later.set_state(loader.state());
    CHECK(starts(later, 5) == Ids(wanted.begin() + 12, wanted.end()));
    newer.set_state(later.state());
    newer.set_position(0);
    CHECK(starts(newer, 8) == wanted);
    Json state = later.state();
    state["starts"] = 10;
    CHECK(contains(message_of<Error>([&] { newer.set_state(state); }),
                   "the state is for starts 10, this loader has 12"));
  }

  TEST_CASE("a position and a state resume exactly") {
    for (const bool replacement : {true, false}) {
      const LoaderOptions options{.batch = 4, .context = 8, .seed = 7, .replacement = replacement};
      Loader whole(counting(500), options), rest(counting(500), options);
      const Ids all = starts(whole, 40);
      rest.set_position(15);
      const Json state = rest.state();
      const Ids tail = starts(rest, 25);
      CHECK(tail == Ids(all.begin() + 60, all.end()));
      Loader resumed(counting(500), options);
      resumed.set_state(Json::parse(state.dump()));
      CHECK(resumed.next().step == 15);
      CHECK(starts(resumed, 24) == Ids(all.begin() + 64, all.end()));
    }
    Loader loader(counting(500), {.batch = 4, .context = 8});
    Loader wider(counting(500), {.batch = 5, .context = 8});
    CHECK(contains(message_of<Error>([&] { loader.set_state(wider.state()); }),
                   "the state is for batch 5, this loader has 4"));
    CHECK_THROWS_AS(loader.set_position(-1), Error);
    CHECK_THROWS_AS(loader.set_state(Json::object()), Error);
  }

  TEST_CASE("without replacement every epoch has each window once, in a new order") {
    for (const int32_t size : {9, 10, 17, 161, 1000}) {
      Loader loader(counting(size), {.batch = 1, .context = 8, .seed = 3, .replacement = false});
      const int64_t n = loader.windows();
      CHECK(n == (size - 1) / 8);
      const Ids first = starts(loader, n), second = starts(loader, n);
      for (const Ids& epoch : {first, second}) {
        const std::set<int64_t> seen(epoch.begin(), epoch.end());
        CHECK(int64_t(seen.size()) == n);
        CHECK(*seen.rbegin() == (n - 1) * 8);
      }
      if (n > 10) {
        CHECK(first != second);
        CHECK(!std::is_sorted(first.begin(), first.end()));
      }
    }
  }

  TEST_CASE("in order, one pass gives every window once") {
    Loader loader(counting(100), {.batch = 4, .context = 9, .shuffle = false});
    CHECK(loader.windows() == 11);
    CHECK(starts(loader, 3) == Ids{0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90});
    CHECK(loader.done());
    CHECK(contains(message_of<Error>([&] { loader.next(); }), "all 3 batches were given"));
    Loader endless(counting(19), {.batch = 3, .context = 9, .steps = 2, .shuffle = false});
    CHECK(starts(endless, 2) == Ids{0, 9, 0, 9, 0, 9});
  }

  TEST_CASE("the smallest dataset has one window, a smaller one is refused") {
    Loader loader(counting(9), {.batch = 2, .context = 8});
    CHECK(starts(loader, 2) == Ids{0, 0, 0, 0});
    CHECK(message_of<Error>([] { Loader(counting(8), {.context = 8}); }) ==
          "loader: ids in memory has 8 tokens, a context of 8 needs at least 9");
    CHECK_THROWS_AS(Loader(counting(8), {.context = 0}), Error);
    CHECK_THROWS_AS(Loader(counting(8), {.batch = 0, .context = 2}), Error);
    CHECK_THROWS_AS(Loader(TokenDataset(), {.context = 2}), Error);
  }
}
