#include <olm/nn/cost.h>

#include <algorithm>
#include <set>

#include <olm/autograd/tape.h>
#include <olm/engine/allocator.h>
#include <olm/nn/model_io.h>

namespace olm::nn {
namespace {

/// An error that says already where it comes from.
struct LocatedError : Error {
  using Error::Error;
};

/// Stands in the place of a layer, and notes what passes.
class Probe final : public Module {
 public:
  Probe(Ref<Module> layer, std::string path, std::vector<TracedLayer>& rows)
      : layer_(std::move(layer)), path_(std::move(path)), rows_(rows) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    const size_t row = rows_.size();
    rows_.push_back({path_, layer_->type_name(), x.shape(), {}});
    try {
      const Tensor y = layer_(x, ctx);
      rows_[row].out = y.shape();
      return y;
    } catch (const LocatedError&) {
      throw;
    } catch (const Error& error) {
      throw LocatedError(json_path(path_), ": ", error.what(), " (the layer is a ",
                         layer_->type_name(), " and was given ", x.shape(), ")");
    }
  }
  std::string type_name() const override { return "Probe"; }

 private:
  Ref<Module> layer_;
  std::string path_;
  std::vector<TracedLayer>& rows_;
};

/// Puts probes around what a structure was given, innermost first.
void add_probes(Module& module, const std::string& path, std::vector<TracedLayer>& rows) {
  if (!module.describes_children()) return;
  for (const auto& [name, slot] : module.children()) {
    const std::string at = path.empty() ? name : path + "." + name;
    add_probes(*slot->module(), at, rows);
    slot->replace(make<Probe>(slot->module(), at, rows));
  }
}

/// The same architecture on meta, filled so that it can run.
Ref<Module> copy_on_meta(Module& model) {
  const Ref<Module> copy = unfilled_copy(model);
  init(*copy, {.device = meta});
  copy->to(meta);
  return copy;
}

Tensor ids_on_meta(int64_t batch, int64_t time) {
  require(batch >= 1 && time >= 1, "wanted at least one sequence and one token, got [", batch, ",",
          time, "]");
  return empty({batch, time}, {i64, meta});
}

double in_use() { return double(memory_stats(meta).in_use); }
double peak() { return double(memory_stats(meta).peak); }

double parameter_bytes(Module& model, bool trained_only) {
  return 4.0 * double(model.num_parameters(trained_only));
}

/// Watches the memory of one pass of a model on meta.
class PassObserver {
 public:
  explicit PassObserver(Module& model) : before_(in_use()) {
    std::set<const TensorImpl*> seen;  // tied ones once
    model.for_each_parameter([&](const std::string& key, Parameter& p) {
      if (!p.trainable() || !seen.insert(&p.handle().impl()).second) return;
      on_grad(p.handle(), [this, key](const Tensor& gradient) { note(key, gradient); });
    });
    reset_peak_memory(meta);
  }
  PassMemory take() {
    memory_.rest = peak() - before_ - arrived_;
    return std::move(memory_);
  }

 private:
  /// Gradients stay with their leaves, and are taken off here.
  void note(const std::string& key, const Tensor& gradient) {
    const double bytes = double(gradient.numel()) * double(size_of(gradient.dtype()));
    const double most = peak() - before_ - arrived_;
    arrived_ += bytes;
    memory_.arrivals.push_back({key, bytes, most, in_use() - before_ - arrived_});
    reset_peak_memory(meta);
  }

  double before_, arrived_ = 0;
  PassMemory memory_;
};

double cache_bytes(Module& model, const CostOptions& o) {
  const NoGrad guard;
  KVCache cache(o.context);
  Context ctx{.dtype = o.dtype, .cache = &cache};
  cache.begin();
  model.forward(ids_on_meta(o.batch, 1), ctx);
  return double(cache.bytes());
}

}  // namespace

std::vector<TracedLayer> trace(Module& model, int64_t batch, int64_t time) {
  const NoGrad guard;
  std::vector<TracedLayer> rows;
  const Ref<Module> copy = copy_on_meta(model);
  add_probes(*copy, "", rows);
  const Ref<Module> root = make<Probe>(copy, "", rows);
  root(ids_on_meta(batch, time));
  return rows;
}

double PassMemory::gradient_bytes() const {
  double sum = 0;
  for (const Arrival& a : arrivals) sum += a.bytes;
  return sum;
}

double PassMemory::peak(double before, double after) const {
  double waiting = gradient_bytes(), arrived = 0, most = 0;
  for (const Arrival& a : arrivals) {
    most = std::max(most, a.peak + before * waiting + after * arrived);
    waiting -= a.bytes;
    arrived += a.bytes;
  }
  return std::max(most, rest + after * arrived);
}

PassMemory pass_memory(Module& model, const CostOptions& o) {
  const Ref<Module> copy = copy_on_meta(model);
  const Tensor ids = ids_on_meta(o.batch, o.context);
  PassObserver observer(*copy);
  Generator rng(0);  // as in training
  Context ctx{.dtype = o.dtype, .rng = &rng};
  backward(copy->loss(ids, ids, ctx));
  return observer.take();
}

Cost cost_of(Module& model, const CostOptions& o) {
  Cost cost{.parameters = model.num_parameters(), .trained = model.num_parameters(true)};
  cost.forward_flops_per_token = forward_flops_per_token(model, o.context);
  cost.training_flops_per_token = 3 * cost.forward_flops_per_token;
  cost.weights = parameter_bytes(model, false);
  cost.gradients = parameter_bytes(model, true);
  cost.moments = o.moments * cost.gradients;
  const Ref<Module> copy = copy_on_meta(model);
  const PassMemory pass = pass_memory(model, o);
  cost.activations = std::max(pass.arrivals.empty() ? pass.rest : pass.arrivals.front().peak,
                              pass.peak(0, 1) - cost.gradients);
  cost.kv_cache = cache_bytes(*copy, o);
  return cost;
}

}  // namespace olm::nn
