// RMSNorm: the norm of add_norm without a residual.
#include <olm/kernels/add_norm.h>
#include <olm/kernels/rms_norm.h>

namespace olm::kernels {

void run(Cpu, const RMSNormForward& k) {
  run(Cpu{}, AddNormForward{.dtype = k.dtype,
                            .y = k.y,
                            .rstd = k.rstd,
                            .x = k.x,
                            .weight = k.w,
                            .rows = k.rows,
                            .cols = k.cols,
                            .eps = k.eps,
                            .stream = k.stream});
}

void run(Cpu, const RMSNormBackward& k) {
  run(Cpu{}, AddNormBackward{.dtype = k.dtype,
                             .dx = k.dx,
                             .dweight = k.dw,
                             .dy = k.dy,
                             .sum = k.x,
                             .weight = k.w,
                             .rstd = k.rstd,
                             .rows = k.rows,
                             .cols = k.cols,
                             .accumulate_weight = k.accumulate,
                             .stream = k.stream});
}

}  // namespace olm::kernels
