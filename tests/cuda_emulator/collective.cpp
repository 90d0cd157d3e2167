#include <tests/cuda_emulator/collective.h>

#include <cstdio>
#include <string>

#include <tests/cuda_emulator/race.h>
#include <tests/cuda_emulator/report.h>

namespace olm::cuda_emulator {
namespace {

// Several masks of a warp may be in flight; every lane waits in at most one meeting.
struct Warp {
  std::array<Meeting, kWarp> meetings;
  int used = 0;  ///< meetings from here on are empty
};
std::array<Warp, kMaxThreads / kWarp> warps;

std::string hexadecimal(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%08x", mask);
  return text;
}

std::string lanes_text(unsigned mask) {
  ThreadRanges ranges;
  for (int lane = 0; lane < kWarp; ++lane)
    if (mask >> lane & 1u) ranges.add(lane);
  return ranges.text();
}

/// The meeting with this mask, or an empty one.
Meeting& find_meeting(Warp& warp, unsigned mask) {
  Meeting* empty = nullptr;
  for (int i = 0; i < warp.used; ++i) {
    Meeting& meeting = warp.meetings[size_t(i)];
    if (meeting.arrived == 0) {
      if (!empty) empty = &meeting;
    } else if (meeting.mask == mask) {
      return meeting;
    }
  }
  return empty ? *empty : warp.meetings[size_t(warp.used++)];
}

}  // namespace

void meet(const char* name, unsigned mask, void* argument, void (*complete)(const Meeting&)) {
  const unsigned me = lane(), bit = 1u << me;
  if (!(mask & bit))
    fail_block("mask", [&] {
      return std::string(name) + ": the calling lane " + std::to_string(me) +
             " is not in its own mask " + hexadecimal(mask);
    });
  Warp& warp = warps[thread_number / kWarp];
  Meeting& meeting = find_meeting(warp, mask);
  if (meeting.arrived == 0) {
    meeting.mask = mask;
    meeting.name = name;
  } else if (meeting.name != name) {
    fail_block("divergence", [&] {
      return "lanes of one mask " + hexadecimal(mask) + " diverge: lanes " +
             lanes_text(meeting.arrived) + " are at " + meeting.name + ", lane " +
             std::to_string(me) + " is at " + name;
    });
  }
  meeting.arguments[me] = argument;
  meeting.arrived |= bit;
  if (meeting.arrived != mask) return wait_here(name, mask);
  complete(meeting);
  meeting.arrived = 0;
  const unsigned first = thread_number - me;
  for (unsigned rest = mask & ~bit; rest != 0; rest &= rest - 1)
    make_ready(int(first) + __builtin_ctz(rest));
}

namespace {

struct Shuffle {
  uint64_t value, result;
  unsigned source;
};

void complete_shuffle(const Meeting& meeting) {
  meeting.for_each([&](int lane) {
    auto& mine = meeting.argument<Shuffle>(lane);
    const unsigned source = mine.source % kWarp;
    if (meeting.mask >> source & 1u) {
      mine.result = meeting.argument<Shuffle>(int(source)).value;
      return;
    }
    report("shuffle source", [&] {
      return "shuffle: lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
             ", which is not in the mask " + hexadecimal(meeting.mask);
    });
    mine.result = ~uint64_t(0);
  });
}

struct Vote {
  bool predicate;
  unsigned result;
};

void complete_vote(const Meeting& meeting) {
  unsigned ballot = 0;
  meeting.for_each(
      [&](int lane) { ballot |= unsigned(meeting.argument<Vote>(lane).predicate) << lane; });
  meeting.for_each([&](int lane) { meeting.argument<Vote>(lane).result = ballot; });
}

struct Match {
  uint64_t value;
  unsigned result;
};

void complete_match(const Meeting& meeting) {
  meeting.for_each([&](int lane) {
    auto& mine = meeting.argument<Match>(lane);
    meeting.for_each([&](int other) {
      mine.result |= unsigned(meeting.argument<Match>(other).value == mine.value) << other;
    });
  });
}

void complete_sync(const Meeting& meeting) {
  if (!race::kDetects) return;
  std::array<uint16_t, kWarp> members;
  std::array<bool, kWarp> waits;
  waits.fill(true);
  int count = 0;
  meeting.for_each([&](int lane) {
    members[size_t(count++)] = uint16_t(thread_number / kWarp * kWarp + unsigned(lane));
  });
  race::join(members.data(), waits.data(), count);
}

}  // namespace

uint64_t shuffle(unsigned mask, uint64_t value, unsigned source_lane) {
  Shuffle mine{value, 0, source_lane};
  meet("a shuffle", mask, &mine, complete_shuffle);
  return mine.result;
}

unsigned ballot(unsigned mask, bool predicate) {
  Vote mine{predicate, 0};
  meet("a vote", mask, &mine, complete_vote);
  return mine.result;
}

unsigned match_any(unsigned mask, uint64_t value) {
  Match mine{value, 0};
  meet("__match_any_sync", mask, &mine, complete_match);
  return mine.result;
}

void sync_warp(unsigned mask) { meet("__syncwarp", mask, nullptr, complete_sync); }

void reset_collectives() {
  for (Warp& warp : warps) {
    for (int i = 0; i < warp.used; ++i) warp.meetings[size_t(i)].arrived = 0;
    warp.used = 0;
  }
}

}  // namespace olm::cuda_emulator
