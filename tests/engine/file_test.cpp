#include <doctest/doctest.h>

#include <olm/engine/file.h>
#include <sys/stat.h>
#include <tests/support/temp_folder.h>
#include <filesystem>

#include <algorithm>

using namespace olm;
using namespace olm::test;

TEST_SUITE("engine/file") {
  TEST_CASE("what is written is read back, and replaced as a whole") {
    const TempFolder folder;
    const std::string path = folder / "a.bin";
    write_file(path, std::string_view("one\0two", 7));
    CHECK(read_file(path) == std::string("one\0two", 7));
    const auto map = MappedFile::open(path);
    write_file(path, "three");
    CHECK(read_file(path) == "three");
    CHECK(map->text() == std::string_view("one\0two", 7));  // the old file lives on in its map
    CHECK(folder.entries() == 1);
  }

  TEST_CASE("an empty file maps to nothing") {
    const TempFolder folder;
    CHECK(MappedFile::open(folder.file("empty", ""))->size() == 0);
    CHECK(read_file(folder / "empty") == "");
  }

  TEST_CASE("a write into a map stays in memory") {
    const TempFolder folder;
    const std::string path = folder.file("a", "abc");
    MappedFile::open(path)->data()[0] = std::byte('x');
    CHECK(read_file(path) == "abc");
  }

  TEST_CASE("missing files, folders and pipes are refused by name") {
    const TempFolder folder;
    auto open = [](const std::string& path) {
      return message_of<FileError>([&] { MappedFile::open(path); });
    };
    CHECK(open(folder / "none") ==
          (folder / "none") + ": cannot be opened: No such file or directory");
    CHECK(contains(open(folder.path()), "is a folder"));
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    CHECK(contains(open(folder / "pipe"), "regular file was wanted"));
    CHECK(contains(message_of<FileError>([&] { write_file(folder.path(), "x"); }), "a folder"));
    CHECK(contains(message_of<FileError>([&] { write_file(folder / "pipe", "x"); }),
                   "not a regular file"));
    CHECK(contains(message_of<FileError>([&] { write_file(folder / "no/where", "x"); }),
                   "cannot be created: No such file"));
  }

  TEST_CASE("a full disk leaves the old file and no part of the new one") {
    const TempFolder folder;
    const std::string path = folder.file("model", "the old bytes");
    std::string message;
    {
      const FileSizeLimit limit(1000);
      message = message_of<FileError>([&] { write_file(path, std::string(5000, 'x')); });
    }
    CHECK(contains(message, path));
    CHECK(contains(message, "after 1000 bytes: File too large"));
    CHECK(read_file(path) == "the old bytes");
    CHECK(folder.entries() == 1);
  }

  TEST_CASE("a folder appears whole, under a free name") {
    const TempFolder folder;
    const std::string path = folder / "a/b/";
    {
      FolderWriter writer(path);
      write_file(writer / "x", "bytes");
      CHECK(!folder_exists(folder / "a/b"));
      writer.commit();
    }
    CHECK(read_file(folder / "a/b/x") == "bytes");
    CHECK(list_files(folder / "a").size() == 1);
    const auto refusal = [&](const std::string& taken) {
      return message_of<FileError>([&] { FolderWriter writer(taken); });
    };
    CHECK(contains(refusal(folder / "a/b"), "a/b: exists already; a new folder was wanted"));
    CHECK(contains(refusal(folder.file("file", "")), "exists already"));
    std::filesystem::create_symlink("nowhere", folder / "link");
    CHECK(contains(refusal(folder / "link"), "exists already"));
    CHECK(contains(refusal(folder / "file/below"), "folder cannot be made"));
  }

  TEST_CASE("a folder that is not finished leaves nothing, and its errors name the target") {
    const TempFolder folder;
    std::string message;
    { FolderWriter writer(folder / "made/for/new"); }
    {
      FolderWriter writer(folder / "new");
      write_file(writer / "first", "bytes");
      const FileSizeLimit limit(1000);
      message = message_of<FileError>(
          [&] { writer.fill([&] { write_file(writer / "second", std::string(5000, 'x')); }); });
    }
    CHECK(message.starts_with((folder / "new/second") + ": writing failed after 1000 bytes"));
    CHECK(folder.entries() == 0);
    FolderWriter writer(folder / "new");
    std::filesystem::create_directory(folder / "new");  // meanwhile, by somebody else
    CHECK(contains(message_of<FileError>([&] { writer.commit(); }), "exists already"));
  }

  TEST_CASE("a writer without commit leaves nothing") {
    const TempFolder folder;
    { FileWriter(folder / "a").write("bytes"); }
    CHECK(folder.entries() == 0);
  }

  TEST_CASE("files are listed at any depth, sorted, without hidden ones") {
    const TempFolder folder;
    for (const char* name : {"b.txt", "a/z.txt", "a/b/c.txt", ".git/x", "a/.hidden", "B.txt"})
      folder.file(name, "x");
    const std::vector<std::string> wanted = {folder / "B.txt", folder / "a/b/c.txt",
                                             folder / "a/z.txt", folder / "b.txt"};
    CHECK(list_files(folder.path()) == wanted);
    std::filesystem::create_directory_symlink(folder / "a", folder / "link");
    std::vector<std::string> asked;
    const std::vector<std::string> rest = list_files(folder.path(), [&](const std::string& path) {
      asked.push_back(path);
      return path == folder / "a/b" || path == folder / "B.txt";
    });
    CHECK(rest == std::vector<std::string>{folder / "a/z.txt", folder / "b.txt"});
    std::sort(asked.begin(), asked.end());
    CHECK(asked == std::vector<std::string>{folder / "B.txt", folder / "a", folder / "a/b",
                                            folder / "a/z.txt", folder / "b.txt", folder / "link"});
    CHECK(contains(message_of<FileError>([&] { list_files(folder / "none"); }),
                   "cannot be listed: No such file"));
  }

  TEST_CASE("folders are made with what is above them") {
    const TempFolder folder;
    make_directories(folder / "a/b/c");
    make_directories(folder / "a/b/c");
    CHECK(folder_exists(folder / "a/b/c"));
    folder.file("file", "");
    CHECK(file_exists(folder / "file"));
    CHECK(contains(message_of<FileError>([&] { make_directories(folder / "file/x"); }),
                   "folder cannot be made"));
    CHECK(contains(message_of<FileError>([&] { make_directories(folder / "file"); }),
                   "folder cannot be made"));
  }

  TEST_CASE("a folder is renamed into place and removed") {
    const TempFolder folder;
    folder.file("aside/x", "1");
    move_into_place(folder / "aside", folder / "final");
    CHECK(read_file(folder / "final/x") == "1");
    CHECK_THROWS_AS(move_into_place(folder / "aside", folder / "final2"), FileError);
    remove_all(folder / "final");
    remove_all(folder / "final");
    CHECK(folder.entries() == 0);
  }

  TEST_CASE("hashes are those of XXH3") {
    CHECK(hash_hex("") == "2d06800538d394c2");
    CHECK(hash_hex("a") != hash_hex("b"));
  }
}
