#include <cmath>
#include <iomanip>
#include <locale>
#include <ostream>

#include <olm/engine/raw.h>
#include <olm/engine/tensor.h>

namespace olm {
namespace {

constexpr int64_t kEdge = 3, kWhole = 8;  // sizes above kWhole show kEdge entries at both ends

void print_value(std::ostream& out, const Tensor& x) {
  if (is_float(x.dtype()))
    out << std::setw(9) << (std::isnan(x.item<double>()) ? NAN : x.item<double>());
  else if (x.dtype() == boolean)
    out << (x.item<bool>() ? "true" : "false");
  else
    out << x.item<int64_t>();
}

void print_values(std::ostream& out, const Tensor& x, int indent) {
  if (x.rank() == 0) return print_value(out, x);
  const int64_t n = x.shape()[0];
  out << '[';
  for (int64_t i = 0; i < n; ++i) {
    if (i > 0) {
      out << ',';
      if (x.rank() > 1)
        out << '\n' << std::string(size_t(indent) + 1, ' ');
      else
        out << ' ';
    }
    if (n > kWhole && i == kEdge) {
      out << "...";
      i = n - kEdge - 1;
      continue;
    }
    print_values(out, raw::select(x, 0, i), indent + 1);
  }
  out << ']';
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Tensor& x) {
  if (!x.defined()) return out << "tensor(undefined)";
  std::ostringstream text;  // its own stream: the caller's precision stays as it is
  text.imbue(std::locale::classic());
  text << std::setprecision(5);
  if (x.device().kind != DeviceKind::meta) print_values(text, raw::to(x, cpu), 0);
  text << (x.device().kind == DeviceKind::meta ? "" : " ") << x.dtype() << ' ' << x.shape() << ' '
       << x.device();
  return out << text.str();
}

}  // namespace olm
