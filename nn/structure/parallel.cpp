#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/combine.h>
#include <olm/nn/structure.h>

namespace olm::nn {
namespace {

Tensor added(const Tensors& outputs) {
  require(!outputs.empty(), "Parallel: wanted at least one branch");
  Tensor total = outputs[0];
  for (size_t i = 1; i < outputs.size(); ++i) total = total + outputs[i];
  return total;
}

}  // namespace

Merge merge::sum() {
  return {"sum", [](const Tensors& outputs, int64_t) { return added(outputs); }};
}
Merge merge::mean() {
  return {"mean", [](const Tensors& outputs, int64_t) {
            return added(outputs) * (1.0 / double(outputs.size()));
          }};
}
Merge merge::cat() {
  return {"cat", [](const Tensors& outputs, int64_t dim) { return olm::cat(outputs, dim); }};
}

ParallelModule::ParallelModule(std::vector<Ref<Module>> blocks, Merge merge, int64_t dim)
    : options{.merge = merge.name, .dim = dim},
      blocks(this, "blocks", std::move(blocks)),
      merge_(std::move(merge)) {
  require(merge_.fn != nullptr, "Parallel: wanted a merge function");
}

void ParallelModule::visit_options(FieldVisitor& v) { options.fields(v); }

Tensor ParallelModule::forward(const Tensor& x, Context& ctx) {
  Tensors outputs;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Ref<Module> branch = blocks.at(i);  // held while it runs: it may be replaced
    outputs.push_back(branch(x, ctx));
  }
  return merge_.fn(outputs, options.dim);
}

Ref<ParallelModule> Parallel(std::vector<Ref<Module>> blocks, Merge merge, int64_t dim) {
  return make<ParallelModule>(std::move(blocks), std::move(merge), dim);
}

}  // namespace olm::nn
