// A program of its own that embeds libolm: trains a tiny model on a line of text.
#include <olm/olm.h>

#include <filesystem>
#include <iostream>
#include <memory>

namespace {

using namespace olm;
using namespace olm::nn;

/// A model goes to transformers and llama.cpp and comes back as it was.
bool travels() {
  std::filesystem::remove_all("travelled");
  std::filesystem::remove("travelled.gguf");
  const DecoderConfig config{.family = "llama",
                             .vocab_size = 257,
                             .embed_dim = 32,
                             .num_layers = 1,
                             .num_heads = 2,
                             .max_seq_len = 16};
  Pretrained mine{.model = DecoderModel(config),
                  .config = config,
                  .tokenizer = std::make_shared<ByteTokenizer>()};
  init(*mine.model, {.seed = 1});
  save_pretrained(mine, "travelled");
  save_gguf(mine, "travelled.gguf");
  const Pretrained folder = load_pretrained("travelled"), file = load_pretrained("travelled.gguf");
  const std::vector<int32_t> ids = folder.tokenizer->encode("a fox");
  const GenerateOptions likeliest{.tokens = 8, .temperature = 0};
  return generate(*folder.model, ids, likeliest) == generate(*mine.model, ids, likeliest) &&
         compare(mine, file, {"the lazy dog"}).largest_difference < 1e-4;
}

}  // namespace

int main() {
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
  return loss < 0.5f && stored && travels() ? 0 : 1;
}
