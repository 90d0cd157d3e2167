#include <olm/engine/file.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

namespace olm {

namespace fs = std::filesystem;

namespace {

std::string text_of(int error) { return std::generic_category().message(error); }

std::string folder_of(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

/// A name for what is not yet complete; no other call in this process gives it.
std::string name_beside(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  return path + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
}

/// Closes a descriptor when the scope ends.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  // Non-blocking, so that a named pipe is refused below and not waited for.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) throw FileError(path, ": cannot be opened: ", text_of(errno));
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) throw FileError(path, ": cannot be examined: ", text_of(errno));
  if (S_ISDIR(info.st_mode)) throw FileError(path, ": is a folder, a file was wanted");
  if (!S_ISREG(info.st_mode))
    throw FileError(path, ": is a device or pipe, a regular file was wanted");
  const size_t size = size_t(info.st_size);
  std::byte* data = nullptr;
  if (size > 0) {
    void* map =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.fd, 0);
    if (map == MAP_FAILED) throw FileError(path, ": cannot be mapped: ", text_of(errno));
    data = static_cast<std::byte*>(map);
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, data, size));
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, size_);
}

void MappedFile::release(size_t begin, size_t bytes) const {
  const size_t page = size_t(::sysconf(_SC_PAGESIZE)), end = std::min(begin + bytes, size_);
  const size_t first = (begin + page - 1) / page * page;
  const size_t last = end == size_ ? (size_ + page - 1) / page * page : end / page * page;
  if (first < last) ::madvise(data_ + first, last - first, MADV_DONTNEED);
}

FileWriter::FileWriter(const std::string& path) : path_(path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    throw FileError(path, ": cannot be written: it is ",
                    S_ISDIR(info.st_mode) ? "a folder" : "not a regular file");
  for (int attempt = 0; attempt < 100 && file_ < 0; ++attempt) {
    aside_ = name_beside(path);
    file_ = ::open(aside_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0 && errno != EEXIST) break;
  }
  if (file_ < 0) throw FileError(path, ": cannot be created: ", text_of(errno));
}

FileWriter::FileWriter(const std::string& path, const std::string& aside)
    : path_(path), aside_(aside), owner_(false) {
  file_ = ::open(aside.c_str(), O_WRONLY | O_CLOEXEC);
  if (file_ < 0) throw FileError(path, ": cannot be opened as ", aside, ": ", text_of(errno));
}

FileWriter::~FileWriter() { close(); }

void FileWriter::close() {
  if (file_ < 0) return;
  ::close(file_);
  file_ = -1;
  if (owner_) ::unlink(aside_.c_str());
}

void FileWriter::fail_with(const char* doing, int error) {
  close();
  throw FileError(path_, ": ", doing, " failed after ", written_, " bytes: ", text_of(error),
                  " (what was there before is unchanged)");
}

void FileWriter::reserve(size_t bytes) {
  require(file_ >= 0, path_, ": written to after the file was closed");
  if (bytes == 0) return;
  int done = 0;
  do done = ::fallocate(file_, 0, 0, off_t(bytes));
  while (done != 0 && errno == EINTR);
  if (done != 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
    done = ::ftruncate(file_, off_t(bytes));
  if (done != 0) fail_with(detail::concat("taking ", bytes, " bytes").c_str(), errno);
}

void FileWriter::write(const void* bytes, size_t n) {
  write_at(at_, bytes, n);
  at_ += n;
}

void FileWriter::write_at(size_t offset, const void* bytes, size_t n) {
  require(file_ >= 0, path_, ": written to after the file was closed");
  const char* at = static_cast<const char*>(bytes);
  while (n > 0) {
    const ssize_t done = ::pwrite(file_, at, std::min(n, size_t(1) << 30), off_t(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_with("writing", errno);
    if (done == 0) fail_with("writing", ENOSPC);
    at += done;
    n -= size_t(done);
    offset += size_t(done);
    written_ += size_t(done);
  }
}

void FileWriter::sync() {
  require(file_ >= 0, path_, ": synced after the file was closed");
  if (::fsync(file_) != 0) fail_with("syncing", errno);
}

void FileWriter::commit() {
  require(owner_, path_, ": committed by a process that did not make it");
  sync();
  const char* doing = "closing";
  bool done = ::close(std::exchange(file_, -1)) == 0;
  if (done) {
    doing = "renaming";
    done = ::rename(aside_.c_str(), path_.c_str()) == 0;
  }
  if (!done) {
    const int error = errno;
    ::unlink(aside_.c_str());
    fail_with(doing, error);
  }
  sync_folder(folder_of(path_));
}

namespace {

constexpr const char* kTaken = ": exists already; a new folder was wanted";

/// Renames a folder to a name that must be free; false, and errno, where it cannot.
bool rename_to_free(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS) return false;
  // A file system without that flag: a folder takes the place of an empty one at most.
  if (path_exists(to)) {
    errno = EEXIST;
    return false;
  }
  return ::rename(from.c_str(), to.c_str()) == 0;
}

}  // namespace

FoldersAbove::FoldersAbove(const std::string& path) {
  const std::string folder = folder_of(path);
  for (std::string at = folder; !path_exists(at); at = folder_of(at)) made_.push_back(at);
  make_directories(folder);
}

FoldersAbove::~FoldersAbove() {
  for (const std::string& folder : made_) ::rmdir(folder.c_str());
}

FolderWriter::FolderWriter(const std::string& path) : path_(path) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  if (path_exists(path_)) throw FileError(path_, kTaken);
  above_ = std::make_unique<FoldersAbove>(path_);
  int made = -1;
  for (int attempt = 0; attempt < 100 && made != 0; ++attempt) {
    aside_ = name_beside(path_);
    made = ::mkdir(aside_.c_str(), 0777);
    if (made != 0 && errno != EEXIST) break;
  }
  if (made != 0) throw FileError(path_, ": cannot be created: ", text_of(errno));
}

FolderWriter::~FolderWriter() {
  if (aside_.empty()) return;
  std::error_code ignored;
  fs::remove_all(aside_, ignored);
}

void FolderWriter::fill(const std::function<void()>& write) const try {
  write();
} catch (const FileError& error) {
  std::string message = error.what();
  for (size_t at = 0; (at = message.find(aside_, at)) != message.npos; at += path_.size())
    message.replace(at, aside_.size(), path_);
  throw FileError(message);
}

void FolderWriter::commit() {
  require(!aside_.empty(), path_, ": committed twice");
  sync_folder(aside_);
  if (!rename_to_free(aside_, path_)) {
    if (errno == EEXIST) throw FileError(path_, kTaken);
    throw FileError(path_, ": cannot be renamed into place: ", text_of(errno));
  }
  aside_.clear();
  sync_folder(folder_of(path_));
}

void write_file(const std::string& path, std::string_view bytes) {
  FileWriter file(path);
  file.write(bytes);
  file.commit();
}

std::string read_file(const std::string& path) {
  return std::string(MappedFile::open(path)->text());
}

std::vector<std::string> list_files(const std::string& folder,
                                    const std::function<bool(const std::string& path)>& leave_out) {
  std::vector<std::string> files;
  std::error_code error;
  auto hidden = [](const fs::path& path) { return path.filename().string().starts_with("."); };
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    std::error_code gone;  // a link to nothing is no file
    const bool is_file = at->is_regular_file(gone);
    const bool is_folder = at->is_directory(gone);  // or a link to one, which is not followed
    if (hidden(at->path()) ||
        (leave_out && (is_file || is_folder) && leave_out(at->path().string()))) {
      at.disable_recursion_pending();
      continue;
    }
    if (is_file) files.push_back(at->path().string());
  }
  if (error) throw FileError(folder, ": cannot be listed: ", error.message());
  std::sort(files.begin(), files.end());
  return files;
}

bool path_exists(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0;
}

bool file_exists(const std::string& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

bool folder_exists(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

void make_directories(const std::string& path) {
  if (folder_exists(path)) return;
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw FileError(path, ": folder cannot be made: ", error.message());
  if (!folder_exists(path))
    throw FileError(path, ": folder cannot be made: a file of this name exists");
}

void move_into_place(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw FileError(from, ": cannot be renamed to ", to, ": ", text_of(errno));
  sync_folder(folder_of(to));
}

void remove_all(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw FileError(path, ": cannot be removed: ", error.message());
}

void sync_folder(const std::string& folder) {
  const Descriptor opened{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (opened.fd < 0) throw FileError(folder, ": cannot be opened: ", text_of(errno));
  // Some file systems do not sync folders and say so with EINVAL.
  if (::fsync(opened.fd) != 0 && errno != EINVAL)
    throw FileError(folder, ": cannot be synced: ", text_of(errno));
}

std::string hash_hex(std::string_view bytes) {
  const uint64_t hash = XXH3_64bits(bytes.data(), bytes.size());
  std::string hex(16, '0');
  for (int i = 0; i < 16; ++i) hex[size_t(i)] = "0123456789abcdef"[(hash >> (60 - 4 * i)) & 15];
  return hex;
}

}  // namespace olm
