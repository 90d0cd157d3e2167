// A program of its own that trains on the ranks that mpirun started, or alone, to the same bits:
// ranks FILE writes the weights to FILE.
#include <olm/olm.h>

#include <iostream>
#include <string>

int main(int, char** argv) {
  using namespace olm;
  using namespace olm::nn;
  dist::init();
  std::string text;
  for (int i = 0; i < 50; ++i) text += "the quick brown fox jumps over the lazy dog. ";
  const std::vector<int32_t> ids(text.begin(), text.end());
  const TokenDataset train = TokenDataset::from_ids(ids, 257);
  auto layer = [] {
    return TransformerBlock({.embed_dim = 32, .num_heads = 2, .max_seq_len = 16, .dropout = 0.1});
  };
  auto model = Block({Embedding(257, 32), Repeat(layer, 2), OutputHead(32, 257)});
  init(model, {.seed = 1});
  AdamW optimizer(model->parameters(), {.lr = 1e-2, .clip_norm = 1.0});
  DataParallel parallel(optimizer, {.micro_batches = 4});
  const Loader loader(train, {.batch = 2, .context = 16});
  double loss = 0;
  for (int64_t step = 0; step < 30; ++step) {
    for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {
      const Batch batch = loader.at(step * 4 + i);
      Generator rng(derive_seed(1, std::to_string(step * 4 + i)));
      Context ctx{.rng = &rng};
      const Tensor mean = model->loss(batch.inputs, batch.targets, ctx);
      parallel.backward(mean, count_targets(batch.targets), ctx.aux_losses);
    }
    loss = parallel.step().loss;
  }
  if (dist::world().rank() != 0) return 0;
  std::cout << dist::world().size() << " ranks: loss " << loss << '\n';
  save_weights(*model, argv[1]);
  return loss < 1 ? 0 : 1;
}
