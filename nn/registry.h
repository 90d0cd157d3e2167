#pragma once
// Things by name, for configuration files and for rebuilding models.
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <olm/nn/module.h>

namespace olm::nn {

/// A table from names to makers of T. Looking up an unknown name throws, listing the known ones.
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

/// Children of a description, by slot name ("block", "blocks.0"), in order.
using DescribedChildren = std::vector<std::pair<std::string, Ref<Module>>>;
/// Builds a layer from its options and, for layers that describe their children, those. Made of any
/// function that takes both.
class LayerMaker {
 public:
  template <class F>
  requires(std::is_invocable_r_v<Ref<Module>, F&, const Json&, DescribedChildren> &&
           !std::is_same_v<std::remove_cvref_t<F>, LayerMaker>)
      LayerMaker(F make, Json default_options = Json::object())
      : make_(std::move(make)), defaults_(std::move(default_options)) {}
  Ref<Module> operator()(const Json& options, DescribedChildren children) const {
    return make_(options, std::move(children));
  }
  /// The options with their defaults, so far as the maker knows them.
  const Json& default_options() const { return defaults_; }

 private:
  std::function<Ref<Module>(const Json&, DescribedChildren)> make_;
  Json defaults_;
};

/// Layers that model.json may name. Users add theirs: layers().add("GatedResidual", maker).
OLM_API Registry<LayerMaker>& layers();
/// What builds the layer of a name in model.json: one of layers(), or a row that was added to
/// attentions().
OLM_API LayerMaker layer_maker(const std::string& name);
OLM_API bool knows_layer(const std::string& name);
/// Activations by name (`gelu`, `silu`, …): makers of modules.
OLM_API Registry<std::function<Ref<Module>()>>& activations();
/// Norms by name (`layer_norm`, `rms_norm`): makers for a width.
OLM_API Registry<std::function<Ref<Module>(int64_t dim)>>& norms();

/// The usual maker: options from JSON, then M(options).
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
