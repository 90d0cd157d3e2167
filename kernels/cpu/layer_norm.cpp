// LayerNorm: the norm of add_norm without a residual.
#include <olm/kernels/add_norm.h>
#include <olm/kernels/layer_norm.h>

namespace olm::kernels {

void run(Cpu, const LayerNormForward& k) {
  run(Cpu{}, AddNormForward{.dtype = k.dtype,
                            .y = k.y,
                            .mean = k.mean,
                            .rstd = k.rstd,
                            .x = k.x,
                            .weight = k.gamma,
                            .bias = k.beta,
                            .rows = k.rows,
                            .cols = k.cols,
                            .eps = k.eps,
                            .centered = true,
                            .stream = k.stream});
}

void run(Cpu, const LayerNormBackward& k) {
  run(Cpu{}, AddNormBackward{.dtype = k.dtype,
                             .dx = k.dx,
                             .dweight = k.dgamma,
                             .dbias = k.dbeta,
                             .dy = k.dy,
                             .sum = k.x,
                             .weight = k.gamma,
                             .mean = k.mean,
                             .rstd = k.rstd,
                             .rows = k.rows,
                             .cols = k.cols,
                             .centered = true,
                             .accumulate_weight = k.accumulate_gamma,
                             .accumulate_bias = k.accumulate_beta,
                             .stream = k.stream});
}

}  // namespace olm::kernels
