// The text that olm train reads: which files, and the tokens that are kept of them.
#include <tests/tools/runs.h>

using namespace olm;
using namespace olm::test;

TEST_SUITE("tools/corpus") {
  TEST_CASE("tokens of BPE are kept in the folder, and made anew where they are damaged") {
    const Corpus c;
    const std::string whole = c.folder / "whole", run = c.folder / "run";
    const std::string shard = run + "/tokens.safetensors";
    const Args bpe = {"--tokenizer=bpe:270"};
    REQUIRE(run_program(tiny_training(c.data, whole, bpe)).status == 0);
    const Result r = run_program(tiny_training(c.data, run, bpe), interrupt_at(run, 10, SIGTERM));
    REQUIRE(r.status == 128 + SIGTERM);
    const std::string tokens = read_file(shard);
    const auto made = fs::last_write_time(shard);
    REQUIRE(run_program({"train", "--resume", run}).status == 0);
    CHECK(fs::last_write_time(shard) == made);
    check_same_run(whole, run);
    std::string damaged = tokens;
    damaged[damaged.size() - 2] ^= 1;
    write_file(shard, damaged);
    REQUIRE(run_program({"train", "--resume", run}).status == 0);
    CHECK(read_file(shard) == tokens);
  }

  TEST_CASE("runs below their data are left out of it") {
    const TempFolder f;
    const std::string data = f / "corpus", first = data + "/runs/run",
                      second = data + "/runs/run-2";
    make_directories(data);
    write_file(data + "/a.txt", small_text());
    write_file(data + "/b.txt", small_text(50));
    for (const char* tokenizer : {"byte", "bpe:270"}) {
      Args args = tiny_training(".", "", {std::string("--tokenizer=") + tokenizer});
      args.erase(args.begin() + 3, args.begin() + 5);  // --out: the usual folder, runs/run
      const RunOptions there{.folder = data};
      const Result one = run_program(args, there);
      INFO(one.err);
      REQUIRE(one.status == 0);
      CHECK(one.out.find("left out") == std::string::npos);
      const Result two = run_program(args, there);
      INFO(two.err);
      REQUIRE(two.status == 0);
      CHECK(two.out.starts_with(
          "data: left out, as runs, models or tokenizers and not text: ./runs/run\n"));
      check_same_run(first, second);
      const Result resumed = run_program({"train", "--resume", second, "--steps=45"});
      INFO(resumed.err);
      REQUIRE(resumed.status == 0);
      CHECK(resumed.out.find(data + "/runs/run, " + data + "/runs/run-2\n") != std::string::npos);
      CHECK(losses(second).size() == 45);
      remove_all(data + "/runs");
    }
  }

  TEST_CASE("evaluation and tokenizers see the text that training saw") {
    const TempFolder f;
    const std::string data = f / "corpus", run = data + "/run";
    make_directories(data);
    write_file(data + "/a.txt", small_text());
    const auto learn = [&](const std::string& out) {
      const Result r =
          run_program({"tokenizer", "train", "--data", data, "--kind", "bpe:270", "--out", out});
      INFO(r.err);
      REQUIRE(r.status == 0);
      return r.out;
    };
    CHECK(learn(data + "/tokenizer.json").find("left out") == std::string::npos);
    REQUIRE(run_program(tiny_training(data, run)).status == 0);
    CHECK(learn(f / "again.json")
              .starts_with("data: left out, as runs, models or tokenizers and not text: " + run +
                           ", " + data + "/tokenizer.json\n"));
    CHECK(read_file(f / "again.json") == read_file(data + "/tokenizer.json"));
    const Result whole = run_program({"eval", run, "--data", data}),
                 alone = run_program({"eval", run, "--data", data + "/a.txt"});
    REQUIRE(whole.status == 0);
    const auto loss = [](const Result& r) { return r.out.substr(r.out.find("loss "), 40); };
    CHECK(whole.out.find("left out") != std::string::npos);
    CHECK(loss(whole) == loss(alone));
  }

  TEST_CASE("links to folders are left out, and a line says so") {
    const TempFolder f;
    make_directories(f / "corpus");
    write_file(f / "corpus/a.txt", small_text());
    fs::create_directory_symlink(f / "corpus", f / "corpus/again");
    const Result r = run_program(tiny_training(f / "corpus", f / "run", {"--steps=1"}));
    INFO(r.err);
    CHECK(r.status == 0);
    CHECK(r.out.starts_with(
        "data: left out, since links to folders are not followed: " + (f / "corpus/again") + "\n"));
  }

  TEST_CASE("a run's folder that holds text of the data is refused") {
    const TempFolder f;
    make_directories(f / "corpus/part");
    write_file(f / "corpus/part/a.txt", small_text());
    for (const char* out : {"corpus/part", "corpus", "corpus/none/../part/"})
      check_refused(tiny_training(f / "corpus", f / out),
                    {f / out, "part/a.txt", "name another folder with --out"});
    CHECK(list_files(f / "corpus").size() == 1);
    CHECK(run_program(tiny_training(f / "corpus", f / "corpus/par")).status == 0);
    CHECK(run_program(tiny_training(f / "corpus/part", f / "corpus/run")).status == 0);
  }
}
