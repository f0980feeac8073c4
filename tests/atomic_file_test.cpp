// SPDX-License-Identifier: MIT
#include "host/files/atomic_file.hpp"

#include <nca/error.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/temporary_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;
using nca::IoError;
using nca::test::message_of;
using nca::test::read_bytes;
using nca::test::TemporaryDirectory;
using nca::test::write_bytes;
using Bytes = std::vector<std::uint8_t>;
using Names = std::vector<std::string>;

const Bytes old_contents = {'o', 'l', 'd'};
const Bytes new_contents = {'n', 'e', 'w', 'e', 'r'};

// Lets no file of this process grow beyond so many bytes, as a full disk would.
class FileSizeLimit {
public:
    explicit FileSizeLimit(rlim_t bytes) {
        old_action_ = std::signal(SIGXFSZ, SIG_IGN);
        ::getrlimit(RLIMIT_FSIZE, &old_limit_);
        const rlimit limit = {bytes, old_limit_.rlim_max};
        ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ~FileSizeLimit() {
        ::setrlimit(RLIMIT_FSIZE, &old_limit_);
        std::signal(SIGXFSZ, old_action_);
    }
    FileSizeLimit(const FileSizeLimit&) = delete;
    FileSizeLimit& operator=(const FileSizeLimit&) = delete;

private:
    rlimit old_limit_ = {};
    void (*old_action_)(int) = nullptr;
};

}  // namespace

TEST_CASE("what is written is read again") {
    const TemporaryDirectory folder;
    Bytes contents(100000);
    for (std::size_t i = 0; i < contents.size(); ++i) contents[i] = std::uint8_t(i * i);
    nca::write_file(folder / "file", contents);
    REQUIRE(nca::read_file(folder / "file", contents.size()) == contents);
    nca::write_file(folder / "empty", {});
    REQUIRE(nca::read_file(folder / "empty", 0).empty());
    REQUIRE(folder.names() == Names{"empty", "file"});
}

TEST_CASE("writing replaces a file and keeps its permissions") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    ::chmod((folder / "file").c_str(), 0640);
    nca::write_file(folder / "file", new_contents);
    REQUIRE(read_bytes(folder / "file") == new_contents);
    struct stat status = {};
    REQUIRE(::stat((folder / "file").c_str(), &status) == 0);
    REQUIRE((status.st_mode & 07777) == 0640);
    REQUIRE(folder.names() == Names{"file"});
}

TEST_CASE("setuid and its like are not copied onto a new file") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    ::chmod((folder / "file").c_str(), 07755);
    nca::write_file(folder / "file", new_contents);
    struct stat status = {};
    REQUIRE(::stat((folder / "file").c_str(), &status) == 0);
    REQUIRE((status.st_mode & 07777) == 0755);
}

TEST_CASE("a name as long as the file system allows can be written") {
    const TemporaryDirectory folder;
    const std::string name(255, 'n');
    nca::write_file(folder / name, new_contents);
    REQUIRE(read_bytes(folder / name) == new_contents);
}

TEST_CASE("a leftover of a crash is neither used nor removed") {
    const TemporaryDirectory folder;
    const std::string leftover = ".nca-" + std::to_string(::getpid()) + "-0.tmp";
    write_bytes(folder / leftover, old_contents);
    nca::write_file(folder / "file", new_contents);
    REQUIRE(read_bytes(folder / "file") == new_contents);
    REQUIRE(read_bytes(folder / leftover) == old_contents);
    REQUIRE(folder.names() == Names{leftover, "file"});
}

TEST_CASE("asking whether a path can be written removes what killed processes left there") {
    const TemporaryDirectory folder;
    const fs::path dead = folder / ".nca-4194305-0.tmp";
    const fs::path in_use = folder / ".nca-4194305-1.tmp";
    const Names others = {".nca-.tmp", ".nca-1-2.tmp.x", ".nca-1.tmp", ".nca-a-1.tmp",
                          "x.nca-1-2.tmp"};
    for (const fs::path& path : {dead, in_use}) write_bytes(path, old_contents);
    for (const std::string& name : others) write_bytes(folder / name, old_contents);
    write_bytes(folder / "file", old_contents);
    fs::create_symlink("file", folder / ".nca-4194305-2.tmp");
    REQUIRE(::mkfifo((folder / ".nca-4194305-3.tmp").c_str(), 0600) == 0);
    const int descriptor = ::open(in_use.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(::flock(descriptor, LOCK_EX) == 0);

    nca::require_writable(folder / "model");
    REQUIRE_FALSE(fs::exists(dead));
    REQUIRE(fs::exists(in_use));
    for (const std::string& name : others) REQUIRE(fs::exists(folder / name));
    REQUIRE(fs::is_symlink(folder / ".nca-4194305-2.tmp"));
    REQUIRE(fs::is_fifo(folder / ".nca-4194305-3.tmp"));
    REQUIRE(read_bytes(folder / "file") == old_contents);
    ::close(descriptor);
    nca::require_writable(folder / "model");
    REQUIRE_FALSE(fs::exists(in_use));
}

TEST_CASE("a growing file has the permissions and the place of the old one") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    ::chmod((folder / "file").c_str(), 0600);
    fs::create_symlink("file", folder / "link");
    nca::GrowingFile file(folder / "link", "first\n");
    file.append("second\n");
    REQUIRE(read_bytes(folder / "file").size() == 6);  // the second is in the buffer
    REQUIRE(file.flush());
    REQUIRE(read_bytes(folder / "file").size() == 13);
    file.append("third\n");
    REQUIRE(file.sync());
    REQUIRE(read_bytes(folder / "file").size() == 19);
    REQUIRE(fs::is_symlink(folder / "link"));
    struct stat status = {};
    REQUIRE(::stat((folder / "file").c_str(), &status) == 0);
    REQUIRE((status.st_mode & 07777) == 0600);
    REQUIRE(folder.names() == Names{"file", "link"});
}

TEST_CASE("a growing file on a full disk says so once") {
    const TemporaryDirectory folder;
    nca::GrowingFile file(folder / "file", "first\n");
    {
        const FileSizeLimit limit(1000);
        file.append(std::string(100000, 'x'));
        REQUIRE_FALSE(file.sync());
    }
    file.append("more");
    REQUIRE(file.flush());
    REQUIRE(file.sync());
    REQUIRE(read_bytes(folder / "file").size() <= 1000);
}

TEST_CASE("two paths are equal once resolved where they name one file") {
    const TemporaryDirectory folder;
    const fs::path before = fs::current_path();
    fs::create_directory(folder / "sub");
    fs::create_directory_symlink("sub", folder / "link to sub");
    write_bytes(folder / "file", old_contents);
    fs::create_symlink("file", folder / "link");
    fs::create_symlink("loop", folder / "loop");
    fs::current_path(folder.path());
    const std::pair<fs::path, fs::path> same[] = {
        {"file", folder / "file"},
        {"file", "./file"},
        {"file", "sub/../file"},
        {"file", "link"},
        {"file", "link to sub/../file"},
        {"new", folder / "new"},
        {"new", "sub/../new"},
        {"sub/new", "link to sub/new"},
        {"missing/new", "./missing/new"},
        {folder / "missing/a/b", "missing/a/b"},
    };
    const std::pair<fs::path, fs::path> different[] = {
        {"file", "new"},
        {"new", "newer"},
        {"file", "sub/file"},
        {"missing/a", "missing/b"},
        {"file/a", "file/b"},
        {"loop/a", "loop/b"},
        {"loop", "file"},
        {"new", "missing/../new"},
        {std::string(300, 'a'), std::string(300, 'b')},
    };
    for (const auto& [a, b] : same) {
        INFO(a << " " << b);
        CHECK(nca::resolved(a) == nca::resolved(b));
    }
    for (const auto& [a, b] : different) {
        INFO(a << " " << b);
        CHECK(nca::resolved(a) != nca::resolved(b));
    }
    fs::current_path(before);
}

TEST_CASE("writing through a link replaces the file and not the link") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    fs::create_symlink("file", folder / "link");
    nca::write_file(folder / "link", new_contents);
    REQUIRE(fs::is_symlink(folder / "link"));
    REQUIRE(read_bytes(folder / "file") == new_contents);
}

TEST_CASE("a link to a file that is not there is refused and stays") {
    const TemporaryDirectory folder;
    fs::create_symlink("nothing", folder / "link");
    REQUIRE_THROWS_AS(nca::write_file(folder / "link", new_contents), nca::IoError);
    REQUIRE_THROWS_AS(nca::require_writable(folder / "link"), nca::IoError);
    REQUIRE(folder.names() == Names{"link"});
}

TEST_CASE("asking whether a path can be written changes nothing") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    nca::require_writable(folder / "file");
    nca::require_writable(folder / "new");
    REQUIRE_THROWS_AS(nca::require_writable(folder.path()), nca::IoError);
    REQUIRE_THROWS_AS(nca::require_writable(folder / "no/file"), nca::IoError);
    REQUIRE(read_bytes(folder / "file") == old_contents);
    REQUIRE(folder.names() == Names{"file"});
}

TEST_CASE("a relative path without a folder is written to the current one") {
    const TemporaryDirectory folder;
    const fs::path before = fs::current_path();
    fs::current_path(folder.path());
    nca::write_file("file", new_contents);
    fs::current_path(before);
    REQUIRE(read_bytes(folder / "file") == new_contents);
}

TEST_CASE("a disk that fills up leaves the old file and nothing else") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    const Bytes large(200000, 1);
    std::string message;
    {
        const FileSizeLimit limit(100000);
        message = message_of<IoError>([&] { nca::write_file(folder / "file", large); });
    }
    REQUIRE_THAT(message, ContainsSubstring((folder / "file").string()) &&
                              ContainsSubstring("free some space"));
    REQUIRE(read_bytes(folder / "file") == old_contents);
    REQUIRE(folder.names() == Names{"file"});
}

TEST_CASE("a folder that may not be written is named with the way out") {
    const TemporaryDirectory folder;
    if (::geteuid() == 0) {
        // Permission bits do not bind root, but nobody makes files in /proc.
        const auto message =
            message_of<IoError>([] { nca::write_file("/proc/self/nca_test_model", new_contents); });
        REQUIRE_THAT(message, ContainsSubstring("cannot write /proc/self/nca_test_model: "));
        return;
    }
    ::chmod(folder.path().c_str(), 0555);
    const auto message =
        message_of<IoError>([&] { nca::write_file(folder / "file", new_contents); });
    ::chmod(folder.path().c_str(), 0755);
    REQUIRE_THAT(message, ContainsSubstring("choose a folder that you may write to"));
    REQUIRE(folder.names().empty());
}

TEST_CASE("targets that cannot be written are refused with the way out") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    fs::create_directory(folder / "folder");
    const auto refused = [&](const fs::path& path) {
        return message_of<IoError>([&] { nca::write_file(path, new_contents); });
    };
    REQUIRE_THAT(refused(folder / "folder"),
                 ContainsSubstring("it is a folder; name a file in it"));
    REQUIRE_THAT(refused(folder / "missing/file"), ContainsSubstring("create the folder"));
    REQUIRE_THAT(refused(folder / "file/file"), ContainsSubstring("is not a folder"));
    REQUIRE_THAT(refused(folder / "folder/"), ContainsSubstring("the file name is missing"));
    REQUIRE_THAT(refused(""), ContainsSubstring("the file name is missing"));
    REQUIRE_THAT(refused("/dev/null"), ContainsSubstring("not a regular file"));
    REQUIRE_THAT(refused(folder / std::string(256, 'n')), ContainsSubstring("shorter name"));
    REQUIRE_THAT(refused(folder / std::string("file\0.png", 9)),
                 ContainsSubstring("NUL character"));
    REQUIRE_THROWS_AS(nca::require_writable(folder / std::string(256, 'n')), IoError);
    REQUIRE_THROWS_AS(nca::require_writable(folder / std::string("a\0b", 3)), IoError);
    REQUIRE(read_bytes(folder / "file") == old_contents);
    REQUIRE(folder.names() == Names{"file", "folder"});
    REQUIRE(fs::is_empty(folder / "folder"));
    REQUIRE(fs::is_character_file("/dev/null"));
}

TEST_CASE("files that cannot be read are refused with the way out") {
    const TemporaryDirectory folder;
    write_bytes(folder / "file", old_contents);
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    const auto refused = [&](const fs::path& path, std::size_t max_bytes) {
        return message_of<IoError>([&] { nca::read_file(path, max_bytes); });
    };
    REQUIRE_THAT(
        refused(folder / "missing", 10),
        ContainsSubstring((folder / "missing").string()) && ContainsSubstring("no such file"));
    REQUIRE_THAT(refused(folder.path(), 10), ContainsSubstring("it is a folder"));
    REQUIRE_THAT(refused(folder / "pipe", 10), ContainsSubstring("not a regular file"));
    REQUIRE_THAT(refused(folder / std::string("file\0x", 6), 10),
                 ContainsSubstring("NUL character"));
    REQUIRE_THAT(refused("/dev/zero", 10), ContainsSubstring("not a regular file"));
    REQUIRE_THAT(refused(folder / "file/file", 10), ContainsSubstring("Not a directory"));
    REQUIRE_THAT(refused(folder / "file", 2),
                 ContainsSubstring("it has 3 bytes, expected at most 2"));
    REQUIRE(nca::read_file(folder / "file", 3) == old_contents);
}
