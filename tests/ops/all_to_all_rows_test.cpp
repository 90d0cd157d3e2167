#include <doctest/doctest.h>

#include <olm/autograd/recompute.h>
#include <tests/support/cases/all_to_all_rows.h>
#include <tests/support/op_suite.h>
#include <tests/support/ranks.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/all_to_all_rows", all_to_all_rows_case())

namespace {

/// Rank r sends (r + 2 · to) % 3 rows to rank `to`: none to some.
int64_t rows_from_to(int from, int to) { return (from + 2 * to) % 3; }

struct Sides {
  dist::Counts sent, received;
  int64_t rows = 0;
};
Sides sides_of(const dist::Comm& comm) {
  Sides s;
  for (int r = 0; r < comm.size(); ++r) {
    s.sent.push_back(rows_from_to(comm.rank(), r));
    s.received.push_back(rows_from_to(r, comm.rank()));
    s.rows += s.sent.back();
  }
  return s;
}

/// x [rows, 2] whose values say from which rank and for which they are.
Tensor labelled(const dist::Comm& comm, const Sides& s, DType dtype) {
  std::vector<float> values;
  for (int to = 0; to < comm.size(); ++to)
    for (int64_t i = 0; i < s.sent[size_t(to)]; ++i)
      values.insert(values.end(), {float(10 * comm.rank() + to), float(i)});
  return raw::cast(from_host(values, {s.rows, 2}), dtype);
}

}  // namespace

TEST_SUITE("ops/all_to_all_rows") {
  TEST_CASE("rows come in the order of ranks, and gradients go back") {
    for (const int ranks : {2, 3, 4})
      for (const DType dtype : {f32, bf16, f16, f64})
        for (const bool again : {false, true})
          run_ranks(ranks, [&](const dist::Comm& comm) {
            const Sides s = sides_of(comm);
            const Tensor x = labelled(comm, s, dtype);
            set_requires_grad(x);
            const auto op = [&](const Tensors& in) {
              return Tensors{all_to_all_rows(in[0], s.sent, s.received, comm)};
            };
            const Tensor y = again ? recompute(op, {x}, {})[0] : op({x})[0];
            std::vector<double> wanted;
            for (int from = 0; from < ranks; ++from)
              for (int64_t i = 0; i < s.received[size_t(from)]; ++i)
                wanted.insert(wanted.end(), {double(10 * from + comm.rank()), double(i)});
            CHECK(y.dtype() == dtype);
            CHECK(to_host<double>(y) == wanted);
            backward(y, {.gradient = y});  // comes home as it went
            CHECK(to_host<double>(grad(x)) == to_host<double>(x));
          });
  }

  TEST_CASE("a rank without rows takes part") {
    run_ranks(2, [](const dist::Comm& comm) {
      const bool first = comm.rank() == 0;
      const Tensor x = zeros({first ? 3 : 0, 4});
      set_requires_grad(x);
      const Tensor y = all_to_all_rows(x, first ? dist::Counts{0, 3} : dist::Counts{0, 0},
                                       first ? dist::Counts{0, 0} : dist::Counts{3, 0}, comm);
      CHECK(y.shape() == Shape{first ? 0 : 3, 4});
      backward(y, {.gradient = ones_like(y)});
      check_same_bits(grad(x), ones_like(x), "gradient");
    });
  }

  TEST_CASE("counts that do not fit are refused") {
    const Tensor x = zeros({3, 2});
    const dist::Comm one;
    check_error([&] { all_to_all_rows(x, {2}, {2}, one); }, {"[3,2]", "sent are 2"});
    check_error([&] { all_to_all_rows(x, {3, 0}, {3}, one); }, {"sent for 1 ranks, got 2"});
    check_error([&] { all_to_all_rows(x, {3}, {}, one); }, {"received for 1 ranks, got 0"});
    check_error([&] { all_to_all_rows(x, {3}, {-1}, one); }, {"received", "rank 0", "-1"});
    check_error([&] { all_to_all_rows(arange(3), {3}, {3}, one); }, {"i64"});
  }
}
