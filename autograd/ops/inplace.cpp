#include <olm/autograd/ops/inplace.h>

#include <olm/engine/raw.h>

namespace olm {

void add_(const Tensor& x, const Tensor& y, double scale) {
  require_no_grad("add_", x);
  require_no_grad("add_", y);
  raw::add_(x, raw::expand(y, x.shape()), scale);
}

void mul_(const Tensor& x, double scale) {
  require_no_grad("mul_", x);
  raw::scale_(x, scale);
}

void fill_(const Tensor& x, double value) {
  require_no_grad("fill_", x);
  raw::fill_(x, value);
}

void copy_(const Tensor& x, const Tensor& y) {
  require_no_grad("copy_", x);
  require_no_grad("copy_", y);
  raw::copy_(x, y);
}

}  // namespace olm
