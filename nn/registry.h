#pragma once
// Registries: layers and their parts by name, for model.json and for options.
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <olm/nn/module.h>

namespace olm::nn {

/// A thread-safe table of T by name.
template <class T>
class Registry {
 public:
  Registry(std::string kind, std::map<std::string, T> entries)
      : kind_(std::move(kind)), entries_(std::move(entries)) {}
  /// Adds or replaces.
  void add(const std::string& name, T entry) {
    std::lock_guard lock(mutex_);
    entries_.insert_or_assign(name, std::move(entry));
  }
  /// Throws for an unknown name, listing the known ones.
  T get(const std::string& name) const {
    std::lock_guard lock(mutex_);
    const auto found = entries_.find(name);
    if (found != entries_.end()) return found->second;
    std::string known;
    for (const auto& [key, value] : entries_) known += (known.empty() ? "" : ", ") + key;
    fail("unknown ", kind_, " \"", name, "\"; known are ", known);
  }
  bool contains(const std::string& name) const {
    std::lock_guard lock(mutex_);
    return entries_.count(name) != 0;
  }
  std::vector<std::string> names() const {
    std::lock_guard lock(mutex_);
    std::vector<std::string> result;
    for (const auto& [key, value] : entries_) result.push_back(key);
    return result;
  }

 private:
  std::string kind_;
  std::map<std::string, T> entries_;
  mutable std::mutex mutex_;
};

/// Children of a layer by slot name ("block", "blocks.0"), in order.
using DescribedChildren = std::vector<std::pair<std::string, Ref<Module>>>;

/// Makes a module from its options, and from its children for layers whose description lists them:
///   activations().get("gelu")()    feed_forwards().get("ClassicFFN")(options)
/// Options are a JSON object; those left out have their defaults, and an unknown one throws.
class LayerMaker {
 public:
  using Function = std::function<Ref<Module>(const Json& options, DescribedChildren children)>;
  template <class F>
  requires(std::is_invocable_r_v<Ref<Module>, F&, const Json&, DescribedChildren> &&
           !std::is_same_v<std::remove_cvref_t<F>, LayerMaker>)
      LayerMaker(F make, Json default_options = Json::object())
      : make_(std::move(make)), defaults_(std::move(default_options)) {}
  /// For modules without options.
  template <class F>
  requires(std::is_invocable_r_v<Ref<Module>, F&>) LayerMaker(F make)
      : make_([make = std::move(make)](const Json& options, DescribedChildren) -> Ref<Module> {
          const Ref<Module> module = make();
          require(options.size() == 0, module->type_name(), ": takes no options, got ",
                  options.dump());
          return module;
        }),
        defaults_(Json::object()) {}
  Ref<Module> operator()(const Json& options = Json::object(),
                         DescribedChildren children = {}) const {
    return make_(options, std::move(children));
  }
  /// The default options, so far as the maker knows them.
  const Json& default_options() const { return defaults_; }

 private:
  Function make_;
  Json defaults_;
};

/// Layers that model.json may name. Users add theirs: layers().add("GatedResidual", maker).
OLM_API Registry<LayerMaker>& layers();
/// The maker of the layer that model.json calls `name`: from layers(), or from a row that was added
/// to attentions() or one of the registries below.
OLM_API LayerMaker layer_maker(const std::string& name);
OLM_API bool knows_layer(const std::string& name);

// Makers by kind. An entry that users add can be named in options of this kind, and in model.json
// where its name is the module's type_name().

/// Activations: `gelu`, `silu`, …. ClassicFFN takes those that are no gated units, GatedFFN those
/// that are.
OLM_API Registry<LayerMaker>& activations();
/// Norms: `layer_norm`, `rms_norm`. Their option `dim` is the width.
OLM_API Registry<LayerMaker>& norms();
/// Position embeddings: `absolute`, `rotary`, `alibi`, …. Their size is `embed_dim` where they are
/// added at the input, `head_dim` for RoPE, `num_heads` for ALiBi; their limit is `max_seq_len`.
OLM_API Registry<LayerMaker>& positions();
/// FFNs under the names of their factories. Their options include `embed_dim`, `hidden_dim` and
/// `dropout`.
OLM_API Registry<LayerMaker>& feed_forwards();

/// The norm called `name` over `dim` numbers, with other options of its kind: {"eps": 1e-6}.
OLM_API Ref<Module> Norm(const std::string& name, int64_t dim, Json options = Json::object());

/// The maker of a layer M that is constructed from its options.
template <class M>
LayerMaker layer_maker(std::string name) {
  using Options = decltype(std::declval<M>().options);
  return {[name = std::move(name)](const Json& json, DescribedChildren) -> Ref<Module> {
            Options options;
            from_json(json, options, name);
            return make<M>(std::move(options));
          },
          to_json(Options())};
}

}  // namespace olm::nn
