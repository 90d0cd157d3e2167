#pragma once
// What flows through a forward pass: the residual stream, and beside it everything that the pass
// depends on besides the parameters.
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <olm/engine/random.h>
#include <olm/engine/tensor.h>

namespace olm::nn {

/// Keys and values of earlier tokens, one slot per attention call in the order of the calls. A
/// forward pass over T new tokens starts with begin(), appends in every attention call, and ends
/// with advance(T).
class OLM_API KVCache {
 public:
  /// Room for `capacity` tokens of `batch` sequences in every slot; slots are allocated at first
  /// use.
  explicit KVCache(int64_t capacity) : capacity_(capacity) {}

  int64_t capacity() const { return capacity_; }
  /// Tokens held: the position of the next one.
  int64_t length() const { return length_; }
  /// A new forward pass begins: the next append goes to the first slot.
  void begin() { next_ = 0; }
  /// The pass took `tokens` tokens.
  void advance(int64_t tokens) { length_ += tokens; }
  /// Forgets all tokens but keeps the memory.
  void clear();
  /// Stores k, v [B,T,Hkv,D] behind what this call's slot holds; returns all [B,length+T,Hkv,D].
  /// With `window` > 0 only the last window + T - 1 tokens are kept and returned, in order.
  /// What a pass stored counts only once advance() was called: one that an exception cut off leaves
  /// no trace. Throws where the cache is full, shapes change, or an earlier pass left this slot
  /// out.
  std::pair<Tensor, Tensor> append(const Tensor& k, const Tensor& v, int64_t window = 0);
  size_t bytes() const;

 private:
  struct Slot {
    Tensor k, v;
    int64_t first = 0, end = 0;  // positions of the token in row 0, and behind the last one stored
  };
  /// Moves the last `kept` tokens to the front, of new memory with `rows` rows unless that is 0.
  void make_room(Slot& slot, int64_t kept, int64_t rows);
  int64_t capacity_, length_ = 0;
  size_t next_ = 0;
  std::vector<Slot> slots_;
};

/// What a layer throws where the keys in ctx.cache no longer hold: the new tokens change how those
/// before them are computed. Clear the cache and pass all tokens again, as generate() does; a pass
/// that begins with an empty cache never throws it.
class OLM_API StaleCacheError : public Error {
 public:
  using Error::Error;
};

class Module;

/// What the router of a mixture of experts did in one forward pass. See expert_loads().
struct RoutingRecord {
  const Module* router = nullptr;
  Tensor offsets = {};  ///< i32 [E+1]: expert e was chosen offsets[e+1] - offsets[e] times
  std::map<std::string, Tensor> aux_losses = {};  ///< what it added to the loss, by name
};

/// What layers report during forward passes: numbers by name, and how tokens were routed. One may
/// serve several passes, such as the micro-batches of a step. What recomputes reports once.
struct Metrics {
  std::map<std::string, double> values = {};
  std::vector<RoutingRecord> routing = {};
};

/// Travels through every forward(x, ctx). The default is inference in f32.
struct Context {
  DType dtype = f32;         ///< of activations
  Generator* rng = nullptr;  ///< set while training: dropout acts if and only if it is
  Tensor mask = {};  ///< attention mask that broadcasts to [B,H,T,S]: bool (true attends) or added
  Tensor positions = {};  ///< [B,T] i64; 0, 1, … where undefined
  Tensor documents = {};  ///< [B,T] i64: tokens attend within their document
  KVCache* cache = nullptr;
  std::vector<Tensor> aux_losses = {};  ///< scalars that layers add to the loss
  Metrics* metrics = nullptr;
  std::map<std::string, Tensor> extra = {};  ///< for modules of users
};

/// The residual stream between two layers: x + delta, not yet added, so that the addition fuses
/// with the norm that follows it. Without delta it is x.
struct OLM_API ResidualStream {
  ResidualStream(Tensor x, Tensor delta = {}) : x(std::move(x)), delta(std::move(delta)) {}
  /// The sum, which is added once: afterwards it is x, and delta is undefined.
  const Tensor& total();
  Tensor x, delta;
};

}  // namespace olm::nn
