#pragma once
// Files: mapped for reading, written aside and renamed into place, listed in a fixed order.
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <olm/kernels/base/error.h>

namespace olm {

/// A file mapped into memory. Pages are private: writing to them never reaches the file. The file
/// must not shrink while it is mapped; replacing it by a rename is harmless.
class OLM_API MappedFile {
 public:
  /// Throws FileError unless `path` is a regular file that can be read.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  /// Gives the pages that lie within a range back to the system; they are read from the file again
  /// where they are used, without what was written to them.
  void release(size_t begin, size_t bytes) const;

 private:
  MappedFile(std::string path, std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// A file in the making, under a new name in the folder of `path`. `commit` syncs it, renames it to
/// `path` and syncs the folder, so that `path` holds the old bytes or the new ones and never a
/// part. Without `commit`, or after an error, nothing stays behind. Every failure is a FileError.
class OLM_API FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  /// Another process's, which made it under the name `aside` and commits it: this one writes parts
  /// of it, and syncs them.
  FileWriter(const std::string& path, const std::string& aside);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  /// Where it is before commit().
  const std::string& aside() const { return aside_; }
  /// Makes it this long, of zeros; the space is taken now where the file system can.
  void reserve(size_t bytes);
  void write(const void* bytes, size_t n);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Writes from byte `offset` on, wherever write() is.
  void write_at(size_t offset, const void* bytes, size_t n);
  void sync();
  void commit();

 private:
  [[noreturn]] void fail_with(const char* doing, int error);
  void close();
  std::string path_, aside_;
  bool owner_ = true;
  int file_ = -1;
  size_t at_ = 0;       // of write()
  size_t written_ = 0;  // in all
};

/// Makes the folders that are missing above a path. In the end those that were made and still hold
/// nothing are removed.
class OLM_API FoldersAbove {
 public:
  explicit FoldersAbove(const std::string& path);
  ~FoldersAbove();
  FoldersAbove(const FoldersAbove&) = delete;
  FoldersAbove& operator=(const FoldersAbove&) = delete;

 private:
  std::vector<std::string> made_;  // the outermost last
};

/// A folder in the making, under a new name beside `path`, where files are written. `commit`
/// renames it to `path`, so that `path` is absent or whole. Without `commit` nothing stays behind.
class OLM_API FolderWriter {
 public:
  /// Makes what is missing above `path`. Throws FileError where `path` exists, whatever it is.
  explicit FolderWriter(const std::string& path);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  /// Where it is before commit(), and the path of a file in it.
  const std::string& path() const { return aside_; }
  std::string operator/(std::string_view name) const { return aside_ + "/" + std::string(name); }
  /// Does `write`; a FileError then names files by what they would have been called.
  void fill(const std::function<void()>& write) const;
  /// Throws FileError where `path` came into being meanwhile.
  void commit();

 private:
  std::string path_, aside_;
  std::unique_ptr<const FoldersAbove> above_;
};

/// Writes a whole file through FileWriter.
OLM_API void write_file(const std::string& path, std::string_view bytes);
/// The bytes of a whole file.
OLM_API std::string read_file(const std::string& path);

/// The regular files below `folder`, at any depth, sorted by path byte by byte. Hidden files and
/// folders (a leading dot) are left out; links to folders are not followed. `leave_out` is asked
/// about each other file, folder and link to a folder: true leaves it out with all it holds.
OLM_API std::vector<std::string> list_files(
    const std::string& folder, const std::function<bool(const std::string& path)>& leave_out = {});
/// True where something is called so, a link to nothing as well.
OLM_API bool path_exists(const std::string& path);
OLM_API bool file_exists(const std::string& path);
OLM_API bool folder_exists(const std::string& path);
/// Makes `path` and what is missing above it; a folder that is there already is fine.
OLM_API void make_directories(const std::string& path);
/// Renames a file or folder and syncs the folder it is in. `from` and `to` share a file system.
OLM_API void move_into_place(const std::string& from, const std::string& to);
/// Removes a file, or a folder with all it holds; nothing happens where there is none.
OLM_API void remove_all(const std::string& path);
/// Waits until the entries of a folder are on the disk.
OLM_API void sync_folder(const std::string& folder);

/// The 64-bit XXH3 hash of some bytes, as 16 hexadecimal digits.
OLM_API std::string hash_hex(std::string_view bytes);

}  // namespace olm
