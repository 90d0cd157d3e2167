// Grouped GEMM by tensor cores in bf16: mma.m16n8k16, sums in f32. A block makes 128 x 128 of a
// group's C (mma.cuh), or 64 x 64 where groups or matrices are small. Operands of that dtype whose
// rows begin at multiples of 16 bytes come by cp.async; f32 weights, and what is not so aligned,
// are rounded while they are loaded. Traffic: A once for each 128 columns of C, B of a group once
// for each 128 of its rows, from L2 after the first time.
#include <olm/kernels/cuda/grouped_gemm/mma_kernels.cuh>

namespace olm::kernels::cuda_grouped {

template void run_mma<bfloat16_t>(const GroupedGemm& g, Call call);

}  // namespace olm::kernels::cuda_grouped
