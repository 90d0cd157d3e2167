#pragma once
// Adds the parts that arrived from all ranks, in the order of a tree.
#include <vector>

#include <olm/engine/sum_tree.h>
#include <olm/engine/tensor.h>

namespace olm::dist::detail {

/// out [n] = sum over ranks of parts[rank], as `additions` says; f32 that travels in bf16 is
/// widened first. Parts but `own` are written to.
struct OrderedSum {
  DType dtype = f32, wire = f32;  ///< of sums, and of parts
  int64_t n = 0;
  std::vector<SumTree::Addition> additions = {};
  std::vector<void*> parts = {};  ///< one for each rank
  size_t own = 0;                 ///< the part that is not to be changed
  void* out = nullptr;            ///< may be the own part
};
/// On the CPU it is done when it returns, by the calling thread alone.
void add_in_order(DeviceKind where, const OrderedSum& k, const kernels::Stream& stream);

}  // namespace olm::dist::detail
