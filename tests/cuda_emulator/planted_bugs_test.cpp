// Kernels with one defect each: in which mode it shows, and that the right kernel shows nothing in
// any.
#include <cmath>
#include <csignal>
#include <initializer_list>

#include <tests/cuda_emulator/kernels.h>
#include <tests/cuda_emulator/support.h>

using namespace olm;
using namespace olm::cuda_emulator;
using namespace olm::cuda_emulator::test;

namespace {

const std::vector<std::string> kModes = {"lazy",   "eager",        "seed=1",
                                         "seed=2", "eager,seed=3", "eager,seed=4"};

struct Outcome {
  bool wrong = false;  ///< the numbers are
  std::string reports;
};

Outcome outcome_of(const std::vector<double>& want, const std::vector<float>& got,
                   double tolerance) {
  Outcome outcome{false, report_text()};
  if (got.size() != want.size()) return outcome;  // a report stopped the kernel
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double(got[i]) - want[i], 2);
    norm += want[i] * want[i];
  }
  outcome.wrong = !(std::sqrt(error / norm) < tolerance);
  return outcome;
}

Outcome run_norm(Defect defect, const std::string& mode) {
  const Mode in(mode);
  constexpr int kRows = 8, kCols = 256;
  const std::vector<float> x = random_values(kRows * kCols);
  std::vector<double> want(x.size());
  for (int r = 0; r < kRows; ++r) {
    double sum = 0;
    for (int c = 0; c < kCols; ++c) sum += std::pow(double(x[size_t(r * kCols + c)]), 2);
    for (int c = 0; c < kCols; ++c)
      want[size_t(r * kCols + c)] = x[size_t(r * kCols + c)] / std::sqrt(sum / kCols + 1e-5);
  }
  const DeviceArray<float> device_x(x), y(x.size());
  norm(y, device_x, kRows, kCols, defect);  // in eager mode a defect shows at once
  const std::vector<float> got = y.values();
  return outcome_of(want, got, 1e-5);
}

Outcome run_gemm(Defect defect, const std::string& mode, int m = 100) {
  const Mode in(mode);
  constexpr int kN = 64, kK = 160;
  const auto a = random_values<bfloat16_t>(size_t(m * kK), 1);
  const auto b = random_values<bfloat16_t>(size_t(kN * kK), 2);
  std::vector<double> want(size_t(m * kN));
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < kN; ++j)
      for (int k = 0; k < kK; ++k)
        want[size_t(i * kN + j)] +=
            double(float(a[size_t(i * kK + k)])) * double(float(b[size_t(j * kK + k)]));
  const DeviceArray<bfloat16_t> device_a(a), device_b(b);
  const DeviceArray<float> c(want.size());
  gemm(c, device_a, device_b, m, kN, kK, defect);
  const std::vector<float> got = c.values();
  return outcome_of(want, got, 1e-6);
}

bool is_silent(const Outcome& outcome) { return !outcome.wrong && outcome.reports.empty(); }
bool watches() { return flavour() == Flavour::race; }

std::string collectives_report(Collectives what, const std::string& mode) {
  const Mode in(mode);
  const DeviceArray<int> out(64);
  collectives(out, what);
  out.values();
  return report_text();
}

}  // namespace

TEST_SUITE("cuda_emulator/planted_bugs") {
  TEST_CASE("kernels without a defect are right and silent in every mode") {
    for (const std::string& mode : kModes) {
      CAPTURE(mode);
      const Outcome of_norm = run_norm(Defect::none, mode), of_gemm = run_gemm(Defect::none, mode);
      CHECK_MESSAGE(is_silent(of_norm), of_norm.reports);
      CHECK_MESSAGE(is_silent(of_gemm), of_gemm.reports);
      CHECK(collectives_report(Collectives::right, mode) == "");
    }
  }

  TEST_CASE("a missing barrier before partial sums are read shows in order, and as a race") {
    const Outcome outcome = run_norm(Defect::no_barrier, "lazy");
    if (watches())
      CHECK(contains(outcome.reports, "race: writes what was read by thread"));
    else
      CHECK(outcome.wrong);
  }

  TEST_CASE("a missing barrier before memory is used again shows as a race only") {
    const Outcome outcome = run_norm(Defect::no_barrier_before_reuse, "lazy");
    if (watches())
      CHECK(contains(outcome.reports, "race: writes what was read by thread"));
    else
      CHECK(is_silent(outcome));
  }

  TEST_CASE("a wait for one copy group too few shows in lazy mode, not in eager mode") {
    const Outcome lazy = run_gemm(Defect::weak_wait, "lazy");
    CHECK(contains(lazy.reports, "cp.async in flight"));
    if (!watches()) CHECK(is_silent(run_gemm(Defect::weak_wait, "eager")));
  }

  TEST_CASE("a missing barrier before a buffer is filled again shows in eager random order") {
    int found = 0;
    for (int seed = 1; seed <= 3; ++seed)
      found += !is_silent(
          run_gemm(Defect::no_barrier_before_refill, "eager,seed=" + std::to_string(seed)));
    CHECK(found == 3);
    const Outcome lazy = run_gemm(Defect::no_barrier_before_refill, "lazy");
    CHECK(is_silent(lazy) == !watches());
    if (watches()) CHECK(contains(lazy.reports, "race: writes what was read"));
  }

  TEST_CASE("a shuffle of half a warp that names all lanes is a deadlock") {
    for (const std::string& mode : kModes) {
      const std::string text = collectives_report(Collectives::half_warp, mode);
      CHECK_MESSAGE(contains(text, "deadlock: threads 0-15, 32-47 wait at a shuffle (0xffffffff)"),
                    text);
      CHECK(contains(text, "threads 16-31, 48-63 have exited"));
    }
  }

  TEST_CASE("a shuffle from a lane outside the mask is reported") {
    CHECK(contains(collectives_report(Collectives::outside_mask, "lazy"),
                   "lane 0 reads lane 20, which is not in the mask 0x0000ffff"));
  }

  TEST_CASE("a lane that is not in its own mask is reported") {
    CHECK(contains(collectives_report(Collectives::own_lane_missing, "lazy"),
                   "the calling lane 0 is not in its own mask 0xffff0000"));
  }

  TEST_CASE("lanes of one mask that meet at different collectives are reported") {
    const std::string text = collectives_report(Collectives::different, "lazy");
    CHECK_MESSAGE(contains(text, "lanes 0 are at a vote, lane 1 is at a shuffle"), text);
    CHECK(contains(text, "kernel collectives_kernel, block (0, 0, 0), thread (1, 0, 0)"));
  }

  TEST_CASE("a barrier that 7 threads reach after the others have exited is reported") {
    const Outcome outcome = run_norm(Defect::extra_barrier, "lazy");
    CHECK_MESSAGE(contains(outcome.reports, "__syncthreads"), outcome.reports);
  }

  TEST_CASE("a write past the dynamic shared memory is found by AddressSanitizer and as a race") {
    if (flavour() == Flavour::address) {
      const Ending ending = run_in_child([] { run_norm(Defect::write_past_shared, "lazy"); });
      CHECK(ending.status != 0);
      CHECK(contains(ending.output, "use-after-poison"));
    } else if (watches()) {
      CHECK(contains(run_norm(Defect::write_past_shared, "lazy").reports,
                     "accesses shared memory outside the block's"));
    }
  }

  TEST_CASE("an exchange in a warp without __syncwarp shows as a race") {
    for (const Exchange what :
         {Exchange::right, Exchange::unsynchronized, Exchange::not_before_reuse}) {
      const Mode in("lazy");
      std::vector<int> values(64);
      for (int i = 0; i < 64; ++i) values[size_t(i)] = 100 + i;
      const DeviceArray<int> device(values), out(64);
      REQUIRE(exchange(out, device, what) == cudaSuccess);
      out.values();
      const char* kind = what == Exchange::right            ? ""
                         : what == Exchange::unsynchronized ? "race: reads what was written"
                                                            : "race: writes what was read";
      if (watches()) CHECK_MESSAGE(contains(report_text(), kind), report_text());
      CHECK(report_text().empty() == (what == Exchange::right || !watches()));
    }
  }

  TEST_CASE("a block that writes what another has read shows as a race, bytes of others do not") {
    for (const bool read : {false, true}) {
      const Mode in("lazy");
      const DeviceArray<uint8_t> out(128);
      REQUIRE(write_bytes(out, read) == cudaSuccess);
      REQUIRE(write_bytes(out, false) == cudaSuccess);  // the next launch comes after it
      CHECK(cudaDeviceSynchronize() == (read && watches() ? cudaErrorLaunchFailure : cudaSuccess));
      CHECK(contains(report_text(), "race: writes what was read by another block") ==
            (read && watches()));
    }
  }

  TEST_CASE("plain additions of several blocks to one number show as a race, atomics do not") {
    for (const bool atomically : {true, false}) {
      const Mode in("lazy");
      const DeviceArray<unsigned> counter(std::vector<unsigned>{0});
      REQUIRE(count_threads(counter, atomically) == cudaSuccess);
      const std::vector<unsigned> got = counter.values();
      if (!atomically && watches()) {
        CHECK(contains(report_text(), "race: reads what was written by another block"));
      } else {
        CHECK(report_text() == "");
        CHECK(got == std::vector<unsigned>{8 * 64});
      }
    }
  }

  TEST_CASE("a host that reads device memory dies of it") {
    const Ending ending = run_in_child([] {
      float* x = nullptr;
      cudaMalloc(&x, 64);
      cudaMemset(x, 0, 64);
      cudaDeviceSynchronize();
      *static_cast<volatile float*>(x);
    });
    CHECK((ending.signal == SIGSEGV || contains(ending.output, "SEGV")));
  }

  TEST_CASE("a kernel that reads host memory shows where loads are watched") {
    const Mode in("lazy");
    const std::vector<float> on_host = {5};
    const DeviceArray<float> out(1);
    REQUIRE(read_float(out, on_host.data()) == cudaSuccess);
    const std::vector<float> got = out.values();
    if (watches())
      CHECK(contains(report_text(), "thread (0, 0, 0): reads host memory at 0x"));
    else
      CHECK(got == on_host);
  }

  TEST_CASE("results that the host reads without waiting are not there in lazy mode") {
    const Mode in("lazy");
    float* pinned = nullptr;
    REQUIRE(cudaHostAlloc(&pinned, sizeof(float), cudaHostAllocDefault) == cudaSuccess);
    *pinned = 1;
    const DeviceArray<float> x(std::vector<float>{7});
    cudaStream_t stream = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    REQUIRE(cudaMemcpyAsync(pinned, x, sizeof(float), cudaMemcpyDeviceToHost, stream) == 0);
    CHECK(*pinned == 1);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(*pinned == 7);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    CHECK(cudaFreeHost(pinned) == cudaSuccess);
  }

  TEST_CASE("bank conflicts of ldmatrix are counted") {
    for (const Defect defect : {Defect::none, Defect::no_swizzle}) {
      CHECK(is_silent(run_gemm(defect, "lazy")));
      const Statistics s = statistics();
      REQUIRE(s.ldmatrix_phases > 0);
      CHECK(double(s.ldmatrix_cycles) / double(s.ldmatrix_phases) ==
            (defect == Defect::none ? 1.0 : 4.0));
    }
  }
}
