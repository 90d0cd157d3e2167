#include <olm/engine/comm/ordered_sum_internal.h>

#include <olm/kernels/base/run.h>
#include <olm/kernels/copy.h>
#include <olm/kernels/pointwise.h>

#include <algorithm>

namespace olm::dist::detail {
namespace {

/// Elements that are added while they are in the cache: one range of the kernels, which run it on
/// the thread that calls them.
constexpr int64_t kBlock = 4096;

void add(DeviceKind where, const OrderedSum& k, const void* a, const void* b, void* y, int64_t n,
         const kernels::Stream& stream) {
  run(where, kernels::Binary{.op = kernels::BinaryOp::add,
                             .dtype = k.dtype,
                             .a = {a, {1}},
                             .b = {b, {1}},
                             .y = y,
                             .rank = 1,
                             .shape = {n},
                             .stream = stream});
}

void convert(DeviceKind where, DType from, DType to, const void* x, void* y, int64_t n,
             const kernels::Stream& stream) {
  run(where, kernels::Copy{.from = from,
                           .to = to,
                           .x = x,
                           .y = y,
                           .rank = 1,
                           .shape = {n},
                           .x_strides = {1},
                           .y_strides = {1},
                           .stream = stream});
}

/// Elements [begin, begin + n).
void add_block(DeviceKind where, const OrderedSum& k, int64_t begin, int64_t n, char* widened,
               const kernels::Stream& stream) {
  const size_t ranks = k.parts.size(), size = size_of(k.dtype);
  char* out = static_cast<char*>(k.out) + begin * size;
  std::vector<char*> at(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    at[r] = static_cast<char*>(k.parts[r]) + begin * size_of(k.wire);
    if (k.wire == k.dtype) continue;
    char* wide = widened + r * n * size;
    convert(where, k.wire, k.dtype, at[r], wide, n, stream);
    at[r] = wide;
  }
  const char* kept = k.wire == k.dtype ? at[k.own] : nullptr;
  for (size_t i = 0; i < k.additions.size(); ++i) {
    char*& into = at[k.additions[i].into];
    const char* from = at[k.additions[i].from];
    char* y = i + 1 == k.additions.size() ? out : into != kept ? into : at[k.additions[i].from];
    add(where, k, into, from, y, n, stream);
    into = y;
  }
}

}  // namespace

void add_in_order(DeviceKind where, const OrderedSum& k, const kernels::Stream& stream) {
  if (k.n == 0) return;
  const int64_t block = where == DeviceKind::cpu ? std::min(kBlock, k.n) : k.n;
  const size_t wide = k.wire == k.dtype ? 0 : size_of(k.dtype);
  const kernels::Scratch<char> widened =
      stream.scratch<char>(std::max<size_t>(wide * k.parts.size() * block, 1));
  for (int64_t begin = 0; begin < k.n; begin += block)
    add_block(where, k, begin, std::min(block, k.n - begin), widened, stream);
}

}  // namespace olm::dist::detail
