#pragma once
// Connections between ranks on one machine, threads or processes, each to each, by local sockets.
#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace olm::cuda_emulator {

class Mesh {
 public:
  /// `name` is that of all ranks alone; they find each other by it. `about` is told to the others.
  Mesh(std::string name, int rank, int size, std::string_view about);
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  /// Goes on connecting; true once it is with all. Never waits for a rank that is not there.
  bool connect();
  /// What a rank said about itself.
  const std::string& about(int rank) const { return peers_[size_t(rank)].about; }

  /// Queues a message to a rank. Messages arrive whole and in order.
  void send(int to, const void* data, size_t bytes);
  /// Moves what can be moved without waiting.
  void progress();
  bool all_sent() const;
  /// The oldest message from a rank, if one is there.
  bool receive(int from, std::vector<char>& message);

 private:
  struct Peer {
    int socket = -1;
    std::string about;
    std::vector<char> outgoing, incoming;
    size_t sent = 0;
    std::deque<std::vector<char>> messages;
  };
  void connect_to(int rank);
  void accept_one();
  void write(Peer& peer);
  void read(Peer& peer);

  std::string name_;
  int rank_;
  std::string about_;
  int listening_ = -1;
  std::vector<Peer> peers_;
};

}  // namespace olm::cuda_emulator
