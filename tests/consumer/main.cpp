// A program of its own that embeds libolm: trains a tiny model on a line of text.
#include <olm/olm.h>

#include <iostream>

int main() {
  using namespace olm;
  using namespace olm::nn;
  set_threads(2);
  const int64_t vocab = 256, width = 32, context = 16;
  const std::string text = "the quick brown fox jumps over the lazy dog. ";
  std::vector<int64_t> ids(text.begin(), text.end());
  const Tensor inputs = from_host<int64_t>({ids.data(), size_t(context)}, {1, context});
  const Tensor targets = from_host<int64_t>({ids.data() + 1, size_t(context)}, {1, context});
  auto layer = [&] {
    return TransformerBlock({.embed_dim = width, .num_heads = 2, .max_seq_len = context});
  };
  auto model = Block({Embedding(vocab, width), Repeat(layer, 2), OutputHead(width, vocab)});
  init(model, {.seed = 1});
  AdamW optimizer(model->parameters(), {.lr = 1e-2, .clip_norm = 1.0});
  float loss = 0;
  for (int step = 0; step < 50; ++step) {
    Context ctx;
    const Tensor value = model->loss(inputs, targets, ctx);
    backward(value);
    optimizer.step();
    loss = value.item<float>();
  }
  std::cout << "loss " << loss << '\n';
  const Tensor head = model->parameter("blocks.2.blocks.1.weight");
  write_safetensors("head.safetensors", {{"head", head}});
  const bool stored =
      SafetensorsFile::open("head.safetensors").tensor("head").shape() == head.shape();
  return loss < 0.5f && stored ? 0 : 1;
}
