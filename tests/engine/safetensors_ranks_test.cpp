// Files that ranks write together, and what all ranks do or none has done.
#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cstdlib>

#include <olm/engine/comm.h>
#include <olm/engine/file.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>

#include <tests/support/ranks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::test;

namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

/// Tensors of several types and sizes, none of them in order of width.
Named some_tensors() {
  Tensor halves = arange(1000, {.dtype = f32});
  return {{"h", raw::cast(halves, bf16)},
          {"step", from_host<int64_t>({7}, {1})},
          {"none", zeros({0, 3})},
          {"w", raw::view(arange(6006, {.dtype = f32}), {6, 1001})},
          {"scalar", full({}, 3)}};
}

std::vector<TensorLayout> layout_of(const Named& tensors) {
  std::vector<TensorLayout> layout;
  for (const auto& [name, t] : tensors)
    layout.push_back({.name = name, .dtype = t.dtype(), .shape = t.shape()});
  return layout;
}

TensorPiece piece_of(const Named& tensors, const std::string& name, int64_t begin, int64_t end) {
  for (const auto& [known, t] : tensors)
    if (known == name)
      return {.name = name, .begin = begin, .data = raw::slice(raw::view(t, {-1}), 0, begin, end)};
  throw Error("no tensor ", name);
}

/// What each of some ranks has: an even part of "w" and "h", of the others the whole.
std::vector<TensorPiece> pieces_of(const Named& tensors, const dist::Comm& comm) {
  std::vector<TensorPiece> pieces;
  for (const auto& [name, t] : tensors) {
    const bool cut = name == "w" || name == "h";
    const int64_t n = t.numel(), r = comm.rank(), size = comm.size();
    pieces.push_back(cut ? piece_of(tensors, name, n * r / size, n * (r + 1) / size)
                         : TensorPiece{.name = name, .data = t});
  }
  return pieces;
}

/// A tensor whose memory cannot be read: writing it to a file fails.
Tensor unreadable(int64_t n) {
  const size_t bytes = size_t(n) * 4;
  void* memory = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = std::make_shared<Storage>(static_cast<std::byte*>(memory), bytes, cpu,
                                            [=] { ::munmap(memory, bytes); });
  impl->shape = {n};
  impl->strides = {1};
  impl->dtype = f32;
  return Tensor(std::move(impl));
}

/// The message of the error that `act` gives on each rank, which has to fail on all.
std::vector<std::string> messages(int ranks, const std::function<void(const dist::Comm&)>& act) {
  std::vector<std::string> result{size_t(ranks)};
  run_ranks(ranks, [&](const dist::Comm& comm) {
    result[size_t(comm.rank())] = message_of<Error>([&] { act(comm); });
  });
  return result;
}

}  // namespace

TEST_SUITE("engine/safetensors_ranks") {
  TEST_CASE("the bytes do not depend on the number of ranks") {
    const TempFolder folder;
    const Named tensors = some_tensors();
    const std::map<std::string, std::string> metadata = {{"format", "test"}};
    write_safetensors(folder / "one", tensors, metadata);
    const std::string wanted = read_file(folder / "one");
    for (const int ranks : {1, 2, 3, 5}) {
      run_ranks(ranks, [&](const dist::Comm& comm) {
        write_safetensors(folder / "many", layout_of(tensors), pieces_of(tensors, comm), metadata,
                          comm);
      });
      CHECK(read_file(folder / "many") == wanted);
    }
    CHECK(folder.entries() == 2);
  }

  TEST_CASE("what all ranks hold is shared out evenly, what is not contiguous in its order") {
    const TempFolder folder;
    const int64_t n = 5 << 20;  // 20 MiB
    run_ranks(3, [&](const dist::Comm& comm) {
      // Seen along other strides, values that tell which rank wrote them.
      const Tensor even = full({n / 2}, comm.rank()), both = raw::expand(even, {2, n / 2});
      write_safetensors(folder / "t", {{.name = "w", .shape = {2, n / 2}}},
                        {{.name = "w", .data = both}}, {}, comm);
    });
    int64_t counts[3] = {};
    for (const float x : to_host<float>(SafetensorsFile::open(folder / "t").tensor("w")))
      ++counts[size_t(x)];
    for (const int64_t count : counts) CHECK(std::abs(count - n / 3) <= 1 << 20);

    const Tensor w = raw::view(arange(6, {.dtype = f32}), {2, 3});
    run_ranks(2, [&](const dist::Comm& comm) {
      const Tensor turned = raw::transpose(w, 0, 1);
      write_safetensors(folder / "t", {{.name = "w", .shape = {3, 2}}},
                        {{.name = "w", .data = turned}}, {}, comm);
    });
    CHECK(to_host<float>(SafetensorsFile::open(folder / "t").tensor("w")) ==
          std::vector<float>{0, 3, 1, 4, 2, 5});
  }

  TEST_CASE("elements that no rank holds are named, and nothing is written") {
    const TempFolder folder;
    const std::string path = folder.file("t", "older");
    const Named tensors = some_tensors();
    for (const std::string& message : messages(3, [&](const dist::Comm& comm) {
           std::vector<TensorPiece> pieces = pieces_of(tensors, comm);
           if (comm.rank() == 1) pieces.erase(pieces.begin() + 3);  // of "w"
           write_safetensors(path, layout_of(tensors), pieces, {}, comm);
         }))
      CHECK(contains(message, "elements [2002, 4004) of \"w\", [6,1001], are held by none of 3"));
    CHECK(read_file(path) == "older");
    CHECK(folder.entries() == 1);
  }

  TEST_CASE("what does not fit the layout is refused on all ranks, by the sentence of one") {
    const TempFolder folder;
    const Named tensors = some_tensors();
    const auto write = [&](const std::function<void(std::vector<TensorPiece>&)>& spoil) {
      return messages(2, [&](const dist::Comm& comm) {
        std::vector<TensorPiece> pieces = pieces_of(tensors, comm);
        if (comm.rank() == 1) spoil(pieces);
        write_safetensors(folder / "t", layout_of(tensors), pieces, {}, comm);
      });
    };
    const auto check = [&](const char* part, const std::vector<std::string>& said) {
      CHECK(contains(said[1], part));
      CHECK(said[0] == "rank 1: " + said[1]);
    };
    check("\"other\"", write([](auto& pieces) { pieces[0].name = "other"; }));
    check("elements [3000, 6003) of dtype f64", write([](auto& p) {
            p[3] = {.name = "w", .begin = 3000, .data = zeros({3003}, {.dtype = f64})};
          }));
    check("elements [3004, 6007)",
          write([](auto& p) { p[3] = {.name = "w", .begin = 3004, .data = zeros({3003})}; }));
    check("\"w\" is on meta", write([](auto& p) { p[3].data = zeros({3003}, {.device = meta}); }));
    for (const std::string& message : messages(2, [&](const dist::Comm& comm) {
           write_safetensors(folder / "t", layout_of(tensors), pieces_of(tensors, comm),
                             {{"rank", std::to_string(comm.rank())}}, comm);
         }))
      CHECK(contains(message, "rank 1 has other names, shapes or metadata than rank 0"));
    CHECK(folder.entries() == 0);
  }

  TEST_CASE("where the disk is full, or one rank cannot write, the older file stays") {
    const TempFolder folder;
    const std::string path = folder.file("t", "older");
    const Named tensors = some_tensors();
    std::vector<std::string> said;
    {
      const FileSizeLimit limit(20000);
      said = messages(3, [&](const dist::Comm& comm) {
        write_safetensors(path, layout_of(tensors), pieces_of(tensors, comm), {}, comm);
      });
    }
    CHECK(contains(said[0], "taking 26"));
    CHECK(contains(said[0], "File too large"));
    CHECK(said[2] == "rank 0: " + said[0]);

    said = messages(3, [&](const dist::Comm& comm) {
      std::vector<TensorPiece> pieces = pieces_of(tensors, comm);
      if (comm.rank() == 2) pieces[3].data = unreadable(2002);
      write_safetensors(path, layout_of(tensors), pieces, {}, comm);
    });
    CHECK(contains(said[2], "t: writing failed"));
    CHECK(said[0] == "rank 2: " + said[2]);
    CHECK(said[1] == said[0]);
    CHECK(read_file(path) == "older");
    CHECK(folder.entries() == 1);
  }

  TEST_CASE("what all do or none: results of all, or the first error on all") {
    run_ranks(3, [](const dist::Comm& comm) {
      const auto all =
          dist::all_gather_of(comm, [&] { return std::string(size_t(comm.rank()), 'x'); });
      CHECK(all == std::vector<std::string>{"", "x", "xx"});
    });
    std::vector<std::string> kinds(3);
    run_ranks(3, [&](const dist::Comm& comm) {
      std::string& kind = kinds[size_t(comm.rank())];
      try {
        dist::together(comm, [&] {
          if (comm.rank() > 0) throw FileError("no place on ", comm.rank());
        });
      } catch (const dist::PeerError& error) {
        kind = detail::concat("peer: ", error.what());
      } catch (const FileError& error) {
        kind = detail::concat("own: ", error.what());
      }
      dist::together(comm, [] {});  // and they go on together
    });
    CHECK(kinds[0] == "peer: rank 1: no place on 1");
    CHECK(kinds[1] == "own: no place on 1");
    CHECK(kinds[2] == "peer: rank 1: no place on 1");
    // Alone, errors are what they were.
    CHECK_THROWS_AS(dist::together(dist::Comm(), [] { throw FileError("x"); }), FileError);
  }
}
