#include <tests/cuda_emulator/mesh.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace olm::cuda_emulator {
namespace {

constexpr size_t kAbout = 64;
/// What the one that connects says first, and the other answers.
struct Greeting {
  int32_t rank;
  char about[kAbout];
};

Greeting greeting_of(int rank, std::string_view about) {
  Greeting greeting = {.rank = rank, .about = {}};
  about.copy(greeting.about, kAbout - 1);
  return greeting;
}

/// An address without a file, which goes with the socket.
socklen_t make_address(sockaddr_un& address, const std::string& name, int rank) {
  const std::string path = "olm_cuda_emulator/" + name + "/" + std::to_string(rank);
  address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path + 1, sizeof address.sun_path - 1);
  return socklen_t(offsetof(sockaddr_un, sun_path) + 1 + path.size());
}

int new_socket() {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw std::runtime_error("the CUDA emulator gets no socket");
  return fd;
}

}  // namespace

Mesh::Mesh(std::string name, int rank, int size, std::string_view about)
    : name_(std::move(name)), rank_(rank), about_(about), peers_(size_t(size)) {
  sockaddr_un address;
  const socklen_t bytes = make_address(address, name_, rank);
  listening_ = new_socket();
  if (bind(listening_, reinterpret_cast<sockaddr*>(&address), bytes) != 0 ||
      listen(listening_, size) != 0)
    throw std::runtime_error("the CUDA emulator cannot listen to other ranks");
}

Mesh::~Mesh() {
  close(listening_);
  for (const Peer& peer : peers_)
    if (peer.socket >= 0) close(peer.socket);
}

void Mesh::connect_to(int rank) {
  sockaddr_un address;
  const socklen_t bytes = make_address(address, name_, rank);
  const int fd = new_socket();
  Greeting greeting = greeting_of(rank_, about_);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), bytes) != 0 ||
      ::send(fd, &greeting, sizeof greeting, MSG_NOSIGNAL) != sizeof greeting) {
    close(fd);  // it is not there yet
    return;
  }
  peers_[size_t(rank)].socket = fd;
}

void Mesh::accept_one() {
  const int fd = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
  Greeting greeting;
  if (fd < 0) return;
  if (recv(fd, &greeting, sizeof greeting, MSG_WAITALL) != sizeof greeting ||
      size_t(greeting.rank) >= peers_.size()) {
    close(fd);
    return;
  }
  Peer& peer = peers_[size_t(greeting.rank)];
  peer.socket = fd;
  peer.about = greeting.about;
  greeting = greeting_of(rank_, about_);
  ::send(fd, &greeting, sizeof greeting, MSG_NOSIGNAL);
}

bool Mesh::connect() {
  for (int rank = 0; rank < rank_; ++rank) {
    Peer& peer = peers_[size_t(rank)];
    if (peer.socket < 0) connect_to(rank);
    Greeting greeting;
    if (peer.socket >= 0 && peer.about.empty() &&
        recv(peer.socket, &greeting, sizeof greeting, MSG_DONTWAIT) == sizeof greeting)
      peer.about = greeting.about;
  }
  // The sockets that listen are blocking: only those that have somebody waiting are accepted.
  for (;;) {
    fd_set waiting;
    FD_ZERO(&waiting);
    FD_SET(listening_, &waiting);
    timeval now = {};
    if (select(listening_ + 1, &waiting, nullptr, nullptr, &now) != 1) break;
    accept_one();
  }
  for (size_t rank = 0; rank < peers_.size(); ++rank)
    if (rank != size_t(rank_) && peers_[rank].about.empty()) return false;
  return true;
}

void Mesh::send(int to, const void* data, size_t bytes) {
  std::vector<char>& out = peers_[size_t(to)].outgoing;
  const uint64_t header = bytes;
  const char* head = reinterpret_cast<const char*>(&header);
  out.insert(out.end(), head, head + sizeof header);
  out.insert(out.end(), static_cast<const char*>(data), static_cast<const char*>(data) + bytes);
}

void Mesh::write(Peer& peer) {
  while (peer.sent < peer.outgoing.size()) {
    const ssize_t n = ::send(peer.socket, peer.outgoing.data() + peer.sent,
                             peer.outgoing.size() - peer.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) return;
    peer.sent += size_t(n);
  }
  peer.outgoing.clear();
  peer.sent = 0;
}

void Mesh::read(Peer& peer) {
  static thread_local std::vector<char> buffer(size_t(1) << 18);
  for (ssize_t n; (n = recv(peer.socket, buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0;)
    peer.incoming.insert(peer.incoming.end(), buffer.data(), buffer.data() + n);
  size_t at = 0;
  for (uint64_t bytes; peer.incoming.size() - at >= sizeof bytes;) {
    std::memcpy(&bytes, peer.incoming.data() + at, sizeof bytes);
    if (peer.incoming.size() - at - sizeof bytes < bytes) break;
    const char* data = peer.incoming.data() + at + sizeof bytes;
    peer.messages.emplace_back(data, data + bytes);
    at += sizeof bytes + bytes;
  }
  peer.incoming.erase(peer.incoming.begin(), peer.incoming.begin() + std::ptrdiff_t(at));
}

void Mesh::progress() {
  for (Peer& peer : peers_)
    if (peer.socket >= 0) {
      write(peer);
      read(peer);
    }
}

bool Mesh::all_sent() const {
  for (const Peer& peer : peers_)
    if (!peer.outgoing.empty()) return false;
  return true;
}

bool Mesh::receive(int from, std::vector<char>& message) {
  std::deque<std::vector<char>>& messages = peers_[size_t(from)].messages;
  if (messages.empty()) return false;
  message = std::move(messages.front());
  messages.pop_front();
  return true;
}

}  // namespace olm::cuda_emulator
