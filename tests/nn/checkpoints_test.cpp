// Checkpoints that ranks write and read together.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/tape.h>
#include <olm/engine/file.h>
#include <olm/engine/raw.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/linear.h>
#include <olm/nn/structure.h>
#include <olm/nn/training.h>

#include <tests/support/checks.h>
#include <tests/support/ranks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kRows = 6000, kWidth = 48;  // several blocks of ranges, and of hashes

/// A table that is large enough to be cut among ranks, and layers that are not.
Ref<Module> make_model(uint64_t seed = 1) {
  Ref<Module> model = Block({Embedding(kRows, kWidth), Linear(kWidth, 8), Linear(8, 2)});
  init(model, {.seed = seed});
  return model;
}

/// One step on gradients that depend on the number of the step alone.
void train(Module& model, Optimizer& optimizer, int steps) {
  for (int step = 1; step <= steps; ++step) {
    Tensor loss;
    for (const Tensor& p : model.parameters()) {
      const Tensor part = sum(p * p) * (0.5 * step);
      loss = loss.defined() ? loss + part : part;
    }
    backward(loss);
    optimizer.step();
  }
}

/// Rank r's ranges: whole small parameters in turn, a part of the large one.
std::vector<ParameterRange> ranges_of(const Optimizer& optimizer, const dist::Comm& comm) {
  std::vector<ParameterRange> ranges;
  const Tensors parameters = optimizer.parameters();
  const int64_t block = kernels::kNormBlock;
  for (int64_t i = 0; i < int64_t(parameters.size()); ++i) {
    const int64_t n = parameters[size_t(i)].numel(), blocks = (n + block - 1) / block;
    for (int64_t b = 0; b < blocks; ++b)
      if ((i + b) % comm.size() == comm.rank())
        ranges.push_back({i, b * block, std::min(n, (b + 1) * block)});
  }
  return ranges;
}

CheckpointState state_at(int64_t step, std::optional<double> val_loss = {}) {
  CheckpointState state{.step = step, .total_steps = 9};
  state.val_loss = val_loss;
  return state;
}

/// Path and bytes of all files below a folder.
std::vector<std::pair<std::string, std::string>> files_of(const std::string& folder) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const std::string& path : list_files(folder))
    files.emplace_back(path.substr(folder.size()), read_file(path));
  return files;
}

void check_same(Module& a, Module& b) {
  const Tensors x = a.parameters(), y = b.parameters();
  REQUIRE(x.size() == y.size());
  for (size_t i = 0; i < x.size(); ++i) check_same_bits(x[i], y[i], std::to_string(i));
}

void check_same(const Optimizer& a, const Optimizer& b) {
  const auto x = a.state_dict(), y = b.state_dict();
  REQUIRE(x.size() == y.size());
  for (const auto& [name, t] : x) check_same_bits(t, y.at(name), name);
}

/// A checkpoint of step 1, after two steps.
void save_one(const std::string& folder, Module& model, Optimizer& optimizer) {
  train(model, optimizer, 2);
  Checkpoints(folder).save(state_at(1), model, optimizer);
}

/// Rewrites state.json as it was in version 1, whose hashes are those of whole files.
void make_version_1(const std::string& checkpoint) {
  const Json now = read_json(checkpoint + "/state.json");
  Json before = Json::object();
  for (const auto& [key, value] : now.members()) {
    if (key == "hash") continue;
    before.append(key, key == "version" ? Json(1) : value);
    if (key != "files") continue;
    for (const auto& [file, hash] : value.members())
      before["files"][file] = hash_hex(read_file(checkpoint + "/" + file));
  }
  before["hash"] = hash_hex(before.dump());
  write_json(checkpoint + "/state.json", before);
}

}  // namespace

TEST_SUITE("nn/checkpoints") {
  TEST_CASE("files are the same for any number of ranks, whole moments on each or parts") {
    const TempFolder alone;
    const Ref<Module> model = make_model();
    AdamW optimizer(model->parameters(), {});
    save_one(alone.path(), *model, optimizer);
    const auto wanted = files_of(alone.path());
    CHECK(wanted.size() == 3);
    for (const int ranks : {2, 3})
      for (const bool parts : {false, true}) {
        CAPTURE(ranks);
        CAPTURE(parts);
        const TempFolder shared;
        run_ranks(ranks, [&](const dist::Comm& comm) {
          const Ref<Module> mine = make_model();
          AdamW own(mine->parameters(), {});
          train(*mine, own, 2);
          if (parts) own.set_ranges(ranges_of(own, comm));
          Checkpoints(shared.path()).save(state_at(1), *mine, own, comm);
        });
        CHECK(files_of(shared.path()) == wanted);
      }
  }

  TEST_CASE("each number of ranks reads what another wrote, each rank what it wants") {
    const TempFolder folder;
    const Ref<Module> model = make_model();
    AdamW optimizer(model->parameters(), {});
    save_one(folder.path(), *model, optimizer);
    for (const bool version_1 : {false, true}) {
      if (version_1) make_version_1(Checkpoints(folder.path()).path(1));
      run_ranks(3, [&](const dist::Comm& comm) {
        const Ref<Module> mine = make_model(2);
        AdamW own(mine->parameters(), {});
        own.set_ranges(ranges_of(own, comm));
        const Checkpoints checkpoints(folder.path());
        checkpoints.load(1, *mine, own, comm);
        check_same(*mine, *model);
        Checkpoints(folder / "again").save(checkpoints.state(1), *mine, own, comm);
      });
      const Ref<Module> back = make_model(3);
      AdamW whole(back->parameters(), {});
      Checkpoints(folder / "again").load(1, *back, whole);
      check_same(*back, *model);
      check_same(whole, optimizer);
    }
  }

  TEST_CASE("what another rank keeps is not written and not read") {
    const TempFolder alone, shared;
    const Ref<Module> model = make_model();
    AdamW optimizer(model->parameters(), {});
    save_one(alone.path(), *model, optimizer);
    std::map<std::string, Tensor> wanted;
    for (const auto& [key, value] : model->state_dict()) wanted[key] = value;
    run_ranks(2, [&](const dist::Comm& comm) {
      const Ref<Module> mine = make_model();
      AdamW own(mine->parameters(), {});
      train(*mine, own, 2);
      std::vector<ParameterRange> ranges;
      for (int64_t i = 0; i < 5; ++i)
        if ((i == 0) == (comm.rank() == 0))
          ranges.push_back({i, 0, own.parameters()[size_t(i)].numel()});
      own.set_ranges(ranges);
      // The table is on rank 0 alone, the first linear layer on rank 1.
      const char* away = comm.rank() == 0 ? "blocks.1.weight" : "blocks.0.embedding.weight";
      mine->parameter(away).keep_elsewhere();
      Checkpoints checkpoints(shared.path());
      checkpoints.save(state_at(1), *mine, own, comm);
      for (const Tensor& p : mine->parameters())
        if (p.device() != meta) raw::fill_(p, 7);
      checkpoints.load(1, *mine, own, comm);
      for (const auto& [key, value] : mine->state_dict()) {
        CHECK((value.device() == meta) == (key == away));
        if (key != away) check_same_bits(value, wanted.at(key), key);
      }
    });
    CHECK(files_of(shared.path()) == files_of(alone.path()));
  }

  TEST_CASE("where one rank fails all do, and what was there before stays") {
    const TempFolder folder;
    run_ranks(3, [&](const dist::Comm& comm) {
      const Ref<Module> mine = make_model();
      AdamW own(mine->parameters(), {});
      train(*mine, own, 2);
      own.set_ranges(ranges_of(own, comm));
      Checkpoints checkpoints(folder.path(), 1);
      checkpoints.save(state_at(1), *mine, own, comm);
      const auto before = files_of(folder.path());
      const auto check_unchanged = [&] {
        comm.barrier();
        CHECK(files_of(folder.path()) == before);
        comm.barrier();
      };
      Parameter& w = mine->parameter("blocks.2.weight");
      const Tensor good = raw::alias(w.handle());
      if (comm.rank() == 1) w.assign(zeros(w.shape(), {.dtype = bf16}));
      for (const int64_t step : {1, 2})
        check_error([&] { checkpoints.save(state_at(step), *mine, own, comm); },
                    {"rank 1 has other names, shapes or metadata"});
      check_unchanged();
      w.assign(good);
      if (comm.rank() == 1) own.set_ranges({});
      for (const int64_t step : {1, 2})
        check_error([&] { checkpoints.save(state_at(step), *mine, own, comm); },
                    {"\"exp_avg.", "are held by none of 3 ranks"});
      check_unchanged();
    });
    size_t entries = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(folder / "checkpoints"))
      ++entries;
    CHECK(entries == 1);
  }

  TEST_CASE("damage anywhere in a file is seen on all ranks, and nothing is loaded") {
    const TempFolder folder;
    const Ref<Module> model = make_model();
    AdamW optimizer(model->parameters(), {});
    save_one(folder.path(), *model, optimizer);
    const std::string path = Checkpoints(folder.path()).path(1) + "/optimizer.safetensors";
    const std::string good = read_file(path);
    for (const bool version_1 : {false, true}) {
      if (version_1) {
        write_file(path, good);
        make_version_1(Checkpoints(folder.path()).path(1));
      }
      std::string bad = good;
      bad[bad.size() / 2] ^= 1;
      write_file(path, bad);
      run_ranks(2, [&](const dist::Comm& comm) {
        const Ref<Module> mine = make_model(2), same = make_model(2);
        AdamW own(mine->parameters(), {});
        check_error([&] { Checkpoints(folder.path()).load(1, *mine, own, comm); },
                    {"optimizer.safetensors: is damaged", "000001 to go on"});
        check_same(*mine, *same);
      });
    }
  }

  TEST_CASE("the newest and the best stay, also where ranks write") {
    const TempFolder folder;
    run_ranks(2, [&](const dist::Comm& comm) {
      const Ref<Module> mine = make_model();
      AdamW own(mine->parameters(), {});
      Checkpoints checkpoints(folder.path(), 1);
      const double losses[] = {2, 1, 3};
      for (int64_t step = 1; step <= 3; ++step)
        checkpoints.save(state_at(step, losses[step - 1]), *mine, own, comm);
    });
    CHECK(Checkpoints(folder.path()).steps() == std::vector<int64_t>{2, 3});
  }

  TEST_CASE("one that is saved again is there at any moment, one that is removed never in part") {
    const TempFolder folder;
    folder.file("a/x", "");
    folder.file("b/x", "");
    const std::string a = folder / "a", b = folder / "b";
    if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) != 0) {
      MESSAGE("skipped: this file system does not exchange names");
      return;
    }
    const Ref<Module> model = make_model();
    AdamW optimizer(model->parameters(), {});
    Checkpoints checkpoints(folder.path(), 1);
    const auto save = [&](int64_t step) { checkpoints.save(state_at(step), *model, optimizer); };
    save(1);
    const std::string path = checkpoints.path(1), file = path + "/state.json";
    std::atomic<bool> done = false, is_removed = false, was_gone = false, was_cut = false;
    std::thread watch([&] {
      while (!done) {
        const bool gone = !file_exists(file);
        was_gone = was_gone || (gone && !is_removed);
        was_cut = was_cut || (gone && folder_exists(path));
      }
    });
    for (int i = 0; i < 4; ++i) save(1);
    for (int i = 0; i < 500; ++i) std::ofstream(path + "/more" + std::to_string(i));
    is_removed = true;
    save(2);
    done = true;
    watch.join();
    CHECK_FALSE(was_gone);
    CHECK_FALSE(was_cut);
    CHECK_FALSE(folder_exists(path));
    size_t entries = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(folder / "checkpoints"))
      ++entries;
    CHECK(entries == 1);
  }

  TEST_CASE("a folder that ranks do not share is refused, naming rank and machine") {
    const TempFolder folder;
    run_ranks(3, [&](const dist::Comm& comm) {
      require_shared_folder(folder / "new/one", comm);
      CHECK(folder_exists(folder / "new/one"));
      const std::string own = folder / (comm.rank() == 2 ? "elsewhere" : "new/one");
      check_error([&] { require_shared_folder(own, comm); },
                  {"rank 2 on ", "does not see there what rank 0 on ", "share"});
    });
    CHECK(folder.entries() == 1);
    CHECK(std::filesystem::is_empty(folder / "new/one"));
    // A folder of the same name on another disk, with a file of the same name.
    folder.file("elsewhere/.shared.tmp-" + std::to_string(::getpid()) + "-0", "of others");
    run_ranks(2, [&](const dist::Comm& comm) {
      const std::string own = folder / (comm.rank() == 1 ? "elsewhere" : "new/one");
      check_error([&] { require_shared_folder(own, comm); }, {"rank 1 on ", "share"});
    });
  }
}
