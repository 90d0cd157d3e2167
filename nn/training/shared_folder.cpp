#include <unistd.h>

#include <random>

#include <olm/engine/file.h>
#include <olm/nn/training.h>

namespace olm::nn {

namespace {

/// "rank 3 on HOST"
std::string place_of(const dist::Comm& comm) {
  return detail::concat("rank ", comm.rank(), " on ",
                        dist::hosts().at(size_t(dist::world().rank())));
}

/// A file that only one process can have written, gone with this object.
class Probe {
 public:
  explicit Probe(const std::string& folder)
      : name_("/.shared.tmp-" + std::to_string(::getpid()) + "-0"), path_(folder + name_) {
    std::random_device random;
    for (int i = 0; i < 4; ++i) content_ += std::to_string(random()) + " ";
    write_file(path_, content_);
  }
  ~Probe() { ::unlink(path_.c_str()); }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  const std::string& name() const { return name_; }
  const std::string& content() const { return content_; }

 private:
  std::string name_, path_, content_;
};

}  // namespace

void require_shared_folder(const std::string& folder, const dist::Comm& comm) {
  std::unique_ptr<const Probe> probe;
  const std::string said = dist::all_gather_of(comm, [&] {
                             if (comm.rank() != 0) return std::string();
                             make_directories(folder);
                             probe = std::make_unique<Probe>(folder);
                             Json json;
                             json["name"] = probe->name();
                             json["content"] = probe->content();
                             json["place"] = place_of(comm);
                             return json.dump();
                           }).front();
  const Json wanted = Json::parse(said, "what rank 0 wrote");
  dist::together(comm, [&] {
    const std::string path = folder + wanted.at("name").as_string();
    if (!file_exists(path) || read_file(path) != wanted.at("content").as_string())
      throw FileError(folder, ": ", place_of(comm), " does not see there what ",
                      wanted.at("place").as_string(),
                      " wrote; all ranks need the folder, on a file system that they share");
    FileWriter(path, path).write_at(0, "", 0);
  });
}

}  // namespace olm::nn
